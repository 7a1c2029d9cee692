"""The scan of Mamba-2: its reference against scalar loops and finite differences."""

import math

import pytest
import torch
from torch import Tensor

from kernels.ssd import reference

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def draw(length: int) -> Inputs:
    """x, dt, dt_bias, a, b, c, d for B = 2, H = 3, P = 2, N = 4, in float64."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, dt, dt_bias, a = normal(2, length, 3, 2), normal(2, length, 3), normal(3), -normal(3).exp()
    return x, dt, dt_bias, a, normal(2, length, 4), normal(2, length, 4), normal(3)


def cut(inputs: Inputs, at: int | slice) -> Inputs:
    """The inputs of some tokens, or of one."""
    x, dt, dt_bias, a, b, c, d = inputs
    return x[:, at], dt[:, at], dt_bias, a, b[:, at], c[:, at], d


def naive(x: Tensor, dt: Tensor, dt_bias: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    out = torch.empty_like(x)
    rows, length, heads, width = x.shape
    for row in range(rows):
        for head in range(heads):
            for p in range(width):
                h = [0.0] * b.shape[2]
                for t in range(length):
                    delta = math.log1p(math.exp(dt[row, t, head].item() + dt_bias[head].item()))
                    decay, drive = math.exp(delta * a[head].item()), delta * x[row, t, head, p].item()
                    h = [decay * held + drive * into for held, into in zip(h, b[row, t].tolist(), strict=True)]
                    answer = sum(held * asked for held, asked in zip(h, c[row, t].tolist(), strict=True))
                    out[row, t, head, p] = answer + d[head].item() * x[row, t, head, p].item()
    return out


@pytest.mark.parametrize("length", [1, 4, 5, 13])
def test_forward_is_the_recurrence(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CHUNK", 4)
    inputs = draw(length)
    torch.testing.assert_close(reference.forward(*inputs), naive(*inputs), rtol=0, atol=1e-12)


def test_prefill_and_steps_go_on_from_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CHUNK", 3)
    inputs = draw(11)
    state = inputs[0].new_zeros(2, 3, 2, 4)
    outs = [reference.prefill(*cut(inputs, slice(4)), state)]
    outs += [reference.step(*cut(inputs, t), state)[:, None] for t in (4, 5)]
    outs += [reference.prefill(*cut(inputs, slice(6, None)), state)]
    torch.testing.assert_close(torch.cat(outs, dim=1), naive(*inputs), rtol=0, atol=1e-12)


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CHUNK", 3)
    assert torch.autograd.gradcheck(reference.forward, tuple(x.requires_grad_() for x in draw(7)), fast_mode=True)
