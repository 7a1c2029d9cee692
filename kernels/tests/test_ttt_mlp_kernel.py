"""The Triton kernels of TTT-MLP against the float64 reference: small cases in float32, which the interpreter gets right."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kernels.ttt import InnerState, LayerNorm, reference
from kernels.ttt_mlp import kernel, panels

WIDTH = 16
NAMES = ("q", "k", "v", "rho", "tau", "w1", "w2", "b1", "b2", "gamma", "beta")


class Case:
    """Random arguments in float64 that float32 holds exactly; rho up to ``rate``."""

    def __init__(
        self, length: int, mini_batch: int = 16, batch: int = 1, heads: int = 2, rate: float = 0.1, width: int = WIDTH
    ) -> None:
        generator = torch.Generator().manual_seed(length)

        def draw(*shape: int, size: float = 1.0) -> Tensor:
            return (size * torch.randn(*shape, generator=generator)).double()

        self.size, wide = mini_batch, 4 * width
        self.tensors = [draw(batch, length, heads, width) for _ in range(3)]
        self.tensors += [rate * draw(batch, length, heads).sigmoid(), draw(mini_batch).sigmoid()]
        self.tensors += [draw(heads, width, wide, size=width**-0.5), draw(heads, wide, width, size=wide**-0.5)]
        self.tensors += [draw(heads, wide, size=0.3), draw(heads, width, size=0.3)]
        self.tensors += [1 + draw(heads, width, size=0.3), draw(heads, width, size=0.3)]
        self.tensors = [x.float().double() for x in self.tensors]
        self.dout = draw(batch, length, heads, width)

    def single(self) -> list[Tensor]:
        return [x.float() for x in self.tensors]

    def states(self) -> tuple[InnerState, InnerState]:
        """Of the reference, in float64, and of the kernels, in float32, with NaN in every slot."""
        batch = self.tensors[0].shape[0]
        w1, w2, b1, b2 = self.tensors[5:9]
        expected = InnerState.fresh((w1, w2), (b1, b2), batch, self.size)
        found = kernel.init_state((w1.float(), w2.float()), (b1.float(), b2.float()), batch, self.size, torch.float32)
        for slots in (*found.inputs, *found.grads, found.rho):
            slots.fill_(torch.nan)
        return expected, found


def run(module: object, x: list[Tensor]) -> Tensor:
    out: Tensor = module.forward(*x[:5], (x[5], x[6]), (x[7], x[8]), LayerNorm(x[9], x[10]))  # type: ignore[attr-defined]
    return out


def prefill(module: object, x: list[Tensor], state: InnerState, start: int, end: int) -> Tensor:
    views = [y[:, start:end] for y in x[:4]]
    out: Tensor = module.prefill(*views, x[4], LayerNorm(x[9], x[10]), state)  # type: ignore[attr-defined]
    return out


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


def assert_near(found: Tensor, expected: Tensor, name: str, bound: float = 1e-5) -> None:
    error = relative_error(found, expected)
    assert error <= bound, f"{name}: relative error {error:.1e}"


def assert_same_state(found: InnerState, expected: InnerState) -> None:
    """Weights, biases and the open pairs; slots after them are nobody's."""
    assert found.position.tolist() == expected.position.tolist()
    for name in ("weights", "biases"):
        for n, (a, b) in enumerate(zip(getattr(found, name), getattr(expected, name), strict=True)):
            assert_near(a, b, f"{name} {n}")
    slots = expected.position % expected.rho.shape[2]
    for name in ("inputs", "grads"):
        for n, (a, b) in enumerate(zip(getattr(found, name), getattr(expected, name), strict=True)):
            for row, i in enumerate(slots.tolist()):
                torch.testing.assert_close(a[row, :, :i].double(), b[row, :, :i], rtol=1e-4, atol=1e-4, msg=f"{name} {n}")


