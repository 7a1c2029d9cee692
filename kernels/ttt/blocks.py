"""Pieces that the TTT kernels share: loads, rounding, sums, LN, and the gradient of LN and the inner loss.

Two habits keep the chain of mini-batches short (the formulas are those of kernels/ttt/reference.py):

* *Centred weights.* LN ignores the mean of z = x W + b over its F outputs, and the gradient D of the loss by z has none. So W
  and b of the last inner layer are centred once, when they are loaded, and their mean over the outputs is put back when they
  are stored. Only D takes the mean of z away, which rounding leaves, and so does the walk back of the gradient by D: without
  that a mean would feed its own growth.
* *One round of sums.* With u = gamma^2 z_hat + shift, shift = gamma (beta - target), the sums over the F features that D needs
  are sums of z, z^2, gamma^2 z, gamma^2 z^2, shift z and shift: independent of one another, so one reduction deep. What they
  would be without the mean of z follows from it and from sums of gamma^2 and shift.

AXIS is the axis of features (0 where tiles are kept transposed), WIDTH their number. Tiles are features x tokens or tokens x
features in float32; gamma, beta and what is made of them are broadcast along tokens.
"""

import triton
import triton.language as tl


@triton.jit
def read(ptr, mask, EVEN: tl.constexpr):
    """Elements at ``ptr``, 0 where ``mask`` is false. EVEN: it never is, and costs nothing."""
    return tl.load(ptr) if EVEN else tl.load(ptr, mask=mask, other=0.0)


@triton.jit
def write(ptr, x, mask, EVEN: tl.constexpr):
    """Stores x, rounded to what ``ptr`` points to, where ``mask`` is true. EVEN: it always is."""
    if EVEN:
        tl.store(ptr, x.to(ptr.dtype.element_ty))
    else:
        tl.store(ptr, x.to(ptr.dtype.element_ty), mask=mask)


# Mini-batches of a chunk that a chain writes out one after another; more are a loop, as they would compile for minutes.
UNROLLED = tl.constexpr(4)

IS_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def guarded(x, dtype: tl.constexpr):
    """x rounded to the dtype of operands, saturated where float16 would overflow, as inputs, D (1/std) and gradients might.

    It costs nothing: the conversion itself saturates. NaN stays NaN.
    """
    if dtype != tl.float16 or x.dtype == tl.float16:
        y = x.to(dtype)
    elif IS_INTERPRETED:
        y = tl.clamp(x.to(tl.float32), -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL).to(dtype)
    else:
        y = tl.inline_asm_elementwise(
            "cvt.rn.satfinite.f16x2.f32 $0, $2, $1;", "=r,f,f", [x.to(tl.float32)], dtype=tl.float16, is_pure=True, pack=2
        )
    return y


