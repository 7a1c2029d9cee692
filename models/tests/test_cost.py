"""Closed-form costs against counts that are not themselves: torch's FlopCounterMode, scalar loops, the paper's numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kernels import ttt_linear, ttt_mlp
from kernels.op import Case, Stepping
from models.cost import Convention, Cost, Phase
from models.lm import LM
from models.mamba import Mamba
from models.mamba2 import Mamba2
from models.mixer import Size
from models.tests.conftest import CONF, Build, build_model, load, perturb
from models.tests.counted import Count
from models.tests.naive import logits
from models.ttt import TTT

NANO = Size(width=64, layers=2, heads=2, ffn=176)
TOY = Size(width=8, layers=1, heads=2, ffn=12)
TILE = 4  # mini-batch of the toy models


class Measured:
    """Matrix-product FLOPs that torch counted, comparable with ``Cost.matmul_flops``."""

    flops: int


@contextmanager
def measured(model: LM) -> Iterator[Measured]:
    """Counts torch's matrix products: without convolutions, and without the scans' products, which Cost has among others.

    Attention runs as two products over all pairs (the "full" convention). A bmm of Mamba or Mamba-2 is the scan's.
    """
    result, counter = Measured(), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        yield result
    is_scanning = any(isinstance(mixer, (Mamba, Mamba2)) for mixer in model.mixers)
    apart = {"convolution", "convolution_backward"} | ({"bmm"} if is_scanning else set())
    result.flops = sum(n for op, n in counter.get_flop_counts()["Global"].items() if op.__name__ not in apart)


def update_flops(model: LM) -> int:
    """Matrix products that commit one mini-batch of C tokens to all inner weights, X'D of every TTT layer."""
    layers = [mixer for mixer in model.mixers if isinstance(mixer, TTT)]
    return sum(2 * layer.mini_batch * weight.numel() for layer in layers for weight in layer.inner_weights)


@pytest.mark.parametrize("context", [16, 32, 64])
def test_matrix_products_of_training(build: Build, context: int) -> None:
    """Forward and backward of the log-likelihood on meta; the head's forward runs twice (recomputed), which never counts.

    The last mini-batch's update reaches no output, so torch does not differentiate it, whereas three times the forward does:
    of the largest share, TTT-MLP's, 0.5 % at 256 tokens and the less the longer the sequence.
    """
    with torch.device("meta"):
        model, tokens = build(NANO, 256), torch.zeros(1, context, dtype=torch.long)
        with measured(model) as found:
            model.nll(tokens, tokens).sum().backward()
    recomputed = model.head_cost("train", context).matmul_flops // 3
    expected = model.cost("train", context, "full").matmul_flops - 2 * update_flops(model)
    assert found.flops - recomputed == expected


@pytest.mark.parametrize("context", [16, 32, 64])
def test_matrix_products_of_prefill(build: Build, context: int) -> None:
    """On real tensors: prefill asks for positions. Whole mini-batches: of a ragged rest the reference runs the whole tile."""
    model, tokens = build(NANO, 256), torch.zeros(1, context, dtype=torch.long)
    state = model.init_state(1, context)
    with measured(model) as found:
        model.prefill(tokens, state)
    assert found.flops == model.cost("prefill", context, "full").matmul_flops


@pytest.mark.parametrize("context", [1, 15, 31])
def test_matrix_products_of_a_step(build: Build, context: int) -> None:
    """The reference works out the update at every step and keeps it at each C-th; the closed form counts it once in C."""
    model, tokens = build(NANO, 256), torch.zeros(1, context, dtype=torch.long)
    state = model.init_state(1, context + 1)
    model.prefill(tokens, state)
    with measured(model) as found:
        model.step(tokens[:, 0], state)
    kept = update_flops(model) * 15 // 16
    assert found.flops - kept == model.cost("step", context, "causal").matmul_flops


@pytest.mark.parametrize("convention", ["causal", "full"])
def test_every_flop_of_a_sequence(build: Build, convention: Convention) -> None:
    """Scalar loops give the model's own logits, and their operations are the closed form's, one for one."""
    model, tokens = perturb(build(TOY, 11, TILE)), torch.arange(2 * TILE)
    count = Count(convention)
    found = logits(model, tokens.tolist(), count)
    values = torch.tensor([[x.value for x in row] for row in found], dtype=torch.float64)
    torch.testing.assert_close(values, model(tokens[None])[0], rtol=0, atol=1e-10)
    train, prefill = (model.cost(phase, len(tokens), convention) for phase in ("train", "prefill"))
    assert (train.matmul_flops, train.other_flops) == (3 * count.matmul, 3 * count.other)
    heads = [model.head_cost(phase, len(tokens)).flops for phase in ("train", "prefill")]
    assert prefill.flops - heads[1] == count.matmul + count.other - heads[0] // 3


def test_every_flop_of_a_cycle_of_steps(build: Build) -> None:
    """Steps of one cycle, together, cost what a sequence costs more for being one mini-batch longer."""
    model, counts = build(TOY, 11, TILE), []
    for length in (2 * TILE, 3 * TILE):
        counts.append(Count("causal"))
        logits(model, [token % 11 for token in range(length)], counts[-1])
    steps = [model.cost("step", context, "causal") for context in range(2 * TILE, 3 * TILE)]
    assert sum(step.matmul_flops for step in steps) == counts[1].matmul - counts[0].matmul
    assert sum(step.other_flops for step in steps) == counts[1].other - counts[0].other