@pytest.mark.parametrize(
    ("length", "mini_batch", "width"),
    [(1, 16, 16), (7, 16, 16), (16, 16, 16), (37, 16, 16), (9, 4, 16), (35, 32, 16), (37, 16, 48), (5, 8, 48), (18, 16, 96)],
    ids=str,
)
def test_output_and_gradients(length: int, mini_batch: int, width: int) -> None:
    """In float32 as near as 1e-5, or as near as the reference in float32: dtau of one token is one sum that nearly cancels."""
    case = Case(length, mini_batch, heads=2 if width == 16 else 1, width=width)
    everything = (case.tensors, case.single(), case.single())
    expected, found, yardstick = ([x.requires_grad_() for x in tensors] for tensors in everything)
    out, truth = run(kernel, found), run(reference, expected)
    assert_near(out, truth, "out")
    truth.backward(case.dout)
    out.backward(case.dout.float())
    run(reference, yardstick).backward(case.dout.float())
    for name, a, b, rounded in zip(NAMES, found, expected, yardstick, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert rounded.grad is not None
        assert_near(a.grad, b.grad, name, max(1e-5, 1.5 * relative_error(rounded.grad, b.grad)))


@pytest.mark.parametrize("rate", [1e-4, 0.3])
def test_small_and_large_rates(rate: float) -> None:
    case = Case(33, rate=rate)
    assert_near(run(kernel, case.single()), run(reference, case.tensors), "out", 1e-4)


@pytest.mark.parametrize(("length", "mini_batch", "width"), [(135, 16, 16), (66, 16, 48)])
def test_panels_and_chunks_are_seamless(monkeypatch: pytest.MonkeyPatch, length: int, mini_batch: int, width: int) -> None:
    """Chunks, each its own panel, give what one panel gives."""
    case, found = Case(length, mini_batch, heads=1, width=width), []
    for count, bound in ((1, panels.PANEL_BYTES), (1, 1)):
        monkeypatch.setattr(panels, "PANELS", count)
        monkeypatch.setattr(panels, "PANEL_BYTES", bound)
        tensors = [x.requires_grad_() for x in case.single()]
        out = run(kernel, tensors)
        out.backward(case.dout.float())
        found.append([out, *(x.grad for x in tensors)])
    for name, a, b in zip(("out", *NAMES), *found, strict=True):
        assert a is not None
        assert b is not None
        assert_near(a, b.double(), name)


def test_strides_and_graphs_without_gradients() -> None:
    case = Case(20, batch=2)
    tensors = case.single()
    tensors[0] = tensors[0].transpose(1, 2).contiguous().transpose(1, 2)
    with torch.no_grad():
        assert_near(run(kernel, tensors), run(reference, case.tensors), "out")


@pytest.mark.parametrize(
    ("cuts", "width"),
    [
        *(((0, 37), 16), ((0, 5, 6, 37), 16), ((0, 16, 32), 16), ((0, 3, 20, 35), 16), ((0, 5, 140), 16)),
        *(((0, 37), 48), ((0, 5, 6, 37), 48), ((0, 16, 32), 48), ((0, 3, 20, 35), 48)),
    ],
)
def test_prefill_goes_on_from_any_state(cuts: tuple[int, ...], width: int) -> None:
    case = Case(cuts[-1], width=width)
    expected, found = case.states()
    for start, end in pairwise(cuts):
        truth = prefill(reference, case.tensors, expected, start, end)
        assert_near(prefill(kernel, case.single(), found, start, end), truth, f"tokens {start} to {end}")
    assert_same_state(found, expected)


@pytest.mark.parametrize(("length", "width"), [(30, 16), (90, 16), (30, 48)])
def test_rows_stand_at_different_positions(length: int, width: int) -> None:
    case = Case(length, batch=3, width=width)
    expected, found = case.states()
    for row, start in enumerate((0, 3, 13)):
        tokens = [x[row : row + 1] for x in case.tensors[:4]] + case.tensors[4:]
        if start:
            for module, state, wide in ((reference, expected, torch.float64), (kernel, found, torch.float32)):
                part = rows(state, row)
                prefill(module, [x.to(wide) for x in tokens], part, 0, start)
                state.position[row] = start
    truth = prefill(reference, case.tensors, expected, 13, length)
    assert_near(prefill(kernel, case.single(), found, 13, length), truth, "out")
    assert_same_state(found, expected)


def rows(state: InnerState, row: int) -> InnerState:
    """A view of one row of a state."""
    here = slice(row, row + 1)
    tuples = (tuple(x[here] for x in part) for part in (state.weights, state.biases, state.inputs, state.grads))
    weights, biases, inputs, grads = tuples
    return InnerState(weights, biases, state.rho[here], inputs, grads, state.position[here])


@pytest.mark.parametrize("width", [16, 96])
def test_split_state(width: int) -> None:
    """float16 inputs and a state of halves and remainders: errors are those of float16 operands."""
    case = Case(37, width=width)
    half = [x.half().double() if n < 3 else x for n, x in enumerate(case.tensors)]
    expected, _ = case.states()
    weights, biases = (tuple(x.float() for x in case.tensors[n : n + 2]) for n in (5, 7))
    found = kernel.init_state(weights, biases, 1, 16, torch.float16)
    single = [x.half() if n < 3 else x.float() for n, x in enumerate(half)]
    for start, end in ((0, 21), (21, 37)):
        truth = prefill(reference, half, expected, start, end)
        assert_near(prefill(kernel, single, found, start, end), truth, "out", 3e-3)
    for n, (a, b) in enumerate(zip(found.dense(), expected.weights, strict=True)):
        assert_near(a, b, f"weights {n}", 1e-3)


@pytest.mark.parametrize(("width", "mini_batch"), [(24, 16), (144, 16), (96, 32), (16, 128)])
def test_sizes_without_kernel_name_the_reference(width: int, mini_batch: int) -> None:
    q = torch.zeros(1, 1, 1, width)
    tensors = [q, q, q, q[..., 0], torch.zeros(mini_batch), q[0], q[0], q[0, 0], q[0, 0], q[0, 0], q[0, 0]]
    with pytest.raises(ValueError, match="choose impl: reference"):
        run(kernel, tensors)


def test_a_dtype_without_kernel_names_the_reference() -> None:
    with pytest.raises(TypeError, match="choose impl: reference"):
        run(kernel, Case(3).tensors)