@triton.jit
def joined(weight_ptr, rest_ptr, at, mask, SPLIT: tl.constexpr):
    """Weights of a state at offsets ``at`` in float32, 0 where ``mask`` is false. SPLIT: with their remainders."""
    w = tl.load(weight_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if SPLIT:
        w += tl.load(rest_ptr + at, mask=mask, other=0.0).to(tl.float32)
    return w


@triton.jit
def store_split(weight_ptr, rest_ptr, at, w, mask, SPLIT: tl.constexpr):
    """The inverse of ``joined``: w as the state's dtype rounds it, and what that leaves in bfloat16."""
    rounded = guarded(w, weight_ptr.dtype.element_ty)
    tl.store(weight_ptr + at, rounded, mask=mask)
    if SPLIT:
        tl.store(rest_ptr + at, (w - rounded.to(tl.float32)).to(tl.bfloat16), mask=mask)


@triton.jit
def total(x, AXIS: tl.constexpr):
    """Sum over AXIS, which stays with length 1."""
    return tl.expand_dims(tl.sum(x, AXIS), AXIS)


@triton.jit
def add2(a1, a2, b1, b2):
    """Combines two sums at once, for tl.reduce."""
    return a1 + b1, a2 + b2


@triton.jit
def totals2(x1, x2, AXIS: tl.constexpr):
    """Two sums over AXIS, which stays with length 1, in one exchange between threads."""
    s1, s2 = tl.reduce((x1, x2), AXIS, add2)
    return tl.expand_dims(s1, AXIS), tl.expand_dims(s2, AXIS)


@triton.jit
def _add3(a1, a2, a3, b1, b2, b3):
    return a1 + b1, a2 + b2, a3 + b3


@triton.jit
def sums3(x1, x2, x3, AXIS: tl.constexpr):
    """Three sums over AXIS, which goes, in one exchange between threads."""
    return tl.reduce((x1, x2, x3), AXIS, _add3)


@triton.jit
def _add4(a1, a2, a3, a4, b1, b2, b3, b4):
    return a1 + b1, a2 + b2, a3 + b3, a4 + b4


@triton.jit
def totals4(x1, x2, x3, x4, AXIS: tl.constexpr):
    """Four sums over AXIS, which stays with length 1, in one exchange between threads."""
    s1, s2, s3, s4 = tl.reduce((x1, x2, x3, x4), AXIS, _add4)
    return tl.expand_dims(s1, AXIS), tl.expand_dims(s2, AXIS), tl.expand_dims(s3, AXIS), tl.expand_dims(s4, AXIS)


@triton.jit
def _add5(a1, a2, a3, a4, a5, b1, b2, b3, b4, b5):
    return a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5


@triton.jit
def totals5(x1, x2, x3, x4, x5, AXIS: tl.constexpr):
    """Five sums over AXIS, which stays with length 1, in one exchange between threads."""
    s1, s2, s3, s4, s5 = tl.reduce((x1, x2, x3, x4, x5), AXIS, _add5)
    s1, s2, s3 = tl.expand_dims(s1, AXIS), tl.expand_dims(s2, AXIS), tl.expand_dims(s3, AXIS)
    return s1, s2, s3, tl.expand_dims(s4, AXIS), tl.expand_dims(s5, AXIS)


@triton.jit
def norm_l2_gradient(z, shift, gamma2, inside, AXIS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """D = gradient of 1/2 |LN(z) - target|^2 by z, for z of centred weights; shift = gamma (beta - target), gamma2 = gamma^2.

    ``inside`` is 1 for features that exist and 0 for padding, where z, shift and gamma2 are 0.
    """
    d, _, _, _, _, _ = norm_l2_gradient_and_means(z, shift, gamma2, inside, AXIS, WIDTH, EPS)
    return d


@triton.jit
def norm_l2_gradient_and_means(z, shift, gamma2, inside, AXIS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """D, and what its derivative by z needs: z_hat, 1/std, and the means of gamma^2 z_hat, u z_hat and gamma^2 z_hat^2.

    u = gamma^2 z_hat + shift.
    """
    gz, gains, shifts = gamma2 * z, total(gamma2, AXIS), total(shift, AXIS) * (1.0 / WIDTH)
    zs, squares, pulls, curves, tilts = totals5(z, z * z, gz, gz * z, shift * z, AXIS)
    m = zs * (1.0 / WIDTH)
    z -= m * inside
    r = tl.rsqrt(squares * (1.0 / WIDTH) - m * m + EPS)
    scale = r * (1.0 / WIDTH)
    pull, curve = scale * (pulls - m * gains), scale * r * (curves - m * (2 * pulls - m * gains))
    tilt = curve + scale * tilts - r * m * shifts
    zh = r * z
    return r * (gamma2 * zh + shift - (pull + shifts) * inside - zh * tilt), zh, r, pull, tilt, curve


@triton.jit
def layer_norm(z, gamma, beta, AXIS: tl.constexpr, WIDTH: tl.constexpr, EPS: tl.constexpr):
    """gamma z_hat + beta of centred z."""
    return z * tl.rsqrt(total(z * z, AXIS) / WIDTH + EPS) * gamma + beta
