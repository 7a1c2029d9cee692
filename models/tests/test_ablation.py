"""The rows of the paper's table 1 are what they are called: each against its definition, computed directly."""

from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import elu

from kernels.rotary import rotate
from models.layers import Rope
from models.linear_attention import LinearAttention
from models.lm import LM
from models.mixer import Size
from models.tests.conftest import CONF, build_model, perturb
from models.tests.counted import Count
from models.tests.naive import logits
from models.tests.test_cost import measured
from models.tests.test_inference_law import LENGTH, VOCAB
from models.tests.test_inference_law import (  # noqa: F401
    test_prefill_then_steps_at_every_split as test_the_law_of_inference_at_every_split,
)
from models.ttt import TTT

SIZE = Size(width=8, layers=1, heads=2, ffn=12)
ROWS = sorted(f"ablation/{path.stem}" for path in (CONF / "ablation").glob("*.yaml"))
FORMS = {"original": "linear_attention", "improved": "linear_attention_improved", "learned_start": "learned_start"}


@pytest.fixture(params=ROWS)
def model(request: pytest.FixtureRequest) -> LM:
    torch.manual_seed(0)
    return perturb(build_model(request.param, SIZE, VOCAB, mini_batch=LENGTH if "inner_norm" in request.param else 4))


def mixer_of(name: str, **options: Any) -> tuple[Any, Float[Tensor, "B T D"]]:
    torch.manual_seed(0)
    x = torch.randn(2, 9, SIZE.width, dtype=torch.float64)
    return perturb(build_model(f"ablation/{name}", SIZE, VOCAB, **options)).mixers[0], x


def views(mixer: LinearAttention | TTT, x: Tensor) -> list[Float[Tensor, "B H T F"]]:
    tables = Rope(mixer.head_dim, 10_000.0, x.shape[1])(torch.arange(x.shape[1]), x.dtype)
    q, k, v = (p(x).unflatten(-1, (mixer.heads, mixer.head_dim)) for p in (mixer.q, mixer.k, mixer.v))
    return [y.transpose(1, 2) for y in (rotate(q, tables), rotate(k, tables), v)]


def after(mixer: LinearAttention | TTT, mixed: Float[Tensor, "B H T F"]) -> Float[Tensor, "B T D"]:
    return mixer.o(mixer.post_norm(mixed.transpose(1, 2).flatten(2)))


def descended(mixer: LinearAttention | TTT, x: Tensor, start: Tensor) -> Float[Tensor, "B T D"]:
    """q_t W_t, with W_t after one step of eta = 1/2 down |k W - v|^2, summed over the tokens up to t, from ``start``."""
    q, k, v = views(mixer, x)
    outs = []
    for t in range(x.shape[1]):
        w = start.detach().expand(x.shape[0], *start.shape).clone().requires_grad_()
        (k[:, :, : t + 1] @ w - v[:, :, : t + 1]).square().sum().backward(retain_graph=True)
        assert w.grad is not None
        outs.append(q[:, :, t : t + 1] @ (w - 0.5 * w.grad))
    return after(mixer, torch.cat(outs, dim=2))


def test_the_original_is_phi_and_a_normaliser() -> None:
    mixer, x = mixer_of("linear_attention")
    q, k, v = views(mixer, x)
    scores = ((elu(q) + 1) @ (elu(k) + 1).transpose(2, 3)).tril()
    torch.testing.assert_close(mixer(x), after(mixer, scores @ v / (scores.sum(-1, keepdim=True) + mixer.eps)))


def test_the_improved_one_is_ttt_by_batch_descent_from_zero() -> None:
    mixer, x = mixer_of("linear_attention_improved")
    q, k, v = views(mixer, x)
    torch.testing.assert_close(mixer(x), after(mixer, (q @ k.transpose(2, 3)).tril() @ v))
    torch.testing.assert_close(mixer(x), descended(mixer, x, torch.zeros(2, 4, 4, dtype=torch.float64)))


def test_a_learned_start_is_where_the_descent_begins() -> None:
    mixer, x = mixer_of("learned_start")
    torch.testing.assert_close(mixer(x), descended(mixer, x, mixer.start))
    assert any(p is mixer.start for p in mixer.parameters())


@pytest.mark.parametrize(("name", "mini_batch"), [("inner_norm", 9), ("mini_batch", 4)])
def test_a_fixed_rate_is_the_same_for_every_pair_and_no_parameter(name: str, mini_batch: int) -> None:
    """Every token's gradient, at the weights of its mini-batch's start, moves W and b by base_lr times itself."""
    mixer, x = mixer_of(name, mini_batch=mini_batch)
    assert (mixer.mini_batch, mixer.learned_rate) == (mini_batch, False)
    assert not {"lr_weight", "lr_bias", "token_factor"} & {name for name, _ in mixer.named_parameters()}
    q, k, v, _ = (y.transpose(1, 2) for y in mixer.views(x))

    def f(y: Tensor, w: Tensor, b: Tensor) -> Tensor:
        normed = torch.nn.functional.layer_norm(y @ w + b, (4,), eps=mixer.eps)
        return y + normed * mixer.norm_weight[:, None] + mixer.norm_bias[:, None]

    w = mixer.inner_weights[0].detach().expand(2, -1, -1, -1).clone()
    b = mixer.inner_biases[0].detach()[:, None].expand(2, -1, -1, -1).clone()
    outs = []
    for first in range(0, x.shape[1], mini_batch):
        w, b = w.detach().requires_grad_(), b.detach().requires_grad_()
        for t in range(first, min(first + mini_batch, x.shape[1])):
            loss = 0.5 * (f(k[:, :, first : t + 1], w, b) - v[:, :, first : t + 1]).square().sum()
            dw, db = torch.autograd.grad(loss, (w, b))
            moved = w - mixer.base_lr * dw, b - mixer.base_lr * db
            outs.append(f(q[:, :, t : t + 1], *moved))
        w, b = moved
    torch.testing.assert_close(mixer(x), after(mixer, torch.cat(outs, dim=2)))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_matrix_products_of_linear_attention(form: str) -> None:
    nano = Size(width=64, layers=2, heads=2, ffn=176)
    lm, tokens = build_model(f"ablation/{FORMS[form]}", nano, 256), torch.zeros(1, 256, dtype=torch.long)
    with measured(lm) as found:
        lm.nll(tokens, tokens)
    assert 3 * found.flops == lm.cost("train", 256, "full").matmul_flops
    state = lm.init_state(1, 0)
    with measured(lm) as found:
        lm.step(tokens[:, 0], state)
    assert found.flops == lm.cost("step", 0, "full").matmul_flops


def test_every_flop_of_a_fixed_rate() -> None:
    lm, count = perturb(build_model("ablation/mini_batch", SIZE, VOCAB, 4)), Count("causal")
    found = logits(lm, list(range(8)), count)
    values = torch.tensor([[x.value for x in row] for row in found], dtype=torch.float64)
    torch.testing.assert_close(values, lm(torch.arange(8)[None])[0], rtol=0, atol=1e-10)
    train = lm.cost("train", 8, "causal")
    assert (train.matmul_flops, train.other_flops) == (3 * count.matmul, 3 * count.other)
