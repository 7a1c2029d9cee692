"""Pieces cover all rows once, and none reaches beyond 32 bits."""

import pytest

from kernels.pieces import pieces

CASES = [(16, 32768 * 4352, [8, 8]), (16, 1 << 27, [16]), (3, 1 << 30, [2, 1]), (1, 5, [1])]


@pytest.mark.parametrize(("rows", "stride", "sizes"), CASES)
def test_pieces(rows: int, stride: int, sizes: list[int]) -> None:
    found = [range(rows)[piece] for piece in pieces(rows, stride)]
    assert [len(piece) for piece in found] == sizes
    assert [row for piece in found for row in piece] == list(range(rows))
    assert max(len(piece) for piece in found) * stride <= 1 << 31
