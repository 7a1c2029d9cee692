"""Pieces that the TTT kernels share: the gradient of LN and the inner loss, its own gradient, GELU, products.

Two habits make the chain of mini-batches short:

* *Centred weights.* LN ignores the mean of z = x W + b over its F outputs, and the gradient D of the loss by z has none. So W
  and b of the last inner layer are centred once, when they are loaded (their mean over the outputs is put back when they are
  stored): every z is then centred, and no update moves it. No kernel subtracts a mean of z.
* *One round of sums.* With u = gamma^2 z_hat + shift, shift = gamma (beta - target), the sums over the F features that D needs
  are sums of z^2, gamma^2 z, gamma^2 z^2, shift z and shift: independent of one another, so one reduction deep.

AXIS is the axis of features (0 where tiles are kept transposed), WIDTH their number; arguments [F] stand along it already.
"""

import triton
import triton.language as tl

LARGEST: tl.constexpr = tl.constexpr(65504.0)


@triton.jit
def operand(x, dtype: tl.constexpr):
    """x rounded to the dtype of matrix operands, saturated where that is float16."""
    if dtype == tl.float16:
        x = tl.minimum(tl.maximum(x.to(tl.float32), -LARGEST), LARGEST)
    return x.to(dtype)


@triton.jit
def total(x, AXIS: tl.constexpr):
    """Sum over AXIS, which stays with length 1."""
    return tl.expand_dims(tl.sum(x, AXIS), AXIS)


@triton.jit
def norm_l2_gradient(z, shift, gamma2, inside, AXIS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """D = gradient of 1/2 |LN(z) - target|^2 by z, for centred z; shift = gamma (beta - target), gamma2 = gamma^2.

    ``inside`` is 1 for features that exist and 0 for padding, where z, shift and gamma2 are 0.
    """
    gz = gamma2 * z
    squares, pulls = total(z * z, AXIS), total(gz, AXIS)
    curves, shifts = total(gz * z, AXIS), total(shift, AXIS)
    tilts = total(shift * z, AXIS)
    r = tl.rsqrt(squares / WIDTH + EPS)
    mean = (r * pulls + shifts) / WIDTH
    along = (r * r * curves + r * tilts) / WIDTH
    return r * (gz * r + shift - mean * inside - z * (r * along))


@triton.jit
def layer_norm(z, gamma, beta, AXIS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """gamma z_hat + beta of centred z."""
    return z * tl.rsqrt(total(z * z, AXIS) / WIDTH + EPS) * gamma + beta


@triton.jit
def tanh(x):
    """Hyperbolic tangent through the sigmoid, which every backend has."""
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def gelu(z):
    """GELU by tanh and its first derivative."""
    t = tanh(0.7978845608028654 * (z + 0.044715 * z * z * z))
    slope = 0.7978845608028654 * (1 + 0.134145 * z * z)
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * slope
