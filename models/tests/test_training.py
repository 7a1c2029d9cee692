"""Training in bfloat16: which dtype each operation sees, float32 weights and gradients; blocks that are computed again."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from models.lm import LM
from models.mixer import Mixer, Size, state_tensors
from models.tests.conftest import Build
from models.ttt import TTT

SIZE, VOCAB = Size(width=16, layers=2, heads=2, ffn=24), 11
WIDE, NARROW = torch.float32, torch.bfloat16
TTT_INNER = {"q": NARROW, "k": NARROW, "v": NARROW, "rho": WIDE, "tau": WIDE, "weights": WIDE, "biases": WIDE, "norm": WIDE}
# What the operation of a layer sees, in the order of its arguments
SEEN = {
    "TTT": list(TTT_INNER.values()),
    "Attention": [NARROW, NARROW, NARROW],
    "Mamba": [NARROW, NARROW, WIDE, WIDE, NARROW, NARROW, WIDE, NARROW],  # u, dt, dt_bias, a, b, c, d, z
    "Mamba2": [NARROW, NARROW, WIDE, WIDE, NARROW, NARROW, WIDE],  # x, dt, dt_bias, a, b, c, d
}
KEPT = {
    "TTT": {"inner_weights", "inner_biases", "norm_weight", "norm_bias", "token_factor", "lr_bias"},
    "Mamba": {"a_log", "d", "dt_proj.bias"},
    "Mamba2": {"a_log", "d", "dt_bias"},
}


def draw(length: int = 21) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCAB, (2, length + 1), generator=torch.Generator().manual_seed(3))
    return tokens[:, :-1], tokens[:, 1:]


def spied(mixer: Any) -> list[list[set[torch.dtype]]]:
    """Of every coming call of the mixer's operation, the dtypes of each argument."""
    calls: list[list[set[torch.dtype]]] = []
    op = mixer.op

    def forward(*arguments: Any, **named: Any) -> Tensor:
        given = (*arguments, *named.values())
        calls.append([{tensor.dtype for tensor in state_tensors(argument)} for argument in given])
        return op.forward(*arguments, **named)

    mixer.op = SimpleNamespace(**{**vars(op), "forward": forward})
    return calls


def with_an_op(lm: LM) -> list[Mixer]:
    return [mixer for mixer in lm.mixers if hasattr(mixer, "op")]


@pytest.fixture
def lm(build: Build) -> LM:
    torch.manual_seed(0)
    made = build(SIZE, VOCAB)
    with torch.no_grad():
        for parameter in made.parameters():  # so that no zero, one or equal row hides a rounding
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def twin(build: Build, lm: LM) -> LM:
    made = build(SIZE, VOCAB)
    made.load_state_dict(lm.state_dict())
    return made


def test_each_operation_sees_its_dtypes_trained_or_cast(lm: LM, twin: LM) -> None:
    for model in (lm.train_in(NARROW), twin.cast(NARROW)):
        found = [(mixer, spied(mixer)) for mixer in with_an_op(model)]
        assert found
        model.nll(*draw())
        for mixer, calls in found:
            assert calls == [[{dtype} for dtype in SEEN[type(mixer).__name__]]]


def test_every_matrix_product_of_a_layer_is_in_bfloat16(lm: LM) -> None:
    outputs: dict[str, torch.dtype] = {}

    def note(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, inputs, out: outputs.update({name: inputs[0].dtype, name + ".out": out.dtype}))

    for name, module in lm.named_modules():
        if isinstance(module, nn.Linear):
            note(name, module)
    lm.train_in(NARROW).nll(*draw())
    wide = {name for name, dtype in outputs.items() if dtype != NARROW}
    assert len(outputs) > 8
    assert {name.split("mixer.")[-1] for name in wide} <= {"dt_proj.out"}  # the bias of dt is float32


def test_training_in_a_dtype_computes_what_a_model_cast_to_it_does(lm: LM, twin: LM) -> None:
    trained, cast, exact = lm.train_in(NARROW).nll(*draw()), twin.cast(NARROW).nll(*draw()), lm.train_in(WIDE).nll(*draw())
    assert torch.equal(trained, cast)
    assert trained.dtype == WIDE
    assert not torch.equal(trained, exact)
    torch.testing.assert_close(trained, exact, rtol=0, atol=0.2)


