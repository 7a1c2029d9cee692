"""Rotary tables that are looked up are the angles' cos and sin."""

import pytest
import torch

from models.attention import LONGEST, Attention
from models.layers import Rope
from models.mixer import Size


@pytest.mark.parametrize(
    ("length", "positions"), [(16, [0, 1, 15]), (1000, [0, 511, 512, 999]), (LONGEST, [0, 513, LONGEST - 1])]
)
def test_tables_are_cos_and_sin_of_the_angle(length: int, positions: list[int]) -> None:
    position = torch.tensor([positions, positions[::-1]])
    angle = position[..., None].double() * 500.0 ** -(torch.arange(0, 6, 2, dtype=torch.float64) / 6)
    cos, sin = Rope(6, 500.0, length)(position, torch.float64)
    torch.testing.assert_close(cos, angle.cos(), rtol=0, atol=1e-10)
    torch.testing.assert_close(sin, angle.sin(), rtol=0, atol=1e-10)


def test_a_cache_beyond_the_tables_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set LONGEST in models\.attention"):
        Attention(Size(width=8, layers=1, heads=1, ffn=8)).init_state(1, LONGEST + 1)
