"""The chain of TTT-MLP where its weights fill no registers: at head dim 96 W1 and W2 are 288 KiB, a multiprocessor has 256.

The formulas are those of ``kernels.ttt_mlp.chain``. The weights lie in float32 in memory, small enough for L2, and are visited
in tiles of BN hidden units. What follows Z2, a sum over all of them, waits for the last tile, so one visit ends a mini-batch
(D1, queries, update) and begins the next (its share of Z2): one read and one write of the weights a mini-batch. The walk begins
one mini-batch early, with no tokens and so with no update. It answers queries itself, which leaves nothing to ``answers``.

Features are padded to BF, a power of two, in registers alone: memory never holds the padding.

Bytes a token and head: Q, K, V read, out written, 2 F each, 16 F N / C through L2. Operations: F counts as BF, K W1 twice.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import guarded, layer_norm, norm_l2_gradient, total
from kernels.ttt_mlp.chain import SCALE
from kernels.ttt_mlp.forward import Forward
from kernels.ttt_mlp.gelu import gelu
from kernels.ttt_mlp.launch import modes, padding, sizes, warps


@triton.jit
def _keys_of(k_ptr, slot_k_ptr, at, i, slots, T, H, F: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr, C: tl.constexpr,
             STATEFUL: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """Keys [BC, BF] of mini-batch i, whose slots are at tokens ``at``; of the first one ``slots`` pairs are open before."""
    t, f = tl.arange(0, BC), tl.arange(0, BF)[None, :]
    is_new = ((at >= 0) & (at < T) & (t < C))[:, None] & (f < F)
    k = guarded(tl.load(k_ptr + at[:, None] * (H * F) + f, mask=is_new, other=0.0), OPERAND)
    if STATEFUL:
        is_open = ((t < slots) & (i == 0))[:, None] & (f < F)
        k = tl.where(is_open, tl.load(slot_k_ptr + t[:, None] * F + f, mask=is_open, other=0.0).to(OPERAND), k)
    return k


@triton.jit
def chain(
    q_ptr, k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, w1_ptr, w2_ptr, b1_ptr, b2_ptr,
    slot_k_ptr, slot_x_ptr, slot_d1_ptr, slot_d2_ptr, slot_rho_ptr, position_ptr,
    out_ptr, w1c_ptr, w2c_ptr, b1c_ptr, b2c_ptr, z2_ptr,
    T, H,
    EPS: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr, STATEFUL: tl.constexpr, SAVE: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid [B H]. Tensors as of ``kernels.ttt_mlp.chain.chain``; SAVE: of all chunks, and z2 [B, T, H, F] of every token."""
    i_b, i_h, i_p = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H, tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, BC), tl.arange(0, BF)[None, :], tl.arange(0, BN)
    is_feature = f < F
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=is_feature, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f, mask=is_feature, other=0.0).to(tl.float32)
    tau = tl.load(tau_ptr + t, mask=t < C, other=0.0).to(tl.float32)
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    first = i_b * T * H + i_h
    q_ptr += first * F
    k_ptr += first * F
    v_ptr += first * F
    out_ptr += first * F
    z2_ptr += first * F
    rho_ptr += first
    slots = 0
    if STATEFUL:
        slots = (tl.load(position_ptr + i_b) % C).to(tl.int32)
        slot_k_ptr += i_p * C * F
        slot_x_ptr += i_p * C * N
        slot_d1_ptr += i_p * C * N
        slot_d2_ptr += i_p * C * F
        slot_rho_ptr += i_p * C
    w1_ptr += i_p * N * F
    w2_ptr += i_p * N * F
    b1_ptr += i_p * N
    b2 = tl.load(b2_ptr + i_p * F + f, mask=is_feature, other=0.0)
    matrix, slot = n[:, None] * F + f, t[:, None] * F + f
    tiles = tl.cdiv(slots + T, C)
    kh, z2 = tl.zeros([BC, BF], OPERAND), tl.zeros([BC, BF], tl.float32)
    for i in range(-1, tiles):
        at = i * C - slots + t
        is_new = (at >= 0) & (at < T) & (t < C)
        is_unfinished = (i + 1) * C - slots > T
        offset, mask = at[:, None] * (H * F) + f, is_new[:, None] & is_feature
        q = tl.load(q_ptr + offset, mask=mask, other=0.0)
        v = tl.load(v_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        rho = tl.load(rho_ptr + at * H, mask=is_new, other=0.0).to(tl.float32)
        z2 += b2
        shift = gamma * (beta - v + kh.to(tl.float32))
        d2 = norm_l2_gradient(z2, shift, gamma * gamma, tl.where(is_feature, 1.0, 0.0), 1, F, EPS) * (1 / SCALE)
        if SAVE:
            tl.store(z2_ptr + offset, guarded(z2, OPERAND), mask=mask)
        if STATEFUL:
            is_open = (t < slots) & (i == 0)
            rho = tl.where(is_open, tl.load(slot_rho_ptr + t, mask=is_open, other=0.0), rho)
            is_held = is_open[:, None] & is_feature
            d2 = tl.where(is_held, tl.load(slot_d2_ptr + slot, mask=is_held, other=0.0).to(tl.float32) * (1 / SCALE), d2)
            is_kept = is_new & is_unfinished
            tl.store(slot_rho_ptr + t, rho, mask=is_kept)
            tl.store(slot_k_ptr + slot, kh.to(slot_k_ptr.dtype.element_ty), mask=is_kept[:, None] & is_feature)
            kept = guarded(d2 * SCALE, slot_d2_ptr.dtype.element_ty)
            tl.store(slot_d2_ptr + slot, kept, mask=is_kept[:, None] & is_feature)
        qh, d2h = guarded(q, OPERAND), guarded(d2, OPERAND)
        a1 = tl.dot(kh, tl.trans(qh), input_precision=PRECISION) + 1.0
        a1 = tl.where(t[:, None] <= t[None, :], a1 * (rho[:, None] * (tau * -SCALE)[None, :]), 0.0).to(OPERAND)
        eta = rho * tl.where(is_unfinished, 0.0, tau_last * -SCALE)
        step = d2 * eta[:, None]
        step_k, step_d = guarded(kh.to(tl.float32) * eta[:, None], OPERAND), step.to(OPERAND)
        next_k = _keys_of(k_ptr, slot_k_ptr, at + C, i + 1, slots, T, H, F, BF, BC, C, STATEFUL, OPERAND)
        i_w = (i_b * tl.cdiv(T, CHUNK) + (i + 1) // (CHUNK // C)) * H + i_h
        is_saved = ((i + 1) % (CHUNK // C) == 0) & (i + 1 < tiles)
        z2, zb2, a2 = tl.zeros([BC, BF], tl.float32), tl.zeros([BC, BF], tl.float32), tl.full([BC, BC], 1.0, tl.float32)
        for j in range(0, N, BN):
            w1 = tl.load(w1_ptr + j * F + matrix, mask=is_feature, other=0.0)
            w2 = tl.load(w2_ptr + j * F + matrix, mask=is_feature, other=0.0)
            b1 = tl.load(b1_ptr + j + n)
            w1h, w2h = w1.to(OPERAND), w2.to(OPERAND)
            x2, slope = gelu(tl.dot(w1h, tl.trans(kh), input_precision=PRECISION) + b1[:, None], FAST)
            x2h = x2.to(OPERAND)
            d1 = tl.dot(w2h, tl.trans(d2h), input_precision=PRECISION) * slope
            d1h = d1.to(OPERAND)
            if STATEFUL:
                hidden_slot = t[None, :] * N + j + n[:, None]
                tl.store(slot_x_ptr + hidden_slot, x2h.to(slot_x_ptr.dtype.element_ty), mask=is_kept[None, :])
                tl.store(slot_d1_ptr + hidden_slot, guarded(d1 * SCALE, slot_d1_ptr.dtype.element_ty), mask=is_kept[None, :])
            zb1 = tl.dot(w1h, tl.trans(qh), input_precision=PRECISION) + b1[:, None]
            xb2, _ = gelu(tl.dot(d1h, a1, zb1, input_precision=PRECISION), FAST)
            xb2h = xb2.to(OPERAND)
            a2 = tl.dot(tl.trans(xb2h), x2h, a2, input_precision=PRECISION)
            zb2 = tl.dot(tl.trans(xb2h), w2h, zb2, input_precision=PRECISION)
            b1 += tl.sum(d1 * eta[None, :], 1)
            w1 = tl.dot(d1h, step_k, w1, input_precision=PRECISION)
            w2 = tl.dot(x2h, step_d, w2, input_precision=PRECISION)
            tl.store(b1_ptr + j + n, b1)
            tl.store(w1_ptr + j * F + matrix, w1, mask=is_feature)
            tl.store(w2_ptr + j * F + matrix, w2, mask=is_feature)
            w1h, w2h = w1.to(OPERAND), w2.to(OPERAND)
            if SAVE:
                tl.store(w1c_ptr + i_w * F * N + j * F + matrix, w1h, mask=is_feature & is_saved)
                tl.store(w2c_ptr + i_w * F * N + j * F + matrix, w2h, mask=is_feature & is_saved)
                tl.store(b1c_ptr + i_w * N + j + n, b1, mask=is_saved)
            x2, _ = gelu(tl.dot(w1h, tl.trans(next_k), input_precision=PRECISION) + b1[:, None], FAST)
            z2 = tl.dot(tl.trans(x2.to(OPERAND)), w2h, z2, input_precision=PRECISION)
        a2 = tl.where(t[:, None] >= t[None, :], a2 * (rho[None, :] * (tau * -SCALE)[:, None]), 0.0)
        zb2 = tl.dot(a2.to(OPERAND), d2h, zb2, input_precision=PRECISION) + b2
        out = q.to(tl.float32) + layer_norm(zb2, gamma, beta, 1, F, EPS)
        tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=mask)
        b2 += total(step, 0)
        if SAVE:
            tl.store(b2c_ptr + i_w * F + f, b2, mask=is_feature & is_saved)
        kh = next_k
        tl.debug_barrier()  # what one thread stored another one loads
    tl.store(b2_ptr + i_p * F + f, b2, mask=is_feature)


def walk(arguments: Forward) -> None:
    """Runs ``chain``; ``arguments.kept`` holds z2 of every token, too."""
    (batch, length, heads, _), out, tiles = arguments.out.shape, arguments.out, arguments.tiles
    chain[(batch * heads,)](
        *arguments.views, *arguments.norm, *arguments.moved, *(arguments.slots or [out] * 6),
        out, *(arguments.kept or [out] * 5), length, heads,
        EPS=arguments.eps, **sizes(tiles), **padding(tiles), BC=tiles.BC,
        STATEFUL=arguments.slots is not None, SAVE=arguments.kept is not None, **modes(out),
        num_warps=warps(tiles), num_stages=2,
    )  # fmt: skip
