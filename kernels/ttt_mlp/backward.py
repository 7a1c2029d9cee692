"""Gradients of TTT-MLP, in four kernels: three over all chunks at once, and between them a chain in reverse.

Of the forward pass there are W and b at the start of every chunk (``kernels.ttt_mlp.chain``), from which its answers are
worked out once more (``kernels.ttt_mlp.answers``, which has Zb1, Xb2, Zb2 and e).
dW', db' are gradients by the state after a mini-batch, D = delta(Z2, V - K), D1 = E * GELU'(Z1), E = D2 W2':

``replay``   the mini-batches of a chunk once more: X2, GELU'(Z1), E * GELU''(Z1), D1, D2, z_hat and W2 of each
``queries``  A = e * (.. + 1) of either layer;  dZb2 from dOut through LN;  S2 = -e * (dZb2 D2')
             dXb2 = dZb2 W2' + S2 X2,  Gx = S2' Xb2,  G2 = -A2' dZb2,  M2 = Xb2' dZb2
             dZb1 = dXb2 * GELU'(Zb1);  S1 = -e * (dZb1 D1');  G1 = -A1' dZb1,  M1 = Q' dZb1
             dQ = dOut + dZb1 W1' + S1 K,  dK_1 = S1' Q
``reverse``  dD1 = G1 - eta_C (K dW1' + db1'),  dE = dD1 * GELU'(Z1),  dD2 = G2 - eta_C (X2 dW2' + db2') + dE W2,  dZ2 = J dD2
             dX2 = Gx - eta_C D2 dW2'' + dZ2 W2',  dZ1 = dD1 * E * GELU''(Z1) + dX2 * GELU'(Z1)
             dW1 = dW1' + K' dZ1,  dW2 = dW2' + dE' D2 + X2' dZ2;  at the start of a chunk dW1 += M1, dW2 += M2
``keys``     N = before * (dZ1 D1')  (pairs whose second token is in an earlier mini-batch of the chunk)
             X = D1 dW1_c' + N' K  (dW1_c: by the state after the chunk),  dV = dT
             dK = dK_1 + dZ1 W1' - N (eta_C K) - eta_C X - dT,  drho_j -= tau_C (K_j X_j + D1_j db1' + sum_i N_ij + D2_j P2_j)

with P2 = X2 dW2' + db2' and J the derivative of D by Z2. Everything is worked out for dOut times ``gradient_scale``, to fit
float16 operands; what leaves as the gradient of an input is divided by it. Sums over programs are partials, added outside in a
fixed order. The sequence is walked panel by panel from its end, so that what one kernel leaves to the next stays within a
bound. Its bytes a token and head: 12 N for hidden tiles, 2 F N / C for W2 and 6 F N / CHUNK for M1, M2, dW1_c, all written and
read. Hidden tiles lie there as hidden x tokens, as the walks hold them: the other way round each would be transposed through
shared memory.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import guarded, total, totals4, totals5
from kernels.ttt_mlp.answers import chunk_answers, features
from kernels.ttt_mlp.chain import SCALE
from kernels.ttt_mlp.gelu import gelu, gelu_twice


@triton.jit(do_not_specialize=["chunks", "panel", "first_chunk"])  # panels differ, their code need not
def replay(
    k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, w1c_ptr, w2c_ptr, b1c_ptr, b2c_ptr,
    x2_ptr, slope_ptr, bend_ptr, d1_ptr, d2_ptr, zh_ptr, stats_ptr, w2m_ptr,
    T, H, chunks, panel, first_chunk,
    EPS: tl.constexpr, F: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid [B panel H], ``panel`` chunks of all ``chunks``, from ``first_chunk`` on; L = panel CHUNK tokens.

    x2, slope (GELU' of z1), bend / SCALE (e GELU'' of z1), d1 / SCALE [B, panel, H, N, CHUNK]; d2 / SCALE, zh [B, L, H, F];
    w2m: W2 of every mini-batch [B, L / C, H, N, F]; stats [4, B, L, H]: 1/std of z2 and the means of u z_hat, gamma^2 z_hat and
    gamma^2 z_hat^2, u = gamma^2 z_hat + gamma (beta - V + K).
    """
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % panel
    i_b, i_l = (tl.program_id(0) // H // panel).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, BC), tl.arange(0, F)[None, :], tl.arange(0, N)[:, None]
    gamma = tl.load(gamma_ptr + i_h * F + f).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f).to(tl.float32)
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    i_w = (i_b * chunks + first_chunk + i_c) * H + i_h
    w1 = tl.load(w1c_ptr + i_w * F * N + n * F + f).to(tl.float32)
    w2 = tl.load(w2c_ptr + i_w * F * N + n * F + f).to(tl.float32)
    b1 = tl.load(b1c_ptr + i_w * N + tl.arange(0, N))
    b2 = tl.load(b2c_ptr + i_w * F + tl.arange(0, F))
    length = panel * CHUNK
    size = (tl.num_programs(0) // H // panel).to(tl.int64) * length * H
    for i in range(CHUNK // C):
        here = i_c * CHUNK + i * C + t
        at = first_chunk * CHUNK + here
        is_token = (at < T) & (t < C)
        rows, inner = (i_b * T + at) * H + i_h, (i_b * length + here) * H + i_h
        mask = is_token[:, None]
        key = tl.load(k_ptr + rows[:, None] * F + f, mask=mask, other=0.0)
        v = tl.load(v_ptr + rows[:, None] * F + f, mask=mask, other=0.0).to(tl.float32)
        rho = tl.load(rho_ptr + rows, mask=is_token, other=0.0).to(tl.float32)
        k, w2h = guarded(key, OPERAND), w2.to(OPERAND)
        z1 = tl.dot(w1.to(OPERAND), tl.trans(k), input_precision=PRECISION) + b1[:, None]
        x2, slope, bend = gelu_twice(z1, FAST)
        x2h = x2.to(OPERAND)
        hidden, is_slot = (i_l * N + n) * CHUNK + i * C + t[None, :], t[None, :] < C
        tl.store(x2_ptr + hidden, x2h, mask=is_slot)
        tl.store(slope_ptr + hidden, slope.to(OPERAND), mask=is_slot)
        z2 = tl.dot(tl.trans(x2h), w2h, input_precision=PRECISION) + b2[None, :]
        gz, shift = gamma * gamma * z2, gamma * (beta - v + key.to(tl.float32))
        squares, pulls, curves, tilts = totals4(z2 * z2, gz, gz * z2, shift * z2, 1)
        r = tl.rsqrt(squares / F + EPS)
        pull, curve = r * pulls / F, r * r * curves / F
        tilt, zh = curve + r * tilts / F, r * z2
        d2 = r * (r * gz + shift - pull - total(shift, 1) / F - zh * tilt) * (1 / SCALE)
        d2h = guarded(d2, OPERAND)
        e = tl.dot(w2h, tl.trans(d2h), input_precision=PRECISION)
        d1 = e * slope
        tl.store(bend_ptr + hidden, guarded(e * bend, OPERAND), mask=is_slot)
        tl.store(d1_ptr + hidden, d1.to(OPERAND), mask=is_slot)
        tl.store(d2_ptr + inner[:, None] * F + f, d2h, mask=mask)
        tl.store(zh_ptr + inner[:, None] * F + f, zh.to(OPERAND), mask=mask)
        tl.store(stats_ptr + inner[:, None], r, mask=mask)
        tl.store(stats_ptr + size + inner[:, None], tilt, mask=mask)
        tl.store(stats_ptr + 2 * size + inner[:, None], pull, mask=mask)
        tl.store(stats_ptr + 3 * size + inner[:, None], curve, mask=mask)
        i_m = (i_b * (length // C) + i_c * (CHUNK // C) + i) * H + i_h
        tl.store(w2m_ptr + i_m * F * N + n * F + f, w2h)
        eta = rho * (tau_last * -SCALE)
        step = d2 * eta[:, None]
        b1 += tl.sum(d1 * eta[None, :], 1)
        b2 += tl.sum(step, 0)
        step_k = guarded(key.to(tl.float32) * eta[:, None], OPERAND)
        w1 = tl.dot(d1.to(OPERAND), step_k, w1, input_precision=PRECISION)
        w2 = tl.dot(x2h, step.to(OPERAND), w2, input_precision=PRECISION)


@triton.jit(do_not_specialize=["chunks", "panel", "first_chunk"])
def queries(
    q_ptr, k_ptr, rho_ptr, tau_ptr, gamma_ptr, w1c_ptr, w2c_ptr, b1c_ptr, b2c_ptr, dout_ptr, scale_ptr, x2_ptr, d1_ptr, d2_ptr,
    dq_ptr, dk_ptr, g1_ptr, gx_ptr, g2_ptr, m1_ptr, m2_ptr, mb1_ptr, mb2_ptr, drho_ptr, dtau_ptr, dgamma_ptr, dbeta_ptr,
    T, H, chunks, panel, first_chunk,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    C: tl.constexpr, CHUNK: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid [B panel H], features padded to BF, hidden units in tiles of BN.

    dq, dk (dK_1) [B, T, H, F]; g1, gx [B, panel, H, N, CHUNK]; g2 [B, L, H, F]; m1 (transposed), m2 [B, panel, H, N, F];
    mb1 [B, panel, H, N]; mb2 [B, panel, H, F]; dgamma, dbeta [B, chunks, H, F]; drho [B, T, H]; dtau [B, chunks, H, CHUNK] by
    query, to be summed over queries of one slot.
    """
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % panel
    i_b, i_l = (tl.program_id(0) // H // panel).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, CHUNK), tl.arange(0, BF), tl.arange(0, BN)[:, None]
    inside = features(F, BF)
    here = i_c * CHUNK + t
    at = first_chunk * CHUNK + here
    is_token = at < T
    mask, row_mask = is_token[None, :] & inside[:, None], is_token[:, None] & inside[None, :]
    rows, inner = (i_b * T + at) * H + i_h, (i_b * (panel * CHUNK) + here) * H + i_h
    offset, hidden = rows[None, :] * F + f[:, None], (i_l * N + n) * CHUNK + t[None, :]
    i_w = (i_b * chunks + first_chunk + i_c) * H + i_h
    k = guarded(tl.load(k_ptr + offset, mask=mask, other=0.0), OPERAND)
    q = guarded(tl.load(q_ptr + offset, mask=mask, other=0.0), OPERAND)
    d2 = tl.load(d2_ptr + inner[:, None] * F + f[None, :], mask=row_mask, other=0.0)
    rho = tl.load(rho_ptr + rows, mask=is_token, other=0.0).to(tl.float32)[:, None]
    weight, matrix = i_w * F * N + n * F + f[None, :], (i_l * N + n) * F + f[None, :]
    zb2, p1, p2, a1, a2, factors, is_near = chunk_answers(
        q, k, d2, rho, tau_ptr, x2_ptr + i_l * N * CHUNK, d1_ptr + i_l * N * CHUNK,
        w1c_ptr + i_w * F * N, w2c_ptr + i_w * F * N, b1c_ptr + i_w * N, b2c_ptr + i_w * F,
        F, BF, N, BN, C, CHUNK, OPERAND, PRECISION, FAST,
    )  # fmt: skip
    r = tl.rsqrt(total(zb2 * zb2, 0) / F + EPS)
    zb2 *= r
    dout = tl.load(dout_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(dgamma_ptr + i_w * F + f, tl.sum(dout * zb2, 1), mask=inside)
    tl.store(dbeta_ptr + i_w * F + f, tl.sum(dout, 1), mask=inside)
    scale = tl.load(scale_ptr + i_b * H + i_h)
    dout *= scale
    dy = dout * tl.load(gamma_ptr + i_h * F + f, mask=inside, other=0.0).to(tl.float32)[:, None]
    dzb2 = r * (dy - total(dy, 0) / F - zb2 * (total(dy * zb2, 0) / F))
    tl.store(mb2_ptr + i_l * F + f, tl.sum(dzb2, 1), mask=inside)
    dzb2 = guarded(dzb2, OPERAND)
    da2 = tl.dot(d2, dzb2, input_precision=PRECISION) * -SCALE
    pulls, s2 = da2 * p2, guarded(da2 * (factors * rho), OPERAND)
    g2 = tl.dot(guarded(-a2, OPERAND), tl.trans(dzb2), input_precision=PRECISION)
    tl.store(g2_ptr + inner[:, None] * F + f[None, :], guarded(g2, OPERAND), mask=row_mask)

    da1, dq = tl.zeros([CHUNK, CHUNK], tl.float32), dout
    for i in range(0, N, BN):
        b1, w1 = tl.load(b1c_ptr + i_w * N + i + n), tl.load(w1c_ptr + weight + i * F, mask=inside[None, :], other=0.0)
        d1 = tl.load(d1_ptr + hidden + i * CHUNK)
        zb1 = tl.dot(w1, q, input_precision=PRECISION) + b1
        xb2, slope = gelu(tl.dot(d1, a1, zb1, input_precision=PRECISION), FAST)
        xb2 = xb2.to(OPERAND)
        w2 = tl.load(w2c_ptr + weight + i * F, mask=inside[None, :], other=0.0)
        dxb2 = tl.dot(w2, dzb2, input_precision=PRECISION)
        dxb2 = tl.dot(tl.load(x2_ptr + hidden + i * CHUNK), s2, dxb2, input_precision=PRECISION)
        gx = tl.dot(xb2, tl.trans(s2), input_precision=PRECISION)
        tl.store(gx_ptr + hidden + i * CHUNK, guarded(gx, OPERAND))
        m2 = tl.dot(xb2, tl.trans(dzb2), input_precision=PRECISION)
        tl.store(m2_ptr + matrix + i * F, guarded(m2, OPERAND), mask=inside[None, :])
        dzb1 = dxb2 * slope
        tl.store(mb1_ptr + i_l * N + i + n, total(dzb1, 1))
        dzb1 = guarded(dzb1, OPERAND)
        g1 = tl.dot(dzb1, tl.trans(a1), input_precision=PRECISION) * (1 / SCALE)
        tl.store(g1_ptr + hidden + i * CHUNK, guarded(g1, OPERAND))
        m1 = tl.dot(dzb1, tl.trans(q), input_precision=PRECISION)
        tl.store(m1_ptr + matrix + i * F, guarded(m1, OPERAND), mask=inside[None, :])
        da1 = tl.dot(tl.trans(d1), dzb1, da1, input_precision=PRECISION)
        dq = tl.dot(tl.trans(w1), dzb1, dq, input_precision=PRECISION)
    da1 *= -SCALE
    pulls = (pulls + da1 * p1) / scale
    tl.store(drho_ptr + rows, tl.sum(pulls * factors, 1), mask=is_token)
    pulls *= rho
    near = tl.sum(tl.where(is_near & (t[:, None] <= t[None, :]), pulls, 0.0), 0)
    far = tl.sum(tl.where(is_near, 0.0, tl.where(t[:, None] < t[None, :], pulls, 0.0)), 0)
    tl.store(dtau_ptr + i_w * CHUNK + t, near + tl.where(t == C - 1, tl.sum(far, 0), 0.0))
    s1 = guarded(da1 * (factors * rho), OPERAND)
    dq = tl.dot(k, s1, dq, input_precision=PRECISION)
    tl.store(dq_ptr + offset, (dq / scale).to(dq_ptr.dtype.element_ty), mask=mask)
    dk = tl.dot(s1, tl.trans(q), input_precision=PRECISION)
    tl.store(dk_ptr + tl.trans(offset), (dk / scale).to(dk_ptr.dtype.element_ty), mask=row_mask)


@triton.jit(do_not_specialize=["panel", "first_chunk"])
def reverse(
    k_ptr, rho_ptr, tau_ptr, gamma_ptr, x2_ptr, slope_ptr, bend_ptr, d2_ptr, zh_ptr, stats_ptr, w2m_ptr,
    g1_ptr, gx_ptr, g2_ptr, m1_ptr, m2_ptr, mb1_ptr, mb2_ptr,
    dz1_ptr, gu_ptr, pull_ptr, dw1c_ptr, db1c_ptr, dw1_ptr, dw2_ptr, db1_ptr, db2_ptr,
    T, H, panel, first_chunk,
    F: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid [B H], from the last mini-batch of a panel to its first.

    dz1 [B, panel, H, N, CHUNK]; gu: by u [B, T, H, F]; pull: D2 P2 [B, L, H]; dw1c (transposed), db1c: by the state after each
    chunk [B, panel, H, N, F], [B, panel, H, N]; dw1 (transposed), dw2 [B, H, N, F], db1 [B, H, N], db2 [B, H, F]: by the state
    after the panel, and on return by the one before it. The gradients of W1 and W2 fill half
    of the registers, so loads stand where their tiles are used; db2's sums over tokens are a product with ones.

    J g, with g_u = r (g - z_hat mean(g z_hat)) and x = gamma^2 g_u, g without its mean:
    r (x - mean(x) - z_hat mean(x z_hat) - g_u mean(u z_hat) - D mean(g z_hat) - z_hat mean(g D)).
    Only rounding gives g a mean; left there it would feed its own growth, in dW2 and db2, wherever 1/std is large.
    """
    i_b, i_h, i_p = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H, tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, BC), tl.arange(0, F)[None, :], tl.arange(0, N)[:, None]
    gamma = tl.load(gamma_ptr + i_h * F + f).to(tl.float32)
    gamma2 = gamma * gamma
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    length, size = panel * CHUNK, (tl.num_programs(0) // H).to(tl.int64) * panel * CHUNK * H
    matrix, bias, row = n * F + f, tl.arange(0, N), t[:, None] * 0 + f
    dw1, dw2 = tl.load(dw1_ptr + i_p * N * F + matrix), tl.load(dw2_ptr + i_p * N * F + matrix)
    db1, db2 = tl.load(db1_ptr + i_p * N + bias), tl.load(db2_ptr + i_p * F + row)
    for later in tl.range(0, panel, num_stages=1):  # else, where a chunk is one mini-batch, its loads would fill shared memory
        i_c = panel - 1 - later
        i_l = (i_b * panel + i_c) * H + i_h
        tl.store(dw1c_ptr + i_l * N * F + matrix, guarded(dw1, OPERAND))
        tl.store(db1c_ptr + i_l * N + bias, db1)
        for step in tl.range(0, CHUNK // C, num_stages=STAGES):
            i = (i_c + 1) * (CHUNK // C) - 1 - step
            here = i * C + t
            at = first_chunk * CHUNK + here
            is_token, is_slot = (at < T) & (t < C), t[None, :] < C
            mask = is_token[:, None]
            rows, inner = (i_b * T + at) * H + i_h, (i_b * length + here) * H + i_h
            hidden, narrow = (i_l * N + n) * CHUNK + i % (CHUNK // C) * C + t[None, :], inner[:, None] * F + f
            eta = tl.load(rho_ptr + rows, mask=is_token, other=0.0).to(tl.float32) * -tau_last
            dw2h = guarded(dw2, OPERAND)
            x2 = tl.load(x2_ptr + hidden, mask=is_slot, other=0.0)
            p2 = tl.dot(tl.trans(x2), dw2h, db2, input_precision=PRECISION)
            d2 = tl.load(d2_ptr + narrow, mask=mask, other=0.0).to(tl.float32) * SCALE
            d2h = guarded(d2, OPERAND)
            dx2 = tl.dot(dw2h, tl.trans(d2h), input_precision=PRECISION) * eta[None, :]
            dx2 += tl.load(gx_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32)
            k = guarded(tl.load(k_ptr + rows[:, None] * F + f, mask=mask, other=0.0), OPERAND)
            dd1 = (tl.dot(guarded(dw1, OPERAND), tl.trans(k), input_precision=PRECISION) + db1[:, None]) * eta[None, :]
            dd1 += tl.load(g1_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32)
            slope = tl.load(slope_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32)
            de = guarded(dd1 * slope, OPERAND)
            dw2 = tl.dot(de, d2h, dw2, input_precision=PRECISION)
            w2 = tl.load(w2m_ptr + ((i_b * panel * (CHUNK // C) + i) * H + i_h) * N * F + matrix)
            g = tl.load(g2_ptr + narrow, mask=mask, other=0.0).to(tl.float32) + eta[:, None] * p2
            g = tl.dot(tl.trans(de), w2, g, input_precision=PRECISION)
            zh = tl.load(zh_ptr + narrow, mask=mask, other=0.0).to(tl.float32)
            r = tl.load(stats_ptr + inner, mask=is_token, other=0.0)[:, None]
            tilt = tl.load(stats_ptr + size + inner, mask=is_token, other=0.0)[:, None]
            pull = tl.load(stats_ptr + 2 * size + inner, mask=is_token, other=0.0)[:, None]
            curve = tl.load(stats_ptr + 3 * size + inner, mask=is_token, other=0.0)[:, None]
            g -= total(g, 1) * (1.0 / F)
            xg = gamma2 * g
            along, across, x_mean, x_along, pulled = totals5(g * zh, g * d2, xg, xg * zh, d2 * p2, 1)
            along, across = along / F, across / F
            gu = r * (g - zh * along)
            x_mean, x_along = r * (x_mean / F - along * pull), r * (x_along / F - along * curve)
            dz2 = guarded(r * ((gamma2 - tilt) * gu - x_mean - zh * (x_along + across) - d2 * along), OPERAND)
            tl.store(gu_ptr + rows[:, None] * F + f, gu.to(gu_ptr.dtype.element_ty), mask=mask)
            tl.store(pull_ptr + inner[:, None], pulled, mask=mask)
            db2 = tl.dot(tl.full([BC, BC], 1.0, OPERAND), dz2, db2, input_precision=PRECISION)
            dw2 = tl.dot(x2, dz2, dw2, input_precision=PRECISION)
            dx2 = tl.dot(w2, tl.trans(dz2), dx2, input_precision=PRECISION)
            dz1 = dd1 * (tl.load(bend_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32) * SCALE) + dx2 * slope
            dz1h = guarded(dz1, OPERAND)
            tl.store(dz1_ptr + hidden, dz1h, mask=is_slot)
            db1 += tl.sum(dz1, 1)
            dw1 = tl.dot(dz1h, k, dw1, input_precision=PRECISION)
        dw1 += tl.load(m1_ptr + i_l * N * F + matrix).to(tl.float32)
        dw2 += tl.load(m2_ptr + i_l * N * F + matrix).to(tl.float32)
        db1 += tl.load(mb1_ptr + i_l * N + bias)
        db2 += tl.load(mb2_ptr + i_l * F + f)
    tl.store(dw1_ptr + i_p * N * F + matrix, dw1)
    tl.store(dw2_ptr + i_p * N * F + matrix, dw2)
    tl.store(db1_ptr + i_p * N + bias, db1)
    tl.store(db2_ptr + i_p * F + row, db2, mask=t[:, None] == 0)


@triton.jit(do_not_specialize=["chunks", "panel", "first_chunk"])
def keys(
    k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, w1c_ptr, scale_ptr,
    d1_ptr, zh_ptr, dz1_ptr, pull_ptr, dw1c_ptr, db1c_ptr,
    dk_ptr, dv_ptr, drho_ptr, dtau_ptr, dgamma_ptr, dbeta_ptr,
    T, H, chunks, panel, first_chunk,
    F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, C: tl.constexpr, CHUNK: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid [B panel H], features padded to BF.

    dk (dK_1), dv (gradient by u, scaled), drho come from the kernels before and leave complete; dtau [B, chunks, H]: share of
    tau_C; dgamma, dbeta [B, chunks, H, F] are added to.
    """
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % panel
    i_b, i_l = (tl.program_id(0) // H // panel).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, CHUNK), tl.arange(0, BF)[None, :], tl.arange(0, BN)
    inside = features(F, BF)[None, :]
    here = i_c * CHUNK + t
    at = first_chunk * CHUNK + here
    is_token = at < T
    mask = is_token[:, None] & inside
    rows, inner = (i_b * T + at) * H + i_h, (i_b * (panel * CHUNK) + here) * H + i_h
    offset, hidden = rows[:, None] * F + f, (i_l * N + n[:, None]) * CHUNK + t[None, :]
    i_w = (i_b * chunks + first_chunk + i_c) * H + i_h
    key = tl.load(k_ptr + offset, mask=mask, other=0.0)
    k = guarded(key, OPERAND)
    rho = tl.load(rho_ptr + rows, mask=is_token, other=0.0).to(tl.float32)
    tau_last, scale = tl.load(tau_ptr + C - 1).to(tl.float32), tl.load(scale_ptr + i_b * H + i_h)
    weight = n[:, None] * F + f
    pairs, pulls = tl.zeros([CHUNK, CHUNK], tl.float32), tl.zeros([CHUNK], tl.float32)
    x, dk = tl.zeros([CHUNK, BF], tl.float32), tl.zeros([CHUNK, BF], tl.float32)
    for i in range(0, N, BN):
        d1 = tl.load(d1_ptr + hidden + i * CHUNK)
        dz1 = tl.load(dz1_ptr + hidden + i * CHUNK)
        db1 = tl.load(db1c_ptr + i_l * N + i + n)
        pulls += tl.sum(d1.to(tl.float32) * db1[:, None], 0)
        pairs = tl.dot(tl.trans(dz1), d1, pairs, input_precision=PRECISION)
        dw1 = tl.load(dw1c_ptr + i_l * F * N + i * F + weight, mask=inside, other=0.0)
        x = tl.dot(tl.trans(d1), dw1, x, input_precision=PRECISION)
        w1 = tl.load(w1c_ptr + i_w * F * N + i * F + weight, mask=inside, other=0.0)
        dk = tl.dot(tl.trans(dz1), w1, dk, input_precision=PRECISION)
    pairs = tl.where(t[None, :] // C < t[:, None] // C, pairs, 0.0)
    x = tl.dot(tl.trans(guarded(pairs, OPERAND)), k, x, input_precision=PRECISION)
    pulls += tl.sum(key.to(tl.float32) * x, 1) + tl.sum(pairs, 0)
    pulls = (pulls * SCALE + tl.load(pull_ptr + inner, mask=is_token, other=0.0)) / scale
    drho = tl.load(drho_ptr + rows, mask=is_token, other=0.0)
    tl.store(drho_ptr + rows, drho - tau_last * pulls, mask=is_token)
    tl.store(dtau_ptr + i_w, -tl.sum(rho * pulls, 0))
    eta = rho * (tau_last * SCALE)
    dk -= tl.dot(guarded(pairs * eta[None, :], OPERAND), k, input_precision=PRECISION) + eta[:, None] * x
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=inside, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f, mask=inside, other=0.0).to(tl.float32)
    gu = tl.load(dv_ptr + offset, mask=mask, other=0.0).to(tl.float32) / scale
    zh = tl.load(zh_ptr + inner[:, None] * F + f, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    dgamma = total((2 * gamma * zh + beta - v + key.to(tl.float32)) * gu, 0)
    dgamma += tl.load(dgamma_ptr + i_w * F + f, mask=inside, other=0.0)
    tl.store(dgamma_ptr + i_w * F + f, dgamma, mask=inside)
    dbeta = total(gamma * gu, 0) + tl.load(dbeta_ptr + i_w * F + f, mask=inside, other=0.0)
    tl.store(dbeta_ptr + i_w * F + f, dbeta, mask=inside)
    dk = dk / scale + tl.load(dk_ptr + offset, mask=mask, other=0.0).to(tl.float32) + gamma * gu
    tl.store(dk_ptr + offset, dk.to(dk_ptr.dtype.element_ty), mask=mask)
    tl.store(dv_ptr + offset, (-gamma * gu).to(dv_ptr.dtype.element_ty), mask=mask)
