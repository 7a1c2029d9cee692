"""What a state before the first token adds to a scan that began at zero, in Triton.

    y_t += ((prod_{s<=t} exp(delta_s A)) h_0) C_t SiLU(z_t)        h_0 becomes (prod_s exp(delta_s A)) h_0

A scan is linear in its state, so this is the rest of it. A program that finds its part of h_0 all zero, as before the first
token, ends there: nothing asks the host.
"""

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

BLOCK = 32


def carry(
    y: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    dt_bias: Float[Tensor, " E"],
    a: Float[Tensor, "E N"],
    c: Float[Tensor, "B T N"],
    state: Float[Tensor, "B E N"],
    z: Float[Tensor, "B T E"] | None,
) -> None:
    """Adds to ``y`` and decays ``state``, both in place. Any strides; N is a power of 2."""
    rows, length, channels = y.shape
    gate = y if z is None else z
    strides = (*y.stride(), *dt.stride(), *c.stride(), *gate.stride())
    grid = (triton.cdiv(channels, BLOCK), rows)
    arguments = (y, dt, dt_bias.contiguous(), a.float().contiguous(), c, gate, state, length, channels, *strides)
    _carry[grid](*arguments, STATES=a.shape[1], GATED=z is not None, BLOCK=BLOCK, num_warps=1)


@triton.jit
def _carry(
    p_y,
    p_dt,
    p_bias,
    p_a,
    p_c,
    p_z,
    p_h,
    length,
    channels,
    s_y_row,
    s_y_time,
    s_y_channel,
    s_dt_row,
    s_dt_time,
    s_dt_channel,
    s_c_row,
    s_c_time,
    s_c_state,
    s_z_row,
    s_z_time,
    s_z_channel,
    STATES: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_row = tl.program_id(1).to(tl.int64)
    i_e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i_n = tl.arange(0, STATES)
    m_e = i_e < channels
    m_h = m_e[:, None] & (i_n[None, :] < STATES)
    p_h += (i_row * channels + i_e[:, None]) * STATES + i_n[None, :]
    h = tl.load(p_h, mask=m_h, other=0.0)
    is_started = tl.max(tl.max((h != 0).to(tl.int32), axis=1), axis=0)
    a = tl.load(p_a + i_e[:, None] * STATES + i_n[None, :], mask=m_h, other=0.0)
    bias = tl.load(p_bias + i_e, mask=m_e, other=0.0).to(tl.float32)
    e = i_e.to(tl.int64)
    p_y += i_row * s_y_row + e * s_y_channel
    p_dt += i_row * s_dt_row + e * s_dt_channel
    p_z += i_row * s_z_row + e * s_z_channel
    p_c += i_row * s_c_row + i_n * s_c_state
    for _ in range(length * is_started):
        delta = softplus(tl.load(p_dt, mask=m_e, other=0.0).to(tl.float32) + bias)
        h *= tl.exp(delta[:, None] * a)
        added = tl.sum(h * tl.load(p_c).to(tl.float32)[None, :], axis=1)
        if GATED:
            z = tl.load(p_z, mask=m_e, other=0.0).to(tl.float32)
            added *= z * tl.sigmoid(z)
        y = tl.load(p_y, mask=m_e, other=0.0).to(tl.float32) + added
        tl.store(p_y, y.to(p_y.dtype.element_ty), mask=m_e)
        p_y += s_y_time
        p_dt += s_dt_time
        p_z += s_z_time
        p_c += s_c_time
    tl.store(p_h, h, mask=m_h)


@triton.jit
def softplus(x):
    """log(1 + exp(x)), exact where exp(x) is small: log(w) exp(x) / (w - 1) with w = 1 + exp(x) rounded."""
    small = tl.exp(tl.minimum(x, 20.0))
    w = 1 + small
    return tl.where(x > 20.0, x, tl.where(w == 1, small, tl.log(w) * (small / tl.where(w == 1, 1.0, w - 1))))
