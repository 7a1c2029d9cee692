"""Pieces that the TTT kernels share: rounding, sums, LN, and the gradient of LN and the inner loss.

Two habits keep the chain of mini-batches short (the formulas are those of kernels/ttt/reference.py):

* *Centred weights.* LN ignores the mean of z = x W + b over its F outputs, and the gradient D of the loss by z has none. So W
  and b of the last inner layer are centred once, when they are loaded, and their mean over the outputs is put back when they
  are stored. Only D takes the mean of z away, which rounding leaves: without that a mean would feed its own growth.
* *One round of sums.* With u = gamma^2 z_hat + shift, shift = gamma (beta - target), the sums over the F features that D needs
  are sums of z, z^2, gamma^2 z, gamma^2 z^2, shift z and shift: independent of one another, so one reduction deep. Those of
  z less its mean follow from them: the mean is rounding's alone, so nothing cancels.

AXIS is the axis of features (0 where tiles are kept transposed), WIDTH their number. Tiles are features x tokens or tokens x
features in float32; gamma, beta and what is made of them are broadcast along tokens.
"""

import triton
import triton.language as tl


@triton.jit
def guarded(x, dtype: tl.constexpr):
    """x rounded to the dtype of operands, saturated where float16 would overflow: what comes from outside, and D (1/std)."""
    y = x.to(dtype)
    if dtype == tl.float16 and x.dtype != tl.float16:
        largest = tl.full([], 65504.0, tl.float16)
        y = tl.minimum(tl.maximum(y, -largest), largest)
    return y


@triton.jit
def total(x, AXIS: tl.constexpr):
    """Sum over AXIS, which stays with length 1."""
    return tl.expand_dims(tl.sum(x, AXIS), AXIS)


@triton.jit
def _add4(a1, a2, a3, a4, b1, b2, b3, b4):
    return a1 + b1, a2 + b2, a3 + b3, a4 + b4


@triton.jit
def totals(x1, x2, x3, x4, AXIS: tl.constexpr):
    """Four sums over AXIS, which stays with length 1, in one exchange between threads."""
    s1, s2, s3, s4 = tl.reduce((x1, x2, x3, x4), AXIS, _add4)
    return tl.expand_dims(s1, AXIS), tl.expand_dims(s2, AXIS), tl.expand_dims(s3, AXIS), tl.expand_dims(s4, AXIS)


@triton.jit
def _add5(a1, a2, a3, a4, a5, b1, b2, b3, b4, b5):
    return a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5


@triton.jit
def totals5(x1, x2, x3, x4, x5, AXIS: tl.constexpr):
    """``totals`` of five."""
    s1, s2, s3, s4, s5 = tl.reduce((x1, x2, x3, x4, x5), AXIS, _add5)
    s1, s2, s3 = tl.expand_dims(s1, AXIS), tl.expand_dims(s2, AXIS), tl.expand_dims(s3, AXIS)
    return s1, s2, s3, tl.expand_dims(s4, AXIS), tl.expand_dims(s5, AXIS)


@triton.jit
def norm_l2_gradient(z, shift, gamma2, inside, AXIS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """D = gradient of 1/2 |LN(z) - target|^2 by z, for z of centred weights; shift = gamma (beta - target), gamma2 = gamma^2.

    ``inside`` is 1 for features that exist and 0 for padding, where z, shift and gamma2 are 0.
    """
    gz = gamma2 * z
    shifts, gammas = total(shift, AXIS), total(gamma2, AXIS)
    zs, squares, pulls, curves, tilts = totals5(z, z * z, gz, gz * z, shift * z, AXIS)
    mean = zs * (1.0 / WIDTH)
    z, gz = z - mean * inside, gz - gamma2 * mean
    squares, tilts = squares - zs * mean, tilts - shifts * mean
    curves, pulls = curves - (2 * pulls - gammas * mean) * mean, pulls - gammas * mean
    r = tl.rsqrt(squares * (1.0 / WIDTH) + EPS)
    mean = (r * pulls + shifts) * (1.0 / WIDTH)
    along = r * (r * curves + tilts) * (r / WIDTH)
    return r * (r * gz + shift - mean * inside - z * along)


@triton.jit
def layer_norm(z, gamma, beta, AXIS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """gamma z_hat + beta of centred z."""
    return z * tl.rsqrt(total(z * z, AXIS) / WIDTH + EPS) * gamma + beta
