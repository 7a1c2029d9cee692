"""What of TTT-Linear is no chain: given D of every token and W at the start of every chunk, all chunks are worked on at once.

Within a chunk that starts at W, b the weights after mini-batch m are W - sum_{j before m} eta_C,j K_j' D_j, so that with

    e[i, j] = rho_j tau_i       j <= i in one mini-batch
            = rho_j tau_C       j in an earlier mini-batch of the chunk       (0 otherwise)

the answers are  out = Q + LN(Zb),  Zb = Q W + b - (e * (Q K' + 1)) D : products of CHUNK x F tiles.

Bytes a token and head: Q, K, D read, out written, 2 F each, W 2 F^2 / CHUNK. Operations: 2 F^2 + 4 CHUNK F.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import guarded, layer_norm, read, write


@triton.jit
def token_factors(tau_ptr, C: tl.constexpr, CHUNK: tl.constexpr):
    """e / rho: tau_i for pairs of one mini-batch, tau_C for earlier ones; and which pairs are of one mini-batch. [i, j]."""
    i, j = tl.arange(0, CHUNK)[:, None], tl.arange(0, CHUNK)[None, :]
    near, far = tl.load(tau_ptr + i % C).to(tl.float32), tl.load(tau_ptr + C - 1).to(tl.float32)
    is_near = i // C == j // C
    return tl.where(j <= i, tl.where(is_near, near, far), 0.0), is_near


@triton.jit
def answer(
    q_ptr, k_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, d_ptr, wc_ptr, bc_ptr, position_ptr, out_ptr,
    T, H,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr,
    STATEFUL: tl.constexpr, EVEN: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid [B chunks H]. Tensors as of ``chain``; STATEFUL: whole mini-batches but the first, which ``chain`` answered."""
    chunks = tl.cdiv(T, CHUNK)
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % chunks
    i_b = (tl.program_id(0) // H // chunks).to(tl.int64)
    i_w = tl.program_id(0).to(tl.int64)
    t, f, c = tl.arange(0, CHUNK), tl.arange(0, BF)[None, :], tl.arange(0, BF)[:, None]
    origin, end = i_c * CHUNK, T
    if STATEFUL:
        slots = (tl.load(position_ptr + i_b) % C).to(tl.int32)
        origin += C - slots
        end = T - (slots + T) % C
    at, is_chunk = origin + t, origin < end
    first = i_b * T * H + i_h
    offset, mask = (first + at[:, None] * H) * F + f, (at < end)[:, None] & (f < F)
    q = read(q_ptr + offset, mask, EVEN)
    k = read(k_ptr + offset, mask, EVEN)
    d = read(d_ptr + offset, mask, EVEN)
    rho = read(rho_ptr + first + at * H, at < end, EVEN).to(tl.float32)
    w = read(wc_ptr + i_w * F * F + c * F + f, is_chunk & (c < F) & (f < F), EVEN)
    b = read(bc_ptr + i_w * F + f, is_chunk & (f < F), EVEN)
    gamma = read(gamma_ptr + i_h * F + f, f < F, EVEN).to(tl.float32)
    beta = read(beta_ptr + i_h * F + f, f < F, EVEN).to(tl.float32)
    factors, _ = token_factors(tau_ptr, C, CHUNK)
    a = (tl.dot(q, tl.trans(k), input_precision=PRECISION) + 1.0) * (factors * rho[None, :])
    zb = tl.dot(guarded(q, OPERAND), w, input_precision=PRECISION) + b - tl.dot(a.to(OPERAND), d, input_precision=PRECISION)
    out = q.to(tl.float32) + layer_norm(zb, gamma, beta, 1, F, EPS)
    write(out_ptr + offset, out, mask, EVEN)
