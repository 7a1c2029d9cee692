"""TTT-Linear's kernels, interpreted in float32 or on a GPU, against the reference in float64."""

import math

import pytest
import torch
from torch import Tensor

from kernels.ttt import InnerState, LayerNorm, reference
from kernels.ttt_linear import kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("q", "k", "v", "rho", "tau", "w", "b", "gamma", "beta")
BOUND = 1e-5


def draw(batch: int, length: int, heads: int, head_dim: int, mini_batch: int, rate: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = (normal(batch, length, heads, head_dim) for _ in range(3))
    rho = rate * normal(batch, length, heads).sigmoid() / head_dim
    tau = (1 / torch.arange(1, mini_batch + 1) + 0.1 * normal(mini_batch)).clamp_min(0)
    w, b = normal(heads, head_dim, head_dim) / math.sqrt(head_dim), normal(heads, head_dim)
    gamma, beta = 1 + 0.3 * normal(heads, head_dim), 0.3 * normal(heads, head_dim)
    return [x.to(DEVICE, torch.float32) for x in (q, k, v, rho, tau, w, b, gamma, beta)]


def run(module: object, xs: list[Tensor]) -> Tensor:
    q, k, v, rho, tau, w, b, gamma, beta = xs
    return module.forward(q, k, v, rho, tau, (w,), (b,), LayerNorm(gamma, beta))  # type: ignore[attr-defined]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def gradients(module: object, xs: list[Tensor], seed: int = 0) -> tuple[Tensor, tuple[Tensor, ...]]:
    xs = [x.clone().requires_grad_() for x in xs]
    out = run(module, xs)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)
    return out.detach(), torch.autograd.grad(out, xs, dout)


@pytest.mark.parametrize(
    ("batch", "length", "heads", "head_dim", "mini_batch", "rate"),
    [
        (2, 37, 2, 16, 16, 1.0),  # ragged
        (1, 130, 1, 16, 16, 4.0),  # three chunks, the last of two tokens
        (1, 1, 1, 16, 16, 1.0),
        (1, 70, 1, 16, 4, 1.0),  # a mini-batch smaller than a tile
        (1, 70, 1, 16, 1, 1.0),  # one token: a loop of 64 in each chunk
        (1, 100, 1, 16, 32, 0.01),
        (1, 70, 1, 24, 16, 1.0),  # a head dim that is padded
    ],
)
def test_outputs_and_gradients(batch: int, length: int, heads: int, head_dim: int, mini_batch: int, rate: float) -> None:
    xs = draw(batch, length, heads, head_dim, mini_batch, rate)
    out, found = gradients(kernel, xs)
    expected_out, expected = gradients(reference, [x.double() for x in xs])
    assert error(out, expected_out) < BOUND
    errors = {name: error(f, e) for name, f, e in zip(NAMES, found, expected, strict=True) if e.norm() > 0}
    assert max(errors.values()) < BOUND, errors


def test_a_change_leaves_all_before_it_bit_identical() -> None:
    xs = draw(1, 90, 1, 16, 16)
    before = run(kernel, xs)
    for x in xs[:4]:
        x[:, 70] += 1.0
    after = run(kernel, xs)
    assert torch.equal(before[:, :70], after[:, :70]) and not torch.equal(before[:, 70:], after[:, 70:])


def test_two_runs_are_bit_equal() -> None:
    xs = draw(2, 70, 1, 16, 16)
    (out, first), (again, second) = gradients(kernel, xs), gradients(kernel, xs)
    assert torch.equal(out, again) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("mini_batch", "starts", "splits"),
    [(16, (0,), (37,)), (16, (0,), (5, 3, 24, 5)), (16, (0, 5, 16), (40,)), (16, (3, 9), (8,)), (4, (1, 6), (99, 1))],
)
def test_prefill_from_any_state(mini_batch: int, starts: tuple[int, ...], splits: tuple[int, ...]) -> None:
    """Outputs and the state left behind, rows at different positions, undefined slots poisoned."""
    batch, (q, k, v, rho, tau, w, b, gamma, beta) = len(starts), draw(len(starts), sum(splits), 1, 16, mini_batch)
    states = [_advanced(starts, (w, b, tau, gamma, beta), mini_batch, dtype) for dtype in (torch.float32, torch.float64)]
    state, expected_state = states
    norms = [LayerNorm(gamma.to(d), beta.to(d)) for d in (torch.float32, torch.float64)]
    for q1, k1, v1, rho1 in zip(*(x.split(splits, dim=1) for x in (q, k, v, rho)), strict=True):
        out = kernel.prefill(q1, k1, v1, rho1, tau, norms[0], state)
        q2, k2, v2, rho2, tau2 = (x.double() for x in (q1, k1, v1, rho1, tau))
        expected = reference.prefill(q2, k2, v2, rho2, tau2, norms[1], expected_state)
        assert error(out, expected) < BOUND
    assert state.position.tolist() == expected_state.position.tolist() == [s + sum(splits) for s in starts]
    assert error(state.weights[0], expected_state.weights[0]) < BOUND
    assert error(state.biases[0], expected_state.biases[0]) < BOUND
    for i in range(batch):
        n = int(state.position[i]) % mini_batch
        for name in ("inputs", "grads"):
            found, wanted = (getattr(s, name)[0][i, :, :n] for s in states)
            assert not n or error(found, wanted) < BOUND
        assert not n or error(state.rho[i, :, :n], expected_state.rho[i, :, :n]) < BOUND


def _advanced(starts: tuple[int, ...], params: tuple[Tensor, ...], mini_batch: int, dtype: torch.dtype) -> InnerState:
    """Rows that have read ``starts`` tokens, by the reference in float64."""
    w, b, tau, gamma, beta = (p.double() for p in params)
    rows = []
    for row, start in enumerate(starts):
        one = InnerState.fresh((w,), (b,), 1, mini_batch)
        if start:
            q, k, v, rho, *_ = draw(1, start + row, 1, w.shape[1], mini_batch)
            q, k, v, rho = (x[:, :start].double() for x in (q, k, v, rho))
            reference.prefill(q, k, v, rho, tau, LayerNorm(gamma, beta), one)
        for x in (one.rho, one.inputs[0], one.grads[0]):
            x[:, :, start % mini_batch :] = math.nan
        rows.append(one)

    def joined(*parts: Tensor) -> Tensor:
        return torch.cat(parts).to(dtype)

    return InnerState(
        weights=(joined(*(r.weights[0] for r in rows)),),
        biases=(joined(*(r.biases[0] for r in rows)),),
        rho=joined(*(r.rho for r in rows)),
        inputs=(joined(*(r.inputs[0] for r in rows)),),
        grads=(joined(*(r.grads[0] for r in rows)),),
        position=torch.cat([r.position for r in rows]),
    )


def test_sizes_without_kernel_name_the_cure() -> None:
    for head_dim, mini_batch in ((16, 128), (160, 16)):
        with pytest.raises(ValueError, match="impl: reference"):
            run(kernel, draw(1, 16, 1, head_dim, mini_batch))
    with pytest.raises(TypeError, match="impl: reference"):
        run(kernel, [x.double() for x in draw(1, 16, 1, 16, 16)])