@pytest.mark.parametrize("phase", ["train", "prefill", "step"])
def test_weight_bytes_are_those_of_the_parameters(build: Build, phase: Phase) -> None:
    """Tied, so the head's weights are the embedding's and every parameter is read."""
    for dtype in (torch.float32, torch.bfloat16):
        model = build(TOY, 11).to(dtype)
        held = sum(p.numel() * p.element_size() for p in model.parameters())
        assert model.cost(phase, 8, "causal").weight_bytes == held


def test_the_bytes_of_state_that_a_step_moves() -> None:
    """A cache is read and grows by a token, h of a scan is read and written; what TTT moves, its kernel counts too."""
    attention, mamba = (build_model(name, NANO, 11).bfloat16().mixers[0] for name in ("transformer", "mamba"))
    step = attention.cost("step", 100, "causal")
    assert step.state_traffic == attention.cost("step", 101, "causal").state_bytes - 4
    scan = mamba.cost("step", 100, "causal")
    assert scan.state_traffic == 2 * scan.state_bytes
    for name in ("ttt_linear_t", "ttt_mlp_t"):
        mixer = build_model(name, NANO, 11, impl="triton").bfloat16().mixers[0]
        assert isinstance(mixer, TTT)
        cost = mixer.cost("step", 100, "causal")
        problem = (ttt_linear if mixer.inner == "linear" else ttt_mlp).OP.problem
        assert isinstance(problem, Stepping)
        activations = 4 * NANO.width * 2
        counted = problem.step_bytes(Case(1, 1, NANO.heads, NANO.head_dim, 16, torch.bfloat16)) - activations
        assert cost.state_traffic == pytest.approx(counted, rel=0.05)
        assert cost.state_traffic < cost.state_bytes  # pairs and remainders are moved in part


@pytest.mark.parametrize("phase", ["train", "prefill"])
def test_a_prefill_writes_its_state_and_a_training_has_none(build: Build, phase: Phase) -> None:
    cost = build(TOY, 11).cost(phase, 8, "causal")
    assert cost.state_traffic == cost.state_bytes
    assert (cost.state_bytes > 0) == (phase == "prefill")


def test_costs_add_field_by_field() -> None:
    total = Cost(1, 2, 3, 4, 5) + Cost(10, 20, 30, 40, 50)
    assert total == Cost(11, 22, 33, 44, 55)
    assert total.flops == 33


# Forward GFLOP per token at a context of 2k that the paper's pairs of models imply, attention over all pairs: ttt-lm-jax gives
# the layers, the paper's figure 2 (right) the widths that it matched (5808, 5248 and Mamba's own).
PAPER = [("mamba", 5504, 2.690), ("ttt_linear", 5808, 2.677), ("ttt_mlp", 5248, 2.688), ("transformer", 5504, 2.962)]


@pytest.mark.parametrize(("name", "ffn", "gflop"), PAPER)
def test_the_papers_matched_models(name: str, ffn: int, gflop: float) -> None:
    with torch.device("meta"):
        model = build_model(name, Size(2048, 24, 32, ffn), 32_000)
    per_token = model.cost("train", 2048, "full").flops / 3 / 2048
    assert per_token / 1e9 == pytest.approx(gflop, rel=0.005)


# Of the authors' PyTorch code, and of mamba-ssm's modules in our blocks; vocabulary 32000, tied.
PARAMETERS = {
    "125m": {
        "ttt_linear_t": 110_276_688,
        "ttt_linear": 110_424_144,
        "ttt_mlp_t": 114_442_320,
        "ttt_mlp": 114_589_776,
        "mamba": 115_096_320,
        "mamba2": 114_944_448,
    },
    "350m": {
        "ttt_linear_t": 337_291_008,
        "ttt_linear": 337_684_224,
        "ttt_mlp_t": 348_399_360,
        "ttt_mlp": 348_792_576,
        "mamba": 352_797_696,
        "mamba2": 349_619_712,
    },
    "760m": {
        "ttt_linear_t": 733_018_368,
        "ttt_linear": 733_608_192,
        "ttt_mlp_t": 757_938_432,
        "ttt_mlp": 758_528_256,
        "mamba": 765_126_144,
        "mamba2": 752_070_912,
    },
    "1.3b": {
        "ttt_linear_t": 1_284_852_864,
        "ttt_linear": 1_285_639_296,
        "ttt_mlp_t": 1_307_069_568,
        "ttt_mlp": 1_307_856_000,
        "mamba": 1_334_740_992,
        "mamba2": 1_306_303_488,
    },
}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_as_in_the_authors_code(size: str) -> None:
    config = load(CONF.parent / "size" / f"{size}.yaml")
    for name, expected in PARAMETERS[size].items():
        with torch.device("meta"):
            model = build_model(name, Size(config.width, config.layers, config.heads, config.ffn), 32_000)
        assert sum(p.numel() for p in model.parameters()) == expected, name
