"""The selective scan's reference against scalar loops and finite differences."""

import math

import pytest
import torch
from torch import Tensor

from kernels.selective_scan import reference


def draw(length: int) -> tuple[Tensor, ...]:
    """u, dt, a, b, c, d for B = 2, E = 3, N = 2, in float64."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        normal(2, length, 3),
        normal(2, length, 3).exp(),
        -normal(3, 2).exp(),
        normal(2, length, 2),
        normal(2, length, 2),
        normal(3),
    )


def naive(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    out = torch.empty_like(u)
    for row in range(u.shape[0]):
        for e in range(u.shape[2]):
            h = [0.0] * a.shape[1]
            for t in range(u.shape[1]):
                rate, x = dt[row, t, e].item(), u[row, t, e].item()
                h = [math.exp(rate * a[e, s].item()) * h[s] + rate * x * b[row, t, s].item() for s in range(len(h))]
                out[row, t, e] = sum(h[s] * c[row, t, s].item() for s in range(len(h))) + d[e].item() * x
    return out


@pytest.mark.parametrize("length", [1, 5, 12])
def test_forward_is_the_recurrence(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_ELEMENTS", 5 * 12)  # five tokens at a time
    args = draw(length)
    torch.testing.assert_close(reference.forward(*args), naive(*args), rtol=0, atol=1e-12)


def test_prefill_and_steps_go_on_from_a_state() -> None:
    u, dt, a, b, c, d = draw(9)
    state = u.new_zeros(2, 3, 2)
    outs = [reference.prefill(u[:, :4], dt[:, :4], a, b[:, :4], c[:, :4], d, state)]
    outs += [reference.step(u[:, t], dt[:, t], a, b[:, t], c[:, t], d, state)[:, None] for t in (4, 5)]
    outs += [reference.prefill(u[:, 6:], dt[:, 6:], a, b[:, 6:], c[:, 6:], d, state)]
    torch.testing.assert_close(torch.cat(outs, dim=1), naive(u, dt, a, b, c, d), rtol=0, atol=1e-12)


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_ELEMENTS", 3 * 12)
    assert torch.autograd.gradcheck(reference.forward, tuple(x.requires_grad_() for x in draw(7)), fast_mode=True)
