"""The decode kernels against the reference, token by token; on a CPU through Triton's interpreter."""

import math
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from kernels.check import RoundedOperands
from kernels.ttt import InnerState, LayerNorm, reference
from kernels.ttt_linear import step as linear
from kernels.ttt_mlp import step as mlp

BATCH, HEADS = 2, 2
EXPAND = {linear: (1, 1), mlp: (1, 4, 1)}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Case:
    """Random tokens and weights in float64, rounded to ``dtype``; row b stands b slots further than row 0."""

    def __init__(
        self, module: ModuleType, dtype: torch.dtype, head_dim: int = 16, mini_batch: int = 16, tokens: int = 20
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)

        self.module, self.dtype, self.tokens, self.size = module, dtype, tokens, mini_batch
        self.q, self.k, self.v = (draw(tokens, BATCH, HEADS, head_dim, dtype=dtype) for _ in range(3))
        self.rho, self.tau = draw(tokens, BATCH, HEADS).sigmoid() / head_dim, draw(mini_batch).sigmoid()
        shapes = list(pairwise(head_dim * e for e in EXPAND[module]))
        self.weights = tuple(draw(HEADS, i, o) / math.sqrt(i) for i, o in shapes)
        self.biases = tuple(0.1 * draw(HEADS, o) for _, o in shapes)
        self.norm = LayerNorm(1 + 0.3 * draw(HEADS, head_dim), 0.3 * draw(HEADS, head_dim))

    def start(self, dtype: torch.dtype, split: bool = False, undefined: float = math.nan) -> InnerState:
        """Row b has read b tokens whose gates were 0; further slots hold ``undefined``."""
        weights, biases = ([x.to(dtype) for x in xs] for xs in (self.weights, self.biases))
        state = InnerState.fresh(tuple(weights), tuple(biases), BATCH, self.size, split=split)
        state.position.copy_(torch.arange(BATCH))
        unread = torch.arange(self.size, device=DEVICE) >= (state.position % self.size)[:, None]
        for held in (state.rho, *state.inputs, *state.grads):
            held.transpose(1, 2)[unread] = undefined
        return state

    def run(self, module: ModuleType, dtype: torch.dtype, state: InnerState) -> dict[str, Tensor]:
        """Outputs of all tokens, and the state after them, in float64."""
        norm = LayerNorm(self.norm.weight.to(dtype), self.norm.bias.to(dtype), self.norm.eps)
        views = (x.to(dtype) for x in (self.q, self.k, self.v))
        wide = torch.promote_types(dtype, torch.float32)
        tokens = zip(*views, self.rho.to(wide), strict=True)
        found = {"out": torch.stack([module.step(*token, self.tau.to(wide), norm, state) for token in tokens])}
        found |= {f"weight {n}": x for n, x in enumerate(state.dense())}
        found |= {f"bias {n}": x for n, x in enumerate(state.biases)}
        is_open = torch.arange(self.size, device=DEVICE) < (state.position % self.size)[:, None]
        slots = (state.rho, *state.inputs, *state.grads)
        found |= {f"slots {n}": x.transpose(1, 2)[is_open] for n, x in enumerate(slots)}
        assert state.position.tolist() == [b + self.tokens for b in range(BATCH)]
        return {name: x.double() for name, x in found.items()}

    def found(self, split: bool = False) -> dict[str, Tensor]:
        return self.run(self.module, self.dtype, self.start(torch.float32, split))

    def expected(self) -> dict[str, Tensor]:
        return self.run(reference, torch.float64, self.start(torch.float64, undefined=0.0))

    def yardstick(self) -> dict[str, Tensor]:
        with RoundedOperands(torch.float16):
            return self.run(reference, torch.float32, self.start(torch.float32, undefined=0.0))


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative Frobenius errors; nothing to compare is no error."""
    return {n: float((found[n] - x).norm() / x.norm()) if x.numel() else 0.0 for n, x in expected.items()}


@pytest.fixture(params=EXPAND, ids=["linear", "mlp"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.mark.parametrize(
    ("head_dim", "mini_batch", "tokens"),
    [(16, 16, 20), (32, 1, 3), (16, 2, 4), (16, 4, 9), (24, 8, 9), (16, 32, 34), (48, 2, 3)],
)
def test_exact_form(module: ModuleType, head_dim: int, mini_batch: int, tokens: int) -> None:
    case = Case(module, torch.float32, head_dim, mini_batch, tokens)
    worst = errors(case.found(), case.expected())
    assert max(worst.values()) < 1e-5, worst


@pytest.mark.parametrize("shared", [1 << 30, 0])
def test_split_form(module: ModuleType, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 bits within the bounds of kernels/check.py: a multiple of the yardstick's error, and no more than 5e-3.

    shared: bytes of shared memory; with enough, products of TTT-MLP are those of the matrix units, else sums.
    """
    monkeypatch.setattr(mlp, "shared_memory", lambda _: shared)
    case = Case(module, torch.float16)
    expected = case.expected()
    worst, yardstick = errors(case.found(split=True), expected), errors(case.yardstick(), expected)
    for name, error in worst.items():
        assert error <= min(5e-3, 1.5 * max(yardstick[name], 2**-11)), (name, worst, yardstick)


def test_the_remainder_keeps_what_a_half_would_lose(module: ModuleType) -> None:
    """Updates far below half a unit of float16 add up."""
    case = Case(module, torch.float16, mini_batch=1, tokens=12)
    case.rho *= 1e-3
    expected = case.expected()
    state = case.start(torch.float32, split=True)
    case.run(case.module, case.dtype, state)
    for n, weight in enumerate(state.dense()):
        moved = expected[f"weight {n}"] - case.weights[n]
        both, half = ((w - expected[f"weight {n}"]).norm() / moved.norm() for w in (weight, state.weights[n]))
        assert both < min(0.05, half / 8), (n, both, half)


def test_strided_views(module: ModuleType) -> None:
    """q, k, v and rho may be parts of wider tensors."""
    case = Case(module, torch.float32, tokens=2)
    expected = case.found()
    case.q, case.k, case.v = torch.stack((case.q, case.k, case.v), dim=3).unbind(3)
    case.rho = torch.stack((case.rho, case.rho), dim=3)[..., 0]
    assert all(torch.equal(x, expected[name]) for name, x in case.found().items())


def test_compiles_without_graph_breaks(module: ModuleType) -> None:
    case = Case(module, torch.float32, tokens=1)
    expected, state = case.found(), case.start(torch.float32)
    compiled: Callable[..., Tensor] = torch.compile(module.step, fullgraph=True, backend="aot_eager")
    args = (case.q[0], case.k[0], case.v[0], case.rho[0], case.tau, case.norm, state)
    torch.testing.assert_close(compiled(*args).double(), expected["out"][0], rtol=0, atol=0)
    assert state.position.tolist() == [b + 1 for b in range(BATCH)]


@pytest.mark.parametrize(("head_dim", "mini_batch"), [(16, 128), (256, 16)])
def test_sizes_without_kernel(module: ModuleType, head_dim: int, mini_batch: int) -> None:
    case = Case(module, torch.float32, head_dim, mini_batch, tokens=1)
    with pytest.raises(ValueError, match="impl: reference"):
        case.found()


def test_dtypes_without_kernel(module: ModuleType) -> None:
    case = Case(module, torch.float64, tokens=1)
    with pytest.raises(TypeError, match="impl: reference"):
        case.found()
