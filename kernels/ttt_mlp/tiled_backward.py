"""``replay`` and ``reverse`` of ``kernels.ttt_mlp.backward`` for weights in memory (``kernels.ttt_mlp.tiled_chain``).

``replay`` has Z2 of every token from the forward pass: with it hidden units do not know of one another, and each tile of them
is a program of its own. ``reverse`` keeps dW1 and dW2 in memory and visits them once a mini-batch, as ``chain`` does W1 and
W2: a visit ends a mini-batch (dZ1, update) and begins the one before it (its share of P2 = X2 dW2' and of dE W2).

Bytes a token and head beyond theirs: 16 F N / C through L2 in ``reverse``; Z2, 2 F. Operations: F counts as BF, K dW1 twice.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import guarded, norm_l2_gradient_and_means, total, totals4
from kernels.ttt_mlp.chain import SCALE
from kernels.ttt_mlp.gelu import gelu_twice


@triton.jit(do_not_specialize=["chunks", "panel", "first_chunk"])
def replay(
    k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, w1c_ptr, w2c_ptr, b1c_ptr, z2_ptr,
    x2_ptr, slope_ptr, bend_ptr, d1_ptr, d2_ptr, zh_ptr, stats_ptr, w2m_ptr,
    T, H, chunks, panel, first_chunk,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid [B panel H, N / BN]. As ``kernels.ttt_mlp.backward.replay``, from ``z2`` [B, T, H, F]."""
    i_h, i_c = tl.program_id(0) % H, tl.program_id(0) // H % panel
    i_b, i_l = (tl.program_id(0) // H // panel).to(tl.int64), tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, BC), tl.arange(0, BF)[None, :], tl.program_id(1) * BN + tl.arange(0, BN)
    is_feature, is_first, is_slot = f < F, tl.program_id(1) == 0, t[None, :] < C
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=is_feature, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f, mask=is_feature, other=0.0).to(tl.float32)
    inside, tau_last = tl.where(is_feature, 1.0, 0.0), tl.load(tau_ptr + C - 1).to(tl.float32)
    i_w, matrix = (i_b * chunks + first_chunk + i_c) * H + i_h, n[:, None] * F + f
    w1 = tl.load(w1c_ptr + i_w * F * N + matrix, mask=is_feature, other=0.0).to(tl.float32)
    w2 = tl.load(w2c_ptr + i_w * F * N + matrix, mask=is_feature, other=0.0).to(tl.float32)
    b1 = tl.load(b1c_ptr + i_w * N + n)
    length = panel * CHUNK
    size = (tl.num_programs(0) // H // panel).to(tl.int64) * length * H
    for i in range(CHUNK // C):
        here = i_c * CHUNK + i * C + t
        at = first_chunk * CHUNK + here
        is_token = (at < T) & (t < C)
        rows, inner = (i_b * T + at) * H + i_h, (i_b * length + here) * H + i_h
        mask, is_mine = is_token[:, None] & is_feature, is_token[:, None] & is_first
        key = tl.load(k_ptr + rows[:, None] * F + f, mask=mask, other=0.0)
        v = tl.load(v_ptr + rows[:, None] * F + f, mask=mask, other=0.0).to(tl.float32)
        z2 = tl.load(z2_ptr + rows[:, None] * F + f, mask=mask, other=0.0).to(tl.float32)
        rho = tl.load(rho_ptr + rows, mask=is_token, other=0.0).to(tl.float32)
        shift = gamma * (beta - v + key.to(tl.float32))
        d2, zh, r, pull, tilt, curve = norm_l2_gradient_and_means(z2, shift, gamma * gamma, inside, 1, F, EPS)
        d2 = tl.where(is_token[:, None], d2 * (1 / SCALE), 0.0)  # 1/std of no token is large
        d2h, w2h = guarded(d2, OPERAND), w2.to(OPERAND)
        tl.store(d2_ptr + inner[:, None] * F + f, d2h, mask=mask & is_first)
        tl.store(zh_ptr + inner[:, None] * F + f, zh.to(OPERAND), mask=mask & is_first)
        tl.store(stats_ptr + inner[:, None], r, mask=is_mine)
        tl.store(stats_ptr + size + inner[:, None], tilt, mask=is_mine)
        tl.store(stats_ptr + 2 * size + inner[:, None], pull, mask=is_mine)
        tl.store(stats_ptr + 3 * size + inner[:, None], curve, mask=is_mine)
        z1 = tl.dot(w1.to(OPERAND), tl.trans(guarded(key, OPERAND)), input_precision=PRECISION) + b1[:, None]
        x2, slope, bend = gelu_twice(z1, FAST)
        x2h, e = x2.to(OPERAND), tl.dot(w2h, tl.trans(d2h), input_precision=PRECISION)
        hidden, d1 = (i_l * N + n[:, None]) * CHUNK + i * C + t[None, :], e * slope
        tl.store(x2_ptr + hidden, x2h, mask=is_slot)
        tl.store(slope_ptr + hidden, slope.to(OPERAND), mask=is_slot)
        tl.store(bend_ptr + hidden, guarded(e * bend, OPERAND), mask=is_slot)
        tl.store(d1_ptr + hidden, d1.to(OPERAND), mask=is_slot)
        i_m = (i_b * (length // C) + i_c * (CHUNK // C) + i) * H + i_h
        tl.store(w2m_ptr + i_m * F * N + matrix, w2h, mask=is_feature)
        eta = rho * (tau_last * -SCALE)
        b1 += tl.sum(d1 * eta[None, :], 1)
        step_k = guarded(key.to(tl.float32) * eta[:, None], OPERAND)
        w1 = tl.dot(d1.to(OPERAND), step_k, w1, input_precision=PRECISION)
        w2 = tl.dot(x2h, (d2 * eta[:, None]).to(OPERAND), w2, input_precision=PRECISION)


@triton.jit(do_not_specialize=["panel", "first_chunk"])
def reverse(
    k_ptr, rho_ptr, tau_ptr, gamma_ptr, x2_ptr, slope_ptr, bend_ptr, d2_ptr, zh_ptr, stats_ptr, w2m_ptr,
    g1_ptr, gx_ptr, g2_ptr, m1_ptr, m2_ptr, mb1_ptr, mb2_ptr,
    dz1_ptr, gu_ptr, pull_ptr, dw1c_ptr, db1c_ptr, dw1_ptr, dw2_ptr, db1_ptr, db2_ptr,
    T, H, panel, first_chunk,
    F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid [B H]. As ``kernels.ttt_mlp.backward.reverse``; dw1 and dw2 are read and written at every mini-batch."""
    i_b, i_h, i_p = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H, tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, BC), tl.arange(0, BF)[None, :], tl.arange(0, BN)
    is_feature = f < F
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=is_feature, other=0.0).to(tl.float32)
    gamma2 = gamma * gamma
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    length, tiles, per_chunk = panel * CHUNK, panel * (CHUNK // C), CHUNK // C
    size = (tl.num_programs(0) // H).to(tl.int64) * length * H
    matrix = n[:, None] * F + f
    dw1_ptr += i_p * N * F
    dw2_ptr += i_p * N * F
    db1_ptr += i_p * N
    db2 = tl.load(db2_ptr + i_p * F + f, mask=is_feature, other=0.0)
    k, eta = tl.zeros([BC, BF], OPERAND), tl.zeros([BC], tl.float32)
    p2, ew = tl.zeros([BC, BF], tl.float32), tl.zeros([BC, BF], tl.float32)
    for step in range(tiles + 1):
        i = tiles - step
        here = i * C + t
        is_token = (first_chunk * CHUNK + here < T) & (i < tiles) & (t < C)
        inner = (i_b * length + here) * H + i_h
        mask, narrow = is_token[:, None] & is_feature, inner[:, None] * F + f
        d2 = tl.load(d2_ptr + narrow, mask=mask, other=0.0).to(tl.float32) * SCALE
        zh = tl.load(zh_ptr + narrow, mask=mask, other=0.0).to(tl.float32)
        g2 = tl.load(g2_ptr + narrow, mask=mask, other=0.0).to(tl.float32)
        r = tl.load(stats_ptr + inner, mask=is_token, other=0.0)[:, None]
        tilt = tl.load(stats_ptr + size + inner, mask=is_token, other=0.0)[:, None]
        pull = tl.load(stats_ptr + 2 * size + inner, mask=is_token, other=0.0)[:, None]
        curve = tl.load(stats_ptr + 3 * size + inner, mask=is_token, other=0.0)[:, None]
        p2 += db2
        g = g2 - eta[:, None] * p2 + ew
        g -= total(g, 1) * tl.where(is_feature, 1.0 / F, 0.0)
        xg = gamma2 * g
        along, across, x_mean, x_along = totals4(g * zh, g * d2, xg, xg * zh, 1)
        along, across = along / F, across / F
        gu = r * (g - zh * along)
        x_mean, x_along = r * (x_mean / F - along * pull), r * (x_along / F - along * curve)
        dz2 = r * ((gamma2 - tilt) * gu - x_mean - zh * (x_along + across) - d2 * along)
        dz2 = tl.where(is_feature, dz2, 0.0)  # else db2 would gather what padding has
        rows = (i_b * T + first_chunk * CHUNK + here) * H + i_h
        tl.store(gu_ptr + rows[:, None] * F + f, gu.to(gu_ptr.dtype.element_ty), mask=mask)
        tl.store(pull_ptr + inner[:, None], total(d2 * p2, 1), mask=is_token[:, None])
        d2h, dz2h = guarded(d2, OPERAND), guarded(dz2, OPERAND)
        is_next = (first_chunk * CHUNK + here - C < T) & (i > 0) & (t < C)
        rows -= C * H
        next_k = guarded(tl.load(k_ptr + rows[:, None] * F + f, mask=is_next[:, None] & is_feature, other=0.0), OPERAND)
        next_eta = tl.load(rho_ptr + rows, mask=is_next, other=0.0).to(tl.float32) * tau_last
        is_border, i_c = i % per_chunk == 0, (i_b * panel + i // per_chunk) * H + i_h
        is_start, is_end = is_feature & is_border & (i < tiles), is_feature & is_border & (i > 0)
        db2 += total(dz2, 0) + tl.load(mb2_ptr + i_c * F + f, mask=is_start, other=0.0)
        p2, ew = tl.zeros([BC, BF], tl.float32), tl.zeros([BC, BF], tl.float32)
        i_m = (i_b * tiles + i) * H + i_h
        next_c = (i_b * panel + (i - 1) // per_chunk) * H + i_h
        column, next_column = i % per_chunk * C + t[None, :], (i - 1) % per_chunk * C + t[None, :]
        is_slot, is_next_slot = (t[None, :] < C) & (i < tiles), (t[None, :] < C) & (i > 0)
        for j in range(0, N, BN):
            dw1 = tl.load(dw1_ptr + j * F + matrix, mask=is_feature, other=0.0)
            dw2 = tl.load(dw2_ptr + j * F + matrix, mask=is_feature, other=0.0)
            db1 = tl.load(db1_ptr + j + n)
            w2 = tl.load(w2m_ptr + i_m * N * F + j * F + matrix, mask=is_feature & (i < tiles), other=0.0)
            hidden = (i_c * N + j + n[:, None]) * CHUNK + column
            x2 = tl.load(x2_ptr + hidden, mask=is_slot, other=0.0)
            slope = tl.load(slope_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32)
            bend = tl.load(bend_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32) * SCALE
            g1 = tl.load(g1_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32)
            gx = tl.load(gx_ptr + hidden, mask=is_slot, other=0.0).to(tl.float32)
            dd1 = g1 - eta[None, :] * (tl.dot(guarded(dw1, OPERAND), tl.trans(k), input_precision=PRECISION) + db1[:, None])
            dx2 = gx - eta[None, :] * tl.dot(guarded(dw2, OPERAND), tl.trans(d2h), input_precision=PRECISION)
            dx2 += tl.dot(w2, tl.trans(dz2h), input_precision=PRECISION)
            dz1 = dd1 * bend + dx2 * slope
            dz1h = guarded(dz1, OPERAND)
            tl.store(dz1_ptr + hidden, dz1h, mask=is_slot)
            dw1 = tl.dot(dz1h, k, dw1, input_precision=PRECISION)
            dw2 = tl.dot(guarded(dd1 * slope, OPERAND), d2h, dw2, input_precision=PRECISION)
            dw2 = tl.dot(x2, dz2h, dw2, input_precision=PRECISION)
            db1 += tl.sum(dz1, 1)
            dw1 += tl.load(m1_ptr + i_c * N * F + j * F + matrix, mask=is_start, other=0.0).to(tl.float32)
            dw2 += tl.load(m2_ptr + i_c * N * F + j * F + matrix, mask=is_start, other=0.0).to(tl.float32)
            db1 += tl.load(mb1_ptr + i_c * N + j + n, mask=is_border & (i < tiles), other=0.0)
            tl.store(dw1_ptr + j * F + matrix, dw1, mask=is_feature)
            tl.store(dw2_ptr + j * F + matrix, dw2, mask=is_feature)
            tl.store(db1_ptr + j + n, db1)
            dw1h = guarded(dw1, OPERAND)
            tl.store(dw1c_ptr + (i_c - H) * N * F + j * F + matrix, dw1h, mask=is_end)
            tl.store(db1c_ptr + (i_c - H) * N + j + n, db1, mask=is_border & (i > 0))
            hidden = (next_c * N + j + n[:, None]) * CHUNK + next_column
            x2 = tl.load(x2_ptr + hidden, mask=is_next_slot, other=0.0)
            slope = tl.load(slope_ptr + hidden, mask=is_next_slot, other=0.0).to(tl.float32)
            g1 = tl.load(g1_ptr + hidden, mask=is_next_slot, other=0.0).to(tl.float32)
            w2 = tl.load(w2m_ptr + (i_m - H) * N * F + j * F + matrix, mask=is_feature & (i > 0), other=0.0)
            dd1 = g1 - next_eta[None, :] * (tl.dot(dw1h, tl.trans(next_k), input_precision=PRECISION) + db1[:, None])
            p2 = tl.dot(tl.trans(x2), guarded(dw2, OPERAND), p2, input_precision=PRECISION)
            ew = tl.dot(tl.trans(guarded(dd1 * slope, OPERAND)), w2, ew, input_precision=PRECISION)
        k, eta = next_k, next_eta
        tl.debug_barrier()  # what one thread stored another one loads
    tl.store(db2_ptr + i_p * F + f, db2, mask=is_feature)
