"""q and k by one kernel are what two convolutions and the rotation make, from any start."""

import pytest
import torch

from kernels.causal_conv.reference import convolve
from kernels.ttt import reference
from kernels.ttt import views as kernel


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    u, v = x[..., ::2], x[..., 1::2]
    return torch.stack((u * cos - v * sin, u * sin + v * cos), dim=-1).flatten(-2)


@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 16), (1, 24)])
@pytest.mark.parametrize("length", [1, 2, 33, 131])
@pytest.mark.parametrize("started", [False, True])
def test_views_are_those_of_the_reference(taps: int, heads: int, head_dim: int, length: int, started: bool) -> None:
    draw = torch.Generator().manual_seed(length)
    width, batch, mini_batch = heads * head_dim, 2, 16
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def of(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=dtype).to(device)

    x = of(batch, length, width + 8)[..., 4:-4]  # its rows lie apart
    convs = [(of(width, 1, taps), of(width)) for _ in range(2)]
    tables = of(mini_batch, head_dim // 2, dtype=torch.float64), of(mini_batch, head_dim // 2, dtype=torch.float64)
    before, start = started * of(batch, taps - 1, width), torch.tensor([3, 21], device=device) if started else None
    position = torch.arange(length, device=device) + (0 if start is None else start[:, None])
    places = [table[position % mini_batch][..., None, :].float() for table in tables]
    for module in (reference, kernel):
        kept = before.clone()
        for found, conv in zip(module.views(x, convs[0], convs[1], tables, kept, start), convs, strict=True):
            expected = rotated(convolve(x, *conv, before).unflatten(-1, (heads, head_dim)), *places)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(kept, torch.cat((before, x), dim=1)[:, -(taps - 1) :])
    torch.testing.assert_close(
        kernel.views(x, convs[0], convs[1], tables)[0], reference.views(x, convs[0], convs[1], tables)[0]
    )
