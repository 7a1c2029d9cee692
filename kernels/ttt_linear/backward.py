"""Gradients of TTT-Linear, in three kernels: two over all chunks at once, and between them a chain in reverse.

Of the forward pass there are D, z_hat and the means of every token and W, b at the start of every chunk
(``kernels.ttt_linear.chain``), so that nothing of its chain is repeated. In a chunk, with e of ``kernels.ttt_linear.chunks``,
A = -e * (Q K' + 1), N = later * (D dZ') (pairs of which the second token is in a later mini-batch of the chunk), and dW', db'
gradients by the state after a mini-batch:

``queries``  dZb from dOut through LN;  S = -e * (dZb D')
             dQ = dOut + dZb W' + S K,  dK_1 = S' Q,  G = A' dZb (D's share),  M = Q' dZb and m = sum dZb (W's and b's)
``reverse``  g = dD = G - eta_C (K dW' + db'),  dZ = J g (J: derivative of D by Z),  dW = dW' + K' dZ,  db = db' + sum dZ;
             at the start of a chunk dW += M, db += m;  dV = -gamma g_u
``keys``     X = D dW_c' + N K  (dW_c: by the state after the chunk),  dK = dK_1 + dZ W' - N' (eta_C K) - eta_C X - dV
             drho_j -= tau_C (K_j X_j + D_j db' + sum_i N_ji)

Everything is worked out for dOut times ``gradient_scale``, to fit float16 operands; what leaves as the gradient of an input is
divided by it. Sums over programs are partials, added outside in a fixed order. Bytes a token and head: 26 times 2 F in all, M,
W and dW_c at F = CHUNK counted as 2 F.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import UNROLLED, guarded, read, sums3, total, totals2, totals4, write
from kernels.ttt_linear.chunks import token_factors


@triton.jit
def queries(
    q_ptr, k_ptr, rho_ptr, tau_ptr, gamma_ptr, d_ptr, wc_ptr, bc_ptr, dout_ptr, scale_ptr,
    dq_ptr, dk_ptr, g_ptr, m_ptr, mb_ptr, drho_ptr, dtau_ptr, dgamma_ptr, dbeta_ptr,
    T, H,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr, EVEN: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What outputs make of queries, D and the weights before each chunk. Grid [B chunks H].

    dq, dk (dK_1), g [B, T, H, F]; m [B, chunks, H, F, F]; mb, dgamma, dbeta [B, chunks, H, F]; drho [B, T, H]; dtau
    [B, chunks, H, 2, CHUNK] by query: of its slot of tau, and of tau_C.

    A tile that is needed again late is read again (it is still in a cache): that costs less than the registers to keep it.
    """
    chunks = tl.cdiv(T, CHUNK)
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % chunks
    i_b, i_w = (tl.program_id(0) // H // chunks).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, c = tl.arange(0, CHUNK), tl.arange(0, BF)[None, :], tl.arange(0, BF)[:, None]
    i, j = t[:, None], t[None, :]
    first = (i_b * T + i_c * CHUNK) * H + i_h
    offset, rows, weight = first * F + i * (H * F) + f, first + t * H, i_w * F * F + c * F + f
    is_token, is_feature, is_weight = i_c * CHUNK + t < T, f < F, (c < F) & (f < F)
    mask = is_token[:, None] & is_feature
    k, q = read(k_ptr + offset, mask, EVEN), read(q_ptr + offset, mask, EVEN)
    d, w = read(d_ptr + offset, mask, EVEN), read(wc_ptr + weight, is_weight, EVEN)
    rho = read(rho_ptr + rows, is_token, EVEN).to(tl.float32)
    b = read(bc_ptr + i_w * F + f, is_feature, EVEN)
    gamma = read(gamma_ptr + i_h * F + f, is_feature, EVEN).to(tl.float32)
    factors, is_near = token_factors(tau_ptr, C, CHUNK)
    factors = -factors

    a = ((tl.dot(q, tl.trans(k), input_precision=PRECISION) + 1.0) * (factors * rho[None, :])).to(OPERAND)
    zb = tl.dot(guarded(q, OPERAND), w, input_precision=PRECISION)
    zb = tl.dot(a, d, zb, input_precision=PRECISION) + b
    r = tl.rsqrt(total(zb * zb, 1) / F + EPS)
    zb *= r
    dout = read(dout_ptr + offset, mask, EVEN).to(tl.float32)
    scale = tl.load(scale_ptr + i_b * H + i_h)
    dy = dout * (gamma * scale)
    mean, along = totals2(dy, dy * zb, 1)
    dzb = r * (dy - mean / F - zb * (along / F))
    if BF != F:
        dzb = tl.where(is_feature, dzb, 0.0)
    dgamma, dbeta, mb = sums3(dout * zb, dout, dzb, 0)
    column = tl.arange(0, BF)
    write(dgamma_ptr + i_w * F + column, dgamma, column < F, EVEN)
    write(dbeta_ptr + i_w * F + column, dbeta, column < F, EVEN)
    write(mb_ptr + i_w * F + column, mb, column < F, EVEN)
    dzb = guarded(dzb, OPERAND)
    g = tl.dot(tl.trans(a), dzb, input_precision=PRECISION)
    write(g_ptr + offset, guarded(g, OPERAND), mask, EVEN)
    m = tl.dot(tl.trans(guarded(q, OPERAND)), dzb, input_precision=PRECISION)
    write(m_ptr + weight, guarded(m, OPERAND), is_weight, EVEN)

    da = tl.dot(dzb, tl.trans(d), input_precision=PRECISION)
    s = guarded(da * (factors * rho[None, :]), OPERAND)
    dk = tl.dot(tl.trans(s), guarded(q, OPERAND), input_precision=PRECISION)
    write(dk_ptr + offset, dk / scale, mask, EVEN)
    dq = tl.dot(s, guarded(k, OPERAND), input_precision=PRECISION)
    dq = tl.dot(dzb, tl.trans(w), dq, input_precision=PRECISION)
    write(dq_ptr + offset, dq / scale + read(dout_ptr + offset, mask, EVEN).to(tl.float32), mask, EVEN)

    k = read(k_ptr + offset, mask, EVEN)
    pulls = (da / scale) * (tl.dot(q, tl.trans(k), input_precision=PRECISION) + 1.0)
    write(drho_ptr + rows, tl.sum(pulls * factors, 0), is_token, EVEN)
    pulls = tl.where(j <= i, pulls * -rho[None, :], 0.0)
    close = tl.sum(tl.where(is_near, pulls, 0.0), 1)
    tl.store(dtau_ptr + i_w * (2 * CHUNK) + t, close)
    tl.store(dtau_ptr + i_w * (2 * CHUNK) + CHUNK + t, tl.sum(pulls, 1) - close)


@triton.jit
def reverse(
    k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, scale_ptr, d_ptr, g_ptr, zh_ptr, stats_ptr, m_ptr, mb_ptr,
    dz_ptr, dv_ptr, dwc_ptr, dbc_ptr, dw_ptr, db_ptr, dgamma_ptr, dbeta_ptr,
    T, H,
    F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr, EVEN: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """From the last chunk to the first, tiles transposed as in ``chain``. Grid [B H].

    dz, dv [B, T, H, F]; dwc, dbc: by the state after each chunk [B, chunks, H, F, F], [B, chunks, H, F]; by the start, of each
    row, dw [B, H, F, F], db [B, H, F]; of each row dgamma, dbeta [B, H, F].

    J g, with g_u = r (g - z_hat mean(g z_hat)) and x = gamma^2 g_u, g without its mean:
    r (x - mean(x) - z_hat mean(x z_hat) - g_u mean(u z_hat) - D mean(g z_hat) - z_hat mean(g D)).
    Only rounding gives g a mean; left there it would feed its own growth, in dW and db, wherever 1/std is large.
    """
    i_b, i_h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    f, c, t = tl.arange(0, BF)[:, None], tl.arange(0, BF)[None, :], tl.arange(0, BC)[None, :]
    n = tl.arange(0, 4 * BC)[None, :]
    is_weight = (f < F) & (c < F)
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    gamma2, inside = gamma * gamma, tl.where(f < F, 1.0, 0.0)
    tau_last, unscale = tl.load(tau_ptr + C - 1).to(tl.float32), 1 / tl.load(scale_ptr + i_b * H + i_h)
    first, chunks = i_b * T * H + i_h, tl.cdiv(T, CHUNK)
    dwT, dbT = tl.zeros([BF, BF], tl.float32), tl.zeros([BF, BC], tl.float32)
    dgamma, dbeta = tl.zeros([BF, BC], tl.float32), tl.zeros([BF, BC], tl.float32)
    for i in tl.range(0, chunks, num_stages=STAGES):
        i_c = chunks - 1 - i
        i_w = (i_b * chunks + i_c) * H + i_h
        tl.store(dwc_ptr + i_w * F * F + f + c * F, guarded(dwT, OPERAND), mask=is_weight)
        tl.store(dbc_ptr + i_w * F + f + t, dbT, mask=(f < F) & (t == 0))
        for s in (tl.static_range if CHUNK // C <= UNROLLED else tl.range)(CHUNK // C):
            begin = i_c * CHUNK + (CHUNK // C - 1 - s) * C
            is_token = (begin + t < T) & (t < C)
            mask, rows = is_token & (f < F), first + (begin + t) * H
            offset = rows * F + f
            key = read(k_ptr + offset, mask, EVEN)
            v = read(v_ptr + offset, mask, EVEN).to(tl.float32)
            d = read(d_ptr + offset, mask, EVEN).to(tl.float32)
            g = read(g_ptr + offset, mask, EVEN).to(tl.float32)
            zh = read(zh_ptr + offset, mask, EVEN).to(tl.float32)
            rho = read(rho_ptr + rows, is_token, EVEN).to(tl.float32)
            token = begin + n // 4
            stats = read(stats_ptr + (first + token * H) * 4 + n % 4, (token < T) & (n < 4 * C), EVEN)
            left, right = tl.split(tl.reshape(stats, [1, BC, 2, 2]))
            r, pull = tl.split(left)
            tilt, curve = tl.split(right)
            k = guarded(key, OPERAND)
            g -= tau_last * rho * tl.dot(guarded(dwT, OPERAND), k, dbT, input_precision=PRECISION)
            g -= total(g, 0) * (1.0 / F) * inside
            xg = gamma2 * g
            along, across, x_mean, x_along = totals4(g * zh, g * d, xg, xg * zh, 0)
            along, across = along / F, across / F
            gu = r * (g - zh * along)
            x_mean, x_along = r * (x_mean / F - along * pull), r * (x_along / F - along * curve)
            dz = r * ((gamma2 - tilt) * gu - x_mean * inside - zh * (x_along + across) - d * along)
            dz16 = guarded(dz, OPERAND)
            write(dz_ptr + offset, dz16, mask, EVEN)
            gu *= unscale
            write(dv_ptr + offset, -gamma * gu, mask, EVEN)
            dgamma += (2 * gamma * zh + beta - v + key.to(tl.float32)) * gu
            dbeta += gamma * gu
            dwT = tl.dot(dz16, tl.trans(k), dwT, input_precision=PRECISION)
            dbT = tl.dot(dz16, tl.full([BC, BC], 1.0, OPERAND), dbT, input_precision=PRECISION)
        dwT += tl.load(m_ptr + i_w * F * F + f + c * F, mask=is_weight, other=0.0).to(tl.float32)
        dbT += tl.load(mb_ptr + i_w * F + f, mask=f < F, other=0.0)
    i_w = i_b * H + i_h
    tl.store(dw_ptr + i_w * F * F + f + c * F, dwT * unscale, mask=is_weight)
    tl.store(db_ptr + i_w * F + f + t, dbT * unscale, mask=(f < F) & (t == 0))
    tl.store(dgamma_ptr + i_w * F + f, total(dgamma, 1), mask=f < F)
    tl.store(dbeta_ptr + i_w * F + f, total(dbeta, 1), mask=f < F)


@triton.jit
def keys(
    k_ptr, rho_ptr, tau_ptr, scale_ptr, d_ptr, wc_ptr, dz_ptr, dv_ptr, dwc_ptr, dbc_ptr,
    dk_ptr, drho_ptr, dtau_ptr,
    T, H,
    F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr, EVEN: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What is left once the gradients by D and by every state are known. Grid [B chunks H].

    dk (dK_1) and drho come from ``queries`` and leave complete; dtau [B, chunks, H]: share of tau_C.
    """
    chunks = tl.cdiv(T, CHUNK)
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % chunks
    i_b, i_w = (tl.program_id(0) // H // chunks).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, c = tl.arange(0, CHUNK), tl.arange(0, BF)[None, :], tl.arange(0, BF)[:, None]
    first = (i_b * T + i_c * CHUNK) * H + i_h
    offset, rows, weight = first * F + t[:, None] * (H * F) + f, first + t * H, i_w * F * F + c * F + f
    is_token, is_feature, is_weight = i_c * CHUNK + t < T, f < F, (c < F) & (f < F)
    mask = is_token[:, None] & is_feature
    key, dz = read(k_ptr + offset, mask, EVEN), read(dz_ptr + offset, mask, EVEN)
    k, d = guarded(key, OPERAND), read(d_ptr + offset, mask, EVEN)
    dw = read(dwc_ptr + weight, is_weight, EVEN)
    db = read(dbc_ptr + i_w * F + f, is_feature, EVEN)
    rho = read(rho_ptr + rows, is_token, EVEN).to(tl.float32)
    tau_last, unscale = tl.load(tau_ptr + C - 1).to(tl.float32), 1 / tl.load(scale_ptr + i_b * H + i_h)

    pairs = tl.dot(d, tl.trans(dz), input_precision=PRECISION)
    pairs = tl.where(t[None, :] // C > t[:, None] // C, pairs, 0.0)
    x = tl.dot(d, tl.trans(dw), input_precision=PRECISION)
    x = tl.dot(guarded(pairs, OPERAND), k, x, input_precision=PRECISION)
    pulls = tl.sum(key.to(tl.float32) * x + d.to(tl.float32) * db, 1) + tl.sum(pairs, 1)
    pulls *= unscale
    write(drho_ptr + rows, read(drho_ptr + rows, is_token, EVEN) - tau_last * pulls, is_token, EVEN)
    tl.store(dtau_ptr + i_w, -tl.sum(rho * pulls, 0))

    eta = (tau_last * rho)[:, None]
    w = read(wc_ptr + weight, is_weight, EVEN)
    dk = tl.dot(dz, tl.trans(w), input_precision=PRECISION)
    dk -= tl.dot(tl.trans(guarded(pairs * eta, OPERAND)), k, input_precision=PRECISION) + eta * x
    dk = dk * unscale + read(dk_ptr + offset, mask, EVEN).to(tl.float32) - read(dv_ptr + offset, mask, EVEN).to(tl.float32)
    write(dk_ptr + offset, dk, mask, EVEN)
