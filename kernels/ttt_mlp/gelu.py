"""GELU by tanh with its first and second derivative, in as few instructions as it takes.

With u = s (z + c z^3), s = sqrt(2 / pi), c = 0.044715, and h = (1 + tanh u) / 2 = sigmoid(2 u):

    gelu = z h,   gelu' = h + 2 z h (1 - h) u',   gelu'' = 2 h (1 - h) (2 u' + z u'' + 2 z (1 - 2 h) u'^2) .
"""

import triton
import triton.language as tl


@triton.jit
def half_tanh(z, FAST: tl.constexpr):
    """h. FAST: the hardware's tanh, right to 2^-11 as float16 is, one instruction where the sigmoid takes two slow ones."""
    u = z * (0.7978845608028654 + 0.035677408136300125 * (z * z))
    if FAST:
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1)
        h = 0.5 + 0.5 * tanh
    else:
        h = tl.sigmoid(2 * u)
    return h


@triton.jit
def gelu(z, FAST: tl.constexpr):
    """GELU and its first derivative."""
    h = half_tanh(z, FAST)
    x = z * h
    return x, h + (x - x * h) * (1.5957691216057308 + 0.21406444881780075 * (z * z))


@triton.jit
def gelu_twice(z, FAST: tl.constexpr):
    """GELU, its first and its second derivative."""
    h = half_tanh(z, FAST)
    slope = 1.5957691216057308 + 0.21406444881780075 * (z * z)
    x, spread = z * h, h - h * h
    bend = 2 * slope + 0.4281288976356015 * (z * z) + z * (1 - 2 * h) * slope * slope
    return x, h + z * spread * slope, spread * bend
