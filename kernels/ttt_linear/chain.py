"""The chain of mini-batches of TTT-Linear: each needs the weights that the one before it left.

One program walks one head of one sequence with its weights in registers. Tiles are kept transposed, features x tokens, so that
W' [out, in] in float32 is the accumulator of its own update and, rounded, the left operand of the next product without leaving
the registers. Per mini-batch of C tokens, with the weights of its start (paper, appendix A; biases, LN and eta as the code's):

    Z' = W' K' + b        D = gradient of 1/2 |LN(Z) - (V - K)|^2 by Z        W' <- W' - (eta_C D)' K,   b <- b - sum eta_C D

D of every token and W at the start of every chunk are stored, and ``kernels.ttt_linear.chunks`` answers the queries of all
chunks at once: the chain is what takes the time, and an answer costs it half as much again as all else. For a backward pass
it leaves z_hat too, and the means that the derivative of D by Z needs: it has them, and who wants them later walks a chain.

Bytes a token and head: K, V read, D and, SAVE, z_hat written, 2 F each, W written, 2 F^2 / CHUNK. Operations: 2 products of
2 F^2.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import UNROLLED, guarded, layer_norm, norm_l2_gradient_and_means, read, total, write

MIDDLE, FIRST, LAST = (tl.constexpr(n) for n in range(3))


@triton.jit
def _tile(
    wT, bT, q_ptr, k_ptr, v_ptr, rho_ptr, out_ptr, d_ptr, zh_ptr, stats_ptr, slot_k_ptr, slot_d_ptr, slot_rho_ptr,
    gamma, beta, tau, tau_last, origin, begin, end, slots, H,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, MODE: tl.constexpr,
    EVEN: tl.constexpr, SAVE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One mini-batch, its slot 0 at token ``origin``; tokens in [begin, end) are new. FIRST: ``slots`` pairs are open."""
    f, t = tl.arange(0, BF)[:, None], tl.arange(0, BC)[None, :]
    at = origin + t
    is_new = (at >= begin) & (at < end)
    if BC != C:
        is_new &= t < C
    mask = is_new & (f < F)
    offset = at * (H * F) + f
    k = read(k_ptr + offset, mask, EVEN)
    v = read(v_ptr + offset, mask, EVEN).to(tl.float32)
    rho = read(rho_ptr + at * H, is_new, EVEN).to(tl.float32)
    kT = guarded(k, OPERAND)
    slot, is_open = t * F + f, t < slots
    if MODE == FIRST:
        kT = tl.where(is_open, tl.load(slot_k_ptr + slot, mask=is_open & (f < F), other=0.0).to(OPERAND), kT)
        rho = tl.where(is_open, tl.load(slot_rho_ptr + t, mask=is_open, other=0.0), rho)
    w16 = wT.to(OPERAND)
    zT = tl.dot(w16, kT, bT, input_precision=PRECISION)
    shift = gamma * (beta - v + k.to(tl.float32))
    inside = tl.where(f < F, 1.0, 0.0)
    dT, zhT, r, pull, tilt, curve = norm_l2_gradient_and_means(zT, shift, gamma * gamma, inside, 0, F, EPS)
    d16 = guarded(dT, OPERAND)
    if MODE == FIRST:
        d16 = tl.where(is_open, tl.load(slot_d_ptr + slot, mask=is_open & (f < F), other=0.0).to(OPERAND), d16)
        dT = tl.where(is_open, d16.to(tl.float32), dT)
    if MODE == MIDDLE:
        write(d_ptr + offset, d16, mask, EVEN)
        if SAVE:
            write(zh_ptr + offset, zhT, mask, EVEN)
            stats = tl.join(tl.join(r, pull), tl.join(tilt, curve))
            n = tl.arange(0, 4 * BC)[None, :]
            here = origin + n // 4
            write(stats_ptr + here * (4 * H) + n % 4, tl.reshape(stats, [1, 4 * BC]), (here < end) & (n < 4 * C), EVEN)
    else:
        is_kept = is_new & (origin + C > end) & (f < F)
        tl.store(slot_k_ptr + slot, kT.to(slot_k_ptr.dtype.element_ty), mask=is_kept)
        tl.store(slot_d_ptr + slot, d16.to(slot_d_ptr.dtype.element_ty), mask=is_kept)
        tl.store(slot_rho_ptr + t, rho, mask=is_new & (origin + C > end))
        q = tl.load(q_ptr + offset, mask=mask, other=0.0)
        qT = guarded(q, OPERAND)
        aT = tl.dot(tl.trans(kT), qT, input_precision=PRECISION) + 1.0
        aT = tl.where(tl.trans(t) <= t, aT * (tl.trans(rho) * tau), 0.0).to(OPERAND)
        zbT = tl.dot(w16, qT, bT, input_precision=PRECISION) - tl.dot(d16, aT, input_precision=PRECISION)
        out = q.to(tl.float32) + layer_norm(zbT, gamma, beta, 0, F, EPS)
        tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=mask)
    if MODE == FIRST:
        tau_last = tl.where(origin + C > end, 0.0, tau_last)
    if MODE != LAST:
        step = (dT * (-tau_last * rho)).to(OPERAND)
        wT = tl.dot(step, tl.trans(kT), wT, input_precision=PRECISION)
        bT = tl.dot(step, tl.full([BC, BC], 1.0, OPERAND), bT, input_precision=PRECISION)
    return wT, bT