def test_what_is_kept_wide_is_marked(lm: LM) -> None:
    lm.cast(NARROW)
    for mixer in lm.mixers:
        kept = {name for name, p in mixer.named_parameters() if p.dtype == WIDE}
        assert {name.removesuffix(".0").removesuffix(".1") for name in kept} == KEPT.get(type(mixer).__name__, set())
    assert lm.head.weight is lm.embedding.weight
    assert {p.dtype for p in lm.cast(torch.float64).parameters()} == {torch.float64}


def test_weights_and_gradients_are_float32(lm: LM, twin: LM) -> None:
    lm.train_in(NARROW).nll(*draw()).mean().backward()
    twin.nll(*draw()).mean().backward()
    assert {(p.dtype, p.grad.dtype) for p in lm.parameters() if p.grad is not None} == {(WIDE, WIDE)}
    found, expected = (torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (lm, twin))
    assert (found - expected).norm() < 0.1 * expected.norm()


def halves(lm: LM) -> Iterator[Tensor]:
    lm.zero_grad()
    yield lm.nll(*draw()).detach()
    lm.nll(*draw()).mean().backward()
    yield from (p.grad.clone() for p in lm.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [WIDE, NARROW])
def test_a_block_computed_again_gives_the_same_gradients_and_runs_twice(lm: LM, dtype: torch.dtype) -> None:
    kept = list(halves(lm.train_in(dtype)))
    lm.train_in(dtype, recompute=True)
    calls = [spied(mixer) for mixer in with_an_op(lm)]
    again = list(halves(lm))
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert {len(call) for call in calls} == {3}  # once without a backward pass, twice with one
    with torch.no_grad():
        lm.nll(*draw())
    assert {len(call) for call in calls} == {4}


@pytest.mark.parametrize("inner", ["linear", "mlp"])
def test_a_triton_layer_computed_again_gives_the_gradients_of_the_reference(inner: Literal["linear", "mlp"]) -> None:
    """Without a GPU interpreted; what the kernels keep for the backward pass is kept once, by the second forward."""
    found, device = [], "cuda" if torch.cuda.is_available() else "cpu"
    for impl, recompute in (("reference", False), ("triton", False), ("triton", True)):
        torch.manual_seed(0)
        layer = partial(TTT, inner=inner, backbone="mamba", base_lr=0.5, impl=impl)
        lm = LM(VOCAB, Size(width=16, layers=2, heads=1, ffn=8), [layer]).to(device).train_in(WIDE, recompute=recompute)
        calls = [spied(mixer) for mixer in lm.mixers]
        lm.nll(*(x.to(device) for x in draw())).mean().backward()
        assert {len(call) for call in calls} == {2 if recompute else 1}
        found.append([p.grad for p in lm.parameters() if p.grad is not None])
    for expected, plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)
        torch.testing.assert_close(plain, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [WIDE, NARROW])
def test_a_likelihood_in_chunks_has_the_gradients_of_the_whole(
    lm: LM, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    lm.head.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    whole = list(halves(lm.train_in(dtype)))
    monkeypatch.setattr("models.lm.LOGIT_CHUNK", 10)
    rows.clear()
    parts = list(halves(lm))
    assert rows == [10, 10, 10, 10, 2] * 2 + [2, 10, 10, 10, 10]  # without gradients; with them, and once more backward
    for a, b in zip(whole, parts, strict=True):
        bound = 1e-5 if dtype == WIDE else 0.02
        assert (a - b).norm() <= bound * a.norm()


def saved_bytes(lm: LM) -> int:
    """What a forward pass keeps for the backward pass, parameters apart, other than the chunks of the likelihood."""
    held = {p.data_ptr() for p in lm.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.data_ptr() not in held:
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        lm.hidden(draw()[0])
    return sum(kept.values())


def test_of_a_block_computed_again_only_the_input_is_kept(lm: LM) -> None:
    whole, narrow = saved_bytes(lm), lm.train_in(WIDE, recompute=True)
    boundary = 2 * 21 * SIZE.width * WIDE.itemsize
    assert saved_bytes(narrow) < whole / 2
    assert saved_bytes(narrow) <= (len(lm.blocks) + 4) * boundary
