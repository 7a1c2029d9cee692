"""Rows in pieces, for Triton kernels of other packages that work out offsets in 32 bits."""

import math


def pieces(rows: int, stride: int) -> list[slice]:
    """As few pieces of ``rows`` rows, ``stride`` elements apart, as keep offsets below 2^31, of nearly equal length."""
    size = math.ceil(rows / math.ceil(rows * stride / 2**31))
    return [slice(start, start + size) for start in range(0, rows, size)]