@triton.jit
def chain(
    q_ptr, k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr,
    w_ptr, lo_ptr, b_ptr, slot_k_ptr, slot_d_ptr, slot_rho_ptr, position_ptr,
    out_ptr, d_ptr, wc_ptr, bc_ptr, zh_ptr, stats_ptr,
    T, H,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr,
    STATEFUL: tl.constexpr, SPLIT: tl.constexpr, EVEN: tl.constexpr, SAVE: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Walks the mini-batches of one head of one sequence. Grid [B H].

    q, k, v, out, d [B, T, H, F]; rho [B, T, H]; w [H, F, F], b [H, F], or STATEFUL the state of a batch, moved in place. EVEN:
    T is whole chunks. Left behind: d, and before each chunk of CHUNK tokens wc [B, chunks, H, F, F] and bc [B, chunks, H, F],
    centred. SAVE: also zh (z_hat) [B, T, H, F], and stats [B, T, H, 4]: 1/std of z and the means of gamma^2 z_hat, u z_hat and
    gamma^2 z_hat^2, u = gamma^2 z_hat + gamma (beta - V + K). STATEFUL: chunks begin with the second mini-batch; the first one
    and the one left open are answered here.
    """
    i_b, i_h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    f, c, t = tl.arange(0, BF)[:, None], tl.arange(0, BF)[None, :], tl.arange(0, BC)[None, :]
    is_weight = (f < F) & (c < F)
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f, mask=f < F, other=0.0).to(tl.float32)
    tau = tl.load(tau_ptr + t, mask=t < C, other=0.0).to(tl.float32)
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    first = i_b * T * H + i_h
    q_ptr += first * F
    k_ptr += first * F
    v_ptr += first * F
    out_ptr += first * F
    d_ptr += first * F
    zh_ptr += first * F
    stats_ptr += first * 4
    rho_ptr += first
    which = i_h.to(tl.int64)
    if STATEFUL:
        which += i_b * H
        slot_k_ptr += which * C * F
        slot_d_ptr += which * C * F
        slot_rho_ptr += which * C
    w_ptr += which * F * F
    b_ptr += which * F
    wT = tl.load(w_ptr + f + c * F, mask=is_weight, other=0.0).to(tl.float32)
    if SPLIT:
        lo_ptr += which * F * F
        wT += tl.load(lo_ptr + f + c * F, mask=is_weight, other=0.0).to(tl.float32)
    bias = tl.load(b_ptr + f, mask=f < F, other=0.0).to(tl.float32)
    w_mean, b_mean = total(wT, 0) / F, total(bias, 0) / F
    wT = tl.where(f < F, wT - w_mean, 0.0)
    bT = tl.where(f < F, bias - b_mean, 0.0) + tl.zeros([BF, BC], tl.float32)
    slots = 0
    if STATEFUL:
        slots = (tl.load(position_ptr + i_b) % C).to(tl.int32)
        wT, bT = _tile(
            wT, bT, q_ptr, k_ptr, v_ptr, rho_ptr, out_ptr, d_ptr, zh_ptr, stats_ptr, slot_k_ptr, slot_d_ptr, slot_rho_ptr,
            gamma, beta, tau, tau_last, -slots, 0, T, slots, H,
            EPS, F, BF, C, BC, FIRST, False, False, OPERAND, PRECISION,
        )  # fmt: skip
        begin, tiles = C - slots, (slots + T) // C - 1
    else:
        begin, tiles = 0, tl.cdiv(T, C)
    middle_end = tl.minimum(begin + tiles * C, T)
    chunks, saved = tl.cdiv(tiles, CHUNK // C), tl.cdiv(T, CHUNK)
    for i_c in tl.range(0, chunks, num_stages=STAGES):
        i_w = (i_b * saved + i_c) * H + i_h
        tl.store(wc_ptr + i_w * F * F + f + c * F, wT.to(OPERAND), mask=is_weight)
        tl.store(bc_ptr + i_w * F + f + t, bT, mask=(f < F) & (t == 0))
        for i in (tl.static_range if CHUNK // C <= UNROLLED else tl.range)(CHUNK // C):
            wT, bT = _tile(
                wT, bT, q_ptr, k_ptr, v_ptr, rho_ptr, out_ptr, d_ptr, zh_ptr, stats_ptr, slot_k_ptr, slot_d_ptr, slot_rho_ptr,
                gamma, beta, tau, tau_last, begin + i_c * CHUNK + i * C, 0, middle_end, 0, H,
                EPS, F, BF, C, BC, MIDDLE, EVEN, SAVE, OPERAND, PRECISION,
            )  # fmt: skip
    if STATEFUL:
        if (tiles >= 0) & (begin + tiles * C < T):
            _tile(
                wT, bT, q_ptr, k_ptr, v_ptr, rho_ptr, out_ptr, d_ptr, zh_ptr, stats_ptr, slot_k_ptr, slot_d_ptr, slot_rho_ptr,
                gamma, beta, tau, tau_last, begin + tiles * C, 0, T, 0, H,
                EPS, F, BF, C, BC, LAST, False, False, OPERAND, PRECISION,
            )  # fmt: skip
        wT = tl.where(is_weight, wT + w_mean, 0.0)
        if SPLIT:
            hi = guarded(wT, tl.float16)
            tl.store(w_ptr + f + c * F, hi, mask=is_weight)
            tl.store(lo_ptr + f + c * F, (wT - hi.to(tl.float32)).to(tl.bfloat16), mask=is_weight)
        else:
            tl.store(w_ptr + f + c * F, wT, mask=is_weight)
        tl.store(b_ptr + f + t, bT + b_mean, mask=(f < F) & (t == 0))
