"""The selective scan's reference against scalar loops and finite differences."""

import math

import pytest
import torch
from torch import Tensor

from kernels.selective_scan import reference


def draw(length: int) -> dict[str, Tensor]:
    """u, dt, dt_bias, a, b, c, d, z for B = 2, E = 3, N = 2, in float64."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "u": normal(2, length, 3),
        "dt": normal(2, length, 3),
        "dt_bias": normal(3),
        "a": -normal(3, 2).exp(),
        "b": normal(2, length, 2),
        "c": normal(2, length, 2),
        "d": normal(3),
        "z": normal(2, length, 3),
    }


def cut(inputs: dict[str, Tensor], at: int | slice) -> dict[str, Tensor]:
    """The inputs of some tokens, or of one."""
    return {name: x[:, at] if x.dim() == 3 else x for name, x in inputs.items()}


def naive(
    u: Tensor, dt: Tensor, dt_bias: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, z: Tensor | None = None
) -> Tensor:
    out = torch.empty_like(u)
    for row in range(u.shape[0]):
        for e in range(u.shape[2]):
            h = [0.0] * a.shape[1]
            for t in range(u.shape[1]):
                rate, x = math.log1p(math.exp(dt[row, t, e].item() + dt_bias[e].item())), u[row, t, e].item()
                gate = 1.0 if z is None else z[row, t, e].item() / (1 + math.exp(-z[row, t, e].item()))
                h = [math.exp(rate * a[e, s].item()) * h[s] + rate * x * b[row, t, s].item() for s in range(len(h))]
                out[row, t, e] = (sum(h[s] * c[row, t, s].item() for s in range(len(h))) + d[e].item() * x) * gate
    return out


@pytest.mark.parametrize("length", [1, 5, 12])
def test_forward_is_the_recurrence(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_ELEMENTS", 5 * 12)  # five tokens at a time
    inputs = draw(length)
    torch.testing.assert_close(reference.forward(**inputs), naive(**inputs), rtol=0, atol=1e-12)
    del inputs["z"]
    torch.testing.assert_close(reference.forward(**inputs), naive(**inputs), rtol=0, atol=1e-12)


def test_prefill_and_steps_go_on_from_a_state() -> None:
    inputs = draw(9)
    state = inputs["u"].new_zeros(2, 3, 2)
    outs = [reference.prefill(**cut(inputs, slice(4)), state=state)]
    outs += [reference.step(**cut(inputs, t), state=state)[:, None] for t in (4, 5)]
    outs += [reference.prefill(**cut(inputs, slice(6, None)), state=state)]
    torch.testing.assert_close(torch.cat(outs, dim=1), naive(**inputs), rtol=0, atol=1e-12)


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_ELEMENTS", 3 * 12)
    assert torch.autograd.gradcheck(reference.forward, tuple(x.requires_grad_() for x in draw(7).values()), fast_mode=True)
