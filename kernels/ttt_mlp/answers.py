"""What of TTT-MLP is no chain: given X2, D1, D2 of every token and W, b at the start of every chunk, all chunks at once.

Within a chunk the weights of a later mini-batch are those of its start less the pairs between, so that with e of
``kernels.ttt_linear.chunks``, which says how much pair j moves the weights that token i meets, its answers are products of
whole tiles:

    Zb1 = Q W1 + b1 - (e * (Q K' + 1)) D1,  Xb2 = GELU(Zb1),  Zb2 = Xb2 W2 + b2 - (e * (Xb2 X2' + 1)) D2,  out = Q + LN(Zb2) .

Tiles are kept transposed, hidden x tokens and features x tokens: products by W1' and W2' then have their left operands where
they were loaded to. Bytes a token and head: Q, K, D2 read, out written, 2 F each, X2, D1 read, 2 hidden each, W1 and W2 read,
4 F hidden / CHUNK. Operations: 4 F hidden + 4 CHUNK (F + hidden).
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import guarded, layer_norm
from kernels.ttt_linear.chunks import token_factors
from kernels.ttt_mlp.chain import SCALE
from kernels.ttt_mlp.gelu import gelu


@triton.jit
def features(F: tl.constexpr, BF: tl.constexpr):
    """Which of BF features exist, [BF]; a constant where all do, so that masks vanish."""
    return tl.full([BF], True, tl.int1) if F == BF else tl.arange(0, BF) < F


@triton.jit
def chunk_answers(
    q, k, d2, rho, tau_ptr, x2_ptr, d1_ptr, w1c_ptr, w2c_ptr, b1c_ptr, b2c_ptr,
    F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Zb2' of one chunk, and what its gradients need.

    That is, with j the token of a pair and i of a query, [j, i]: p1, p2 (Q K' + 1, Xb2 X2' + 1), a1 (-e p1 SCALE, as operand),
    a2 (e p2), e / rho, and which pairs are of one mini-batch. q, k [BF, CHUNK] and d2 [CHUNK, BF] as operands, features
    padded by 0; rho [CHUNK, 1]; pointers to the chunk, hidden units in tiles of BN.
    """
    t, f, n = tl.arange(0, CHUNK)[None, :], tl.arange(0, BF), tl.arange(0, BN)[:, None]
    inside = features(F, BF)
    factors, is_near = token_factors(tau_ptr, C, CHUNK)
    factors, is_near = tl.trans(factors), tl.trans(is_near)
    hidden, weight = n * CHUNK + t, n * F + f[None, :]
    p1 = tl.dot(tl.trans(k), q, input_precision=PRECISION) + 1.0
    a1 = (p1 * (factors * (rho * -SCALE))).to(OPERAND)
    zb2, p2 = tl.zeros([BF, CHUNK], tl.float32), tl.full([CHUNK, CHUNK], 1.0, tl.float32)
    for i in range(0, N, BN):
        w1 = tl.load(w1c_ptr + weight + i * F, mask=inside[None, :], other=0.0)
        zb1 = tl.dot(w1, q, input_precision=PRECISION) + tl.load(b1c_ptr + i + n)
        xb2, _ = gelu(tl.dot(tl.load(d1_ptr + hidden + i * CHUNK), a1, zb1, input_precision=PRECISION), FAST)
        xb2 = xb2.to(OPERAND)
        w2 = tl.load(w2c_ptr + weight + i * F, mask=inside[None, :], other=0.0)
        zb2 = tl.dot(tl.trans(w2), xb2, zb2, input_precision=PRECISION)
        p2 = tl.dot(tl.trans(tl.load(x2_ptr + hidden + i * CHUNK)), xb2, p2, input_precision=PRECISION)
    a2 = p2 * (factors * rho)
    zb2 = tl.dot(tl.trans(d2), (a2 * -SCALE).to(OPERAND), zb2, input_precision=PRECISION)
    zb2 += tl.load(b2c_ptr + f, mask=inside, other=0.0)[:, None]
    return zb2, p1, p2, a1, a2, factors, is_near


@triton.jit(do_not_specialize=["panel", "first_chunk", "kept", "kept_from"])
def answer(
    q_ptr, k_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, position_ptr,
    out_ptr, x2_ptr, d1_ptr, d2_ptr, w1c_ptr, w2c_ptr, b1c_ptr, b2c_ptr,
    T, H, panel, first_chunk, kept, kept_from,
    EPS: tl.constexpr, F: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr,
    STATEFUL: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid [B panel H]. Tensors as of ``chain``; STATEFUL: whole mini-batches but the first, which ``chain`` answered."""
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % panel
    i_b, i_l = (tl.program_id(0) // H // panel).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f = tl.arange(0, CHUNK), tl.arange(0, F)
    origin, end = (first_chunk + i_c) * CHUNK, T
    if STATEFUL:
        slots = (tl.load(position_ptr + i_b) % C).to(tl.int32)
        origin += C - slots
        end = T - (slots + T) % C
    if origin < end:
        at = origin + t
        is_token, rows, i_w = at < end, (i_b * T + at) * H + i_h, (i_b * kept + kept_from + i_c) * H + i_h
        offset, mask = rows[None, :] * F + f[:, None], is_token[None, :]
        query = tl.load(q_ptr + offset, mask=mask, other=0.0)
        k = guarded(tl.load(k_ptr + offset, mask=mask, other=0.0), OPERAND)
        d2 = tl.load(d2_ptr + (i_l * CHUNK + t[:, None]) * F + f[None, :])
        rho = tl.load(rho_ptr + rows, mask=is_token, other=0.0).to(tl.float32)[:, None]
        zb2, _, _, _, _, _, _ = chunk_answers(
            guarded(query, OPERAND), k, d2, rho, tau_ptr, x2_ptr + i_l * N * CHUNK, d1_ptr + i_l * N * CHUNK,
            w1c_ptr + i_w * N * F, w2c_ptr + i_w * N * F, b1c_ptr + i_w * N, b2c_ptr + i_w * F,
            F, F, N, BN, C, CHUNK, OPERAND, PRECISION, FAST,
        )  # fmt: skip
        gamma = tl.load(gamma_ptr + i_h * F + f).to(tl.float32)[:, None]
        beta = tl.load(beta_ptr + i_h * F + f).to(tl.float32)[:, None]
        out = query.to(tl.float32) + layer_norm(zb2, gamma, beta, 0, F, EPS)
        tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=mask)
