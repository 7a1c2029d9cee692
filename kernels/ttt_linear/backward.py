"""Gradients of TTT-Linear, in three kernels: two over all chunks at once, and between them a chain in reverse.

Of the forward pass there are D of every token and W, b at the start of every chunk (``kernels.ttt_linear.chain``), so that
nothing of its chain is repeated. In a chunk, with e of ``kernels.ttt_linear.chunks``, A = e * (Q K' + 1), N = before * (dZ D')
(pairs whose second token is in an earlier mini-batch of the chunk), and dW', db' gradients by the state after a mini-batch:

``queries``  dZb from dOut through LN;  S = -e * (dZb D')
             dQ = dOut + dZb W' + S K,  dK_1 = S' Q,  G = -A' dZb (D's share),  M = Q' dZb and m = sum dZb (W's and b's)
``reverse``  g = dD = G - eta_C (K dW' + db'),  dZ = J g (J: derivative of D by Z),  dW = dW' + K' dZ,  db = db' + sum dZ;
             at the start of a chunk dW += M, db += m
``keys``     X = D dW_c' + N' K  (dW_c: by the state after the chunk),  dK = dK_1 + dZ W' - N (eta_C K) - eta_C X - dT,  dV = dT
             drho_j -= tau_C (K_j X_j + D_j db' + sum_i N_ij)

Operands are bfloat16 where gradients are involved, whose range float16 has not. Sums over programs are partials, added outside
in a fixed order. Bytes a token and head: 29 times 2 F in all, M, W and dW_c at F = CHUNK counted as 2 F.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import guarded, total, totals
from kernels.ttt_linear.chunks import token_factors


@triton.jit
def queries(
    q_ptr, k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, d_ptr, wc_ptr, bc_ptr, dout_ptr,
    dq_ptr, dk_ptr, g_ptr, zh_ptr, stats_ptr, m_ptr, mb_ptr, drho_ptr, dtau_ptr, dgamma_ptr, dbeta_ptr,
    T, H,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr,
    OPERAND: tl.constexpr, GRAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What outputs make of queries, D and the weights before each chunk. Grid [B chunks H].

    dq, dk (dK_1), g, zh (z_hat of the keys) [B, T, H, F]; stats [4, B, T, H]: 1/std of z and the means of u z_hat,
    gamma^2 z_hat and gamma^2 z_hat^2, u = gamma^2 z_hat + gamma (beta - V + K); m [B, chunks, H, F, F]; mb, dgamma, dbeta
    [B, chunks, H, F]; drho [B, T, H]; dtau [B, chunks, H, CHUNK] by query, to be summed over queries of one slot.
    """
    chunks = tl.cdiv(T, CHUNK)
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % chunks
    i_b, i_w = (tl.program_id(0) // H // chunks).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, c = tl.arange(0, CHUNK), tl.arange(0, BF)[None, :], tl.arange(0, BF)[:, None]
    at = i_c * CHUNK + t
    first = i_b * T * H + i_h
    offset, mask = (first + at[:, None] * H) * F + f, (at < T)[:, None] & (f < F)
    is_weight = (c < F) & (f < F)
    key = tl.load(k_ptr + offset, mask=mask, other=0.0)
    k = guarded(key, OPERAND)
    d = tl.load(d_ptr + offset, mask=mask, other=0.0)
    rho = tl.load(rho_ptr + first + at * H, mask=at < T, other=0.0).to(tl.float32)
    w = tl.load(wc_ptr + i_w * F * F + c * F + f, mask=is_weight, other=0.0)
    b = tl.load(bc_ptr + i_w * F + f, mask=f < F, other=0.0)
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    factors, is_near = token_factors(tau_ptr, C, CHUNK)
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)

    earlier = tl.where(t[None, :] // C < t[:, None] // C, tau_last * rho[None, :], 0.0)
    a = (tl.dot(k, tl.trans(k), input_precision=PRECISION) + 1.0) * earlier
    z = tl.dot(k, w, input_precision=PRECISION) + b - tl.dot(a.to(OPERAND), d, input_precision=PRECISION)
    beta = tl.load(beta_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    shift = gamma * (beta - v + key.to(tl.float32))
    r = tl.rsqrt(tl.sum(z * z, 1) / F + EPS)
    zh = z * r[:, None]
    tl.store(zh_ptr + offset, zh.to(zh_ptr.dtype.element_ty), mask=mask)
    pull, curve = tl.sum(gamma * gamma * zh, 1) / F, tl.sum(gamma * gamma * zh * zh, 1) / F
    stats_ptr += first + at * H
    n = (tl.num_programs(0) // H // chunks).to(tl.int64) * T * H
    tl.store(stats_ptr, r, mask=at < T)
    tl.store(stats_ptr + n, curve + tl.sum(shift * zh, 1) / F, mask=at < T)
    tl.store(stats_ptr + 2 * n, pull, mask=at < T)
    tl.store(stats_ptr + 3 * n, curve, mask=at < T)

    q = guarded(tl.load(q_ptr + offset, mask=mask, other=0.0), OPERAND)
    e = factors * rho[None, :]
    a = (tl.dot(q, tl.trans(k), input_precision=PRECISION) + 1.0) * e
    zb = tl.dot(q, w, input_precision=PRECISION) + b - tl.dot(a.to(OPERAND), d, input_precision=PRECISION)
    r = tl.rsqrt(total(zb * zb, 1) / F + EPS)
    zb *= r
    dout = tl.load(dout_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(dgamma_ptr + i_w * F + f, total(dout * zb, 0), mask=f < F)
    tl.store(dbeta_ptr + i_w * F + f, total(dout, 0), mask=f < F)
    dy = dout * gamma
    dzb = r * (dy - total(dy, 1) / F - zb * (total(dy * zb, 1) / F))
    dzb = tl.where(f < F, dzb, 0.0)
    tl.store(mb_ptr + i_w * F + f, total(dzb, 0), mask=f < F)
    dzb = dzb.to(GRAD)
    g = tl.dot(tl.trans(a.to(GRAD)), dzb, input_precision=PRECISION)
    tl.store(g_ptr + offset, (-g).to(g_ptr.dtype.element_ty), mask=mask)
    q = q.to(GRAD)
    m = tl.dot(tl.trans(q), dzb, input_precision=PRECISION)
    tl.store(m_ptr + i_w * F * F + c * F + f, m.to(m_ptr.dtype.element_ty), mask=is_weight)
    da = -tl.dot(dzb, tl.trans(d.to(GRAD)), input_precision=PRECISION)
    s = (da * e).to(GRAD)
    dk = tl.dot(tl.trans(s), q, input_precision=PRECISION)
    tl.store(dk_ptr + offset, dk.to(dk_ptr.dtype.element_ty), mask=mask)
    dq = tl.dot(s, k.to(GRAD), input_precision=PRECISION) + tl.dot(dzb, tl.trans(w.to(GRAD)), input_precision=PRECISION)
    dout = tl.load(dout_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(dq_ptr + offset, (dq + dout).to(dq_ptr.dtype.element_ty), mask=mask)

    # Q K' once more: cheaper than the registers to keep it
    p = tl.dot(guarded(tl.load(q_ptr + offset, mask=mask, other=0.0), OPERAND), tl.trans(k), input_precision=PRECISION) + 1.0
    pulls = da * p
    tl.store(drho_ptr + first + at * H, tl.sum(pulls * factors, 0), mask=at < T)
    pulls *= rho[None, :]
    near = tl.sum(tl.where(is_near & (t[None, :] <= t[:, None]), pulls, 0.0), 1)
    far = tl.sum(tl.where(is_near, 0.0, tl.where(t[None, :] < t[:, None], pulls, 0.0)), 1)
    tl.store(dtau_ptr + i_w * CHUNK + t, near + tl.where(t == C - 1, tl.sum(far, 0), 0.0))


@triton.jit
def reverse(
    k_ptr, rho_ptr, tau_ptr, gamma_ptr, d_ptr, g_ptr, zh_ptr, stats_ptr, m_ptr, mb_ptr,
    dz_ptr, gu_ptr, dwc_ptr, dbc_ptr, dw_ptr, db_ptr,
    T, H,
    F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr, EVEN: tl.constexpr,
    GRAD: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """From the last chunk to the first, tiles transposed as in ``chain``. Grid [B H].

    dz, gu (by u) [B, T, H, F]; dwc, dbc: by the state after each chunk [B, chunks, H, F, F], [B, chunks, H, F]; dw, db: by
    the start, of each row [B, H, F, F], [B, H, F].

    J g, with g_u = r (g - z_hat mean(g z_hat)) and x = gamma^2 g_u (no mean of g: neither G nor K dW' has one):
    r (x - mean(x) - z_hat mean(x z_hat) - g_u mean(u z_hat) - D mean(g z_hat) - z_hat mean(g D)).
    """
    i_b, i_h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    f, c, t = tl.arange(0, BF)[:, None], tl.arange(0, BF)[None, :], tl.arange(0, BC)[None, :]
    is_weight = (f < F) & (c < F)
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    gamma2, inside = gamma * gamma, tl.where(f < F, 1.0, 0.0)
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    first = i_b * T * H + i_h
    n, chunks = (tl.num_programs(0) // H).to(tl.int64) * T * H, tl.cdiv(T, CHUNK)
    dwT, dbT = tl.zeros([BF, BF], tl.float32), tl.zeros([BF, BC], tl.float32)
    for i in tl.range(0, chunks, num_stages=STAGES):
        i_c = chunks - 1 - i
        i_w = (i_b * chunks + i_c) * H + i_h
        tl.store(dwc_ptr + i_w * F * F + f + c * F, dwT.to(dwc_ptr.dtype.element_ty), mask=is_weight)
        tl.store(dbc_ptr + i_w * F + f + t, dbT, mask=(f < F) & (t == 0))
        for s in tl.static_range(CHUNK // C):
            at = i_c * CHUNK + (CHUNK // C - 1 - s) * C + t
            is_token = at < T
            if BC != C:
                is_token &= t < C
            mask = is_token & (f < F)
            offset = (first + at * H) * F + f
            rows = first + at * H
            if EVEN:
                k = tl.load(k_ptr + offset).to(GRAD)
                d = tl.load(d_ptr + offset).to(tl.float32)
                g = tl.load(g_ptr + offset).to(tl.float32)
                zh = tl.load(zh_ptr + offset).to(tl.float32)
                rho = tl.load(rho_ptr + rows).to(tl.float32)
                r, tilt = tl.load(stats_ptr + rows), tl.load(stats_ptr + n + rows)
                pull, curve = tl.load(stats_ptr + 2 * n + rows), tl.load(stats_ptr + 3 * n + rows)
            else:
                k = tl.load(k_ptr + offset, mask=mask, other=0.0).to(GRAD)
                d = tl.load(d_ptr + offset, mask=mask, other=0.0).to(tl.float32)
                g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(tl.float32)
                zh = tl.load(zh_ptr + offset, mask=mask, other=0.0).to(tl.float32)
                rho = tl.load(rho_ptr + rows, mask=is_token, other=0.0).to(tl.float32)
                r = tl.load(stats_ptr + rows, mask=is_token, other=0.0)
                tilt = tl.load(stats_ptr + n + rows, mask=is_token, other=0.0)
                pull = tl.load(stats_ptr + 2 * n + rows, mask=is_token, other=0.0)
                curve = tl.load(stats_ptr + 3 * n + rows, mask=is_token, other=0.0)
            g -= tau_last * rho * tl.dot(dwT.to(GRAD), k, dbT, input_precision=PRECISION)
            xg = gamma2 * g
            along, across, x_mean, x_along = totals(g * zh, g * d, xg, xg * zh, 0)
            along, across = along / F, across / F
            gu = r * (g - zh * along)
            x_mean, x_along = r * (x_mean / F - along * pull), r * (x_along / F - along * curve)
            dz = r * ((gamma2 - tilt) * gu - x_mean * inside - zh * (x_along + across) - d * along)
            dz16 = dz.to(GRAD)
            if EVEN:
                tl.store(dz_ptr + offset, dz16)
                tl.store(gu_ptr + offset, gu.to(gu_ptr.dtype.element_ty))
            else:
                tl.store(dz_ptr + offset, dz16, mask=mask)
                tl.store(gu_ptr + offset, gu.to(gu_ptr.dtype.element_ty), mask=mask)
            dwT = tl.dot(dz16, tl.trans(k), dwT, input_precision=PRECISION)
            dbT = tl.dot(dz16, tl.full([BC, BC], 1.0, GRAD), dbT, input_precision=PRECISION)
        dwT += tl.load(m_ptr + i_w * F * F + f + c * F, mask=is_weight, other=0.0).to(tl.float32)
        dbT += tl.load(mb_ptr + i_w * F + f, mask=f < F, other=0.0)
    i_w = i_b * H + i_h
    tl.store(dw_ptr + i_w * F * F + f + c * F, dwT, mask=is_weight)
    tl.store(db_ptr + i_w * F + f + t, dbT, mask=(f < F) & (t == 0))


@triton.jit
def keys(
    k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, d_ptr, wc_ptr, zh_ptr, dz_ptr, dwc_ptr, dbc_ptr,
    dk_ptr, dv_ptr, drho_ptr, dtau_ptr, dgamma_ptr, dbeta_ptr,
    T, H,
    F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr, GRAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What is left once the gradients by D and by every state are known. Grid [B chunks H].

    dk (dK_1), dv (gradient by u) and drho come from the kernels before and leave complete; dtau [B, chunks, H]: share of
    tau_C; dgamma, dbeta [B, chunks, H, F] are added to.
    """
    chunks = tl.cdiv(T, CHUNK)
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % chunks
    i_b, i_w = (tl.program_id(0) // H // chunks).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, c = tl.arange(0, CHUNK), tl.arange(0, BF)[None, :], tl.arange(0, BF)[:, None]
    at = i_c * CHUNK + t
    first = i_b * T * H + i_h
    offset, mask = (first + at[:, None] * H) * F + f, (at < T)[:, None] & (f < F)
    is_weight = (c < F) & (f < F)
    key = tl.load(k_ptr + offset, mask=mask, other=0.0)
    k = key.to(GRAD)
    d = tl.load(d_ptr + offset, mask=mask, other=0.0).to(GRAD)
    dz = tl.load(dz_ptr + offset, mask=mask, other=0.0)
    rho = tl.load(rho_ptr + first + at * H, mask=at < T, other=0.0).to(tl.float32)
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    dw = tl.load(dwc_ptr + i_w * F * F + c * F + f, mask=is_weight, other=0.0)
    db = tl.load(dbc_ptr + i_w * F + f, mask=f < F, other=0.0)

    pairs = tl.dot(dz, tl.trans(d), input_precision=PRECISION)
    pairs = tl.where(t[None, :] // C < t[:, None] // C, pairs, 0.0)
    x = tl.dot(d, tl.trans(dw), input_precision=PRECISION)
    x += tl.dot(tl.trans(pairs.to(GRAD)), k, input_precision=PRECISION)
    pulls = tl.sum(k.to(tl.float32) * x + d.to(tl.float32) * db, 1) + tl.sum(pairs, 0)
    drho = tl.load(drho_ptr + first + at * H, mask=at < T, other=0.0)
    tl.store(drho_ptr + first + at * H, drho - tau_last * pulls, mask=at < T)
    tl.store(dtau_ptr + i_w, -tl.sum(rho * pulls, 0))

    w = tl.load(wc_ptr + i_w * F * F + c * F + f, mask=is_weight, other=0.0).to(GRAD)
    dk = tl.dot(dz, tl.trans(w), input_precision=PRECISION)
    dk -= tl.dot((pairs * (tau_last * rho)[None, :]).to(GRAD), k, input_precision=PRECISION)
    dk -= (tau_last * rho)[:, None] * x
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    gu = tl.load(dv_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    zh = tl.load(zh_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    dgamma = total((2 * gamma * zh + beta - v + key.to(tl.float32)) * gu, 0)
    dgamma += tl.load(dgamma_ptr + i_w * F + f, mask=f < F, other=0.0)
    dbeta = total(gamma * gu, 0) + tl.load(dbeta_ptr + i_w * F + f, mask=f < F, other=0.0)
    tl.store(dgamma_ptr + i_w * F + f, dgamma, mask=f < F)
    tl.store(dbeta_ptr + i_w * F + f, dbeta, mask=f < F)
    dk += tl.load(dk_ptr + offset, mask=mask, other=0.0).to(tl.float32) + gamma * gu
    tl.store(dk_ptr + offset, dk.to(dk_ptr.dtype.element_ty), mask=mask)
    tl.store(dv_ptr + offset, (-gamma * gu).to(dv_ptr.dtype.element_ty), mask=mask)
