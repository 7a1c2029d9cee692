"""The chain of mini-batches of TTT-MLP: each needs the weights that the one before it left.

One program walks one head of one sequence with its weights in registers: W1' and W2, both [hidden, F], are in float32 the
accumulators of their own updates, their rows spread over the warps. Per mini-batch of C tokens, with the weights of its start
(paper, appendix A; biases, LN and eta as the code's):

    Z1 = K W1 + b1,  X2 = GELU(Z1),  Z2 = X2 W2 + b2
    D2 = gradient of 1/2 |LN(Z2) - (V - K)|^2 by Z2,  D1 = (D2 W2') GELU'(Z1)
    W1 <- W1 - (eta_C K)' D1,  b1 <- b1 - sum eta_C D1,  W2 <- W2 - (eta_C X2)' D2,  b2 <- b2 - sum eta_C D2

X2, D1, D2 of every token and W, b at the start of every chunk are stored, and ``kernels.ttt_mlp.answers`` answers the queries
of all chunks at once: few programs walk chains, and nothing that others can do is left to them.

Hidden tiles are kept transposed, hidden x tokens: Z1' = W1' K' has its left operand in the registers that accumulate W1', and
X2', D1' in the registers of Z1' are left operands of the updates. Only Z2 is a sum over hidden units, which warps share out:
for it W2 (2 F hidden bytes) and X2 go through shared memory once per mini-batch. Tiles of F features x tokens lie the other
way, tokens as rows, so that no product of theirs is repeated by several warps. Gradients are kept divided by SCALE and eta
multiplied by it: rho, 1e-4 and less, would lie among float16's subnormals.

Bytes a token and head: K, V read, D2 written, 2 F each, X2, D1 written, 2 hidden each, W1 and W2 written, 4 F hidden / CHUNK.
Operations a token and head: 5 products of 2 F hidden.
"""

import triton
import triton.language as tl

from kernels.ttt.blocks import guarded, layer_norm, norm_l2_gradient
from kernels.ttt_mlp.gelu import gelu

MIDDLE, FIRST, LAST = (tl.constexpr(n) for n in range(3))
SCALE: tl.constexpr = tl.constexpr(64.0)


@triton.jit
def _read(k_ptr, v_ptr, rho_ptr, origin, begin, end, H, F: tl.constexpr, C: tl.constexpr, BC: tl.constexpr):
    """k, v [BC, F] and rho [BC] of the mini-batch whose slot 0 is at token ``origin``: its tokens in [begin, end)."""
    t, f = tl.arange(0, BC), tl.arange(0, F)[None, :]
    at = origin + t
    is_new = (at >= begin) & (at < end) & (t < C)
    offset, mask = at[:, None] * (H * F) + f, is_new[:, None]
    k = tl.load(k_ptr + offset, mask=mask, other=0.0)
    v = tl.load(v_ptr + offset, mask=mask, other=0.0)
    return k, v, tl.load(rho_ptr + at * H, mask=is_new, other=0.0).to(tl.float32)


@triton.jit
def _tile(
    w1, b1, w2, b2, k, v, rho, q_ptr, out_ptr, x2_ptr, d1_ptr, d2_ptr,
    slot_k_ptr, slot_x_ptr, slot_d1_ptr, slot_d2_ptr, slot_rho_ptr,
    gamma, beta, tau, tau_last, origin, begin, end, slots, H,
    EPS: tl.constexpr, F: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr,
    MODE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """One mini-batch, slot 0 at token ``origin``: tokens in [begin, end) are new; FIRST: ``slots`` pairs are open before."""
    t, f, n = tl.arange(0, BC), tl.arange(0, F)[None, :], tl.arange(0, N)[:, None]
    at = origin + t
    is_new = (at >= begin) & (at < end) & (t < C)
    is_open = t < slots
    slot, hidden_slot = t[:, None] * F + f, t[None, :] * N + n
    kh, w1h, w2h = guarded(k, OPERAND), w1.to(OPERAND), w2.to(OPERAND)
    if MODE == FIRST:
        kh = tl.where(is_open[:, None], tl.load(slot_k_ptr + slot, mask=is_open[:, None], other=0.0).to(OPERAND), kh)
        rho = tl.where(is_open, tl.load(slot_rho_ptr + t, mask=is_open, other=0.0), rho)
    z1 = tl.dot(w1h, tl.trans(kh), input_precision=PRECISION) + b1[:, None]
    x2, slope = gelu(z1, FAST)
    x2h = x2.to(OPERAND)
    if MODE == FIRST:
        x2h = tl.where(is_open[None, :], tl.load(slot_x_ptr + hidden_slot, mask=is_open[None, :], other=0.0).to(OPERAND), x2h)
    z2 = tl.dot(tl.trans(x2h), w2h, input_precision=PRECISION) + b2[None, :]
    shift = gamma * (beta - v.to(tl.float32) + k.to(tl.float32))
    d2 = norm_l2_gradient(z2, shift, gamma * gamma, 1.0, 1, F, EPS) * (1 / SCALE)
    if MODE == FIRST:
        held = tl.load(slot_d2_ptr + slot, mask=is_open[:, None], other=0.0).to(tl.float32)
        d2 = tl.where(is_open[:, None], held * (1 / SCALE), d2)
    d2h = guarded(d2, OPERAND)
    d1 = tl.dot(w2h, tl.trans(d2h), input_precision=PRECISION) * slope
    if MODE == FIRST:
        held = tl.load(slot_d1_ptr + hidden_slot, mask=is_open[None, :], other=0.0).to(tl.float32)
        d1 = tl.where(is_open[None, :], held * (1 / SCALE), d1)
    d1h = d1.to(OPERAND)
    if MODE == MIDDLE:
        hidden, is_slot = n * CHUNK + t[None, :], t < C
        tl.store(x2_ptr + hidden, x2h, mask=is_slot[None, :])
        tl.store(d1_ptr + hidden, d1h, mask=is_slot[None, :])
        tl.store(d2_ptr + slot, d2h, mask=is_slot[:, None])
    else:
        is_kept = is_new & (origin + C > end)
        tl.store(slot_rho_ptr + t, rho, mask=is_kept)
        tl.store(slot_k_ptr + slot, kh.to(slot_k_ptr.dtype.element_ty), mask=is_kept[:, None])
        tl.store(slot_x_ptr + hidden_slot, x2h.to(slot_x_ptr.dtype.element_ty), mask=is_kept[None, :])
        tl.store(slot_d1_ptr + hidden_slot, guarded(d1 * SCALE, slot_d1_ptr.dtype.element_ty), mask=is_kept[None, :])
        tl.store(slot_d2_ptr + slot, guarded(d2 * SCALE, slot_d2_ptr.dtype.element_ty), mask=is_kept[:, None])
        offset = at[:, None] * (H * F) + f
        q = tl.load(q_ptr + offset, mask=is_new[:, None], other=0.0)
        qh = guarded(q, OPERAND)
        zb1 = tl.dot(w1h, tl.trans(qh), input_precision=PRECISION) + b1[:, None]
        a1 = tl.dot(kh, tl.trans(qh), input_precision=PRECISION) + 1.0
        a1 = tl.where(t[:, None] <= t[None, :], a1 * (rho[:, None] * (tau * -SCALE)[None, :]), 0.0)
        xb2, _ = gelu(tl.dot(d1h, a1.to(OPERAND), zb1, input_precision=PRECISION), FAST)
        xb2h = xb2.to(OPERAND)
        a2 = tl.dot(tl.trans(xb2h), x2h, input_precision=PRECISION) + 1.0
        a2 = tl.where(t[:, None] >= t[None, :], a2 * (rho[None, :] * (tau * -SCALE)[:, None]), 0.0)
        zb2 = tl.dot(tl.trans(xb2h), w2h, input_precision=PRECISION)
        zb2 = tl.dot(a2.to(OPERAND), d2h, zb2, input_precision=PRECISION) + b2[None, :]
        out = q.to(tl.float32) + layer_norm(zb2, gamma, beta, 1, F, EPS)
        tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=is_new[:, None])
    if MODE == FIRST:
        tau_last = tl.where(origin + C > end, 0.0, tau_last)
    if MODE != LAST:
        eta = rho * (tau_last * -SCALE)
        b1 += tl.sum(d1 * eta[None, :], 1)
        step = d2 * eta[:, None]
        b2 += tl.sum(step, 0)
        key = kh.to(tl.float32) if MODE == FIRST else k.to(tl.float32)
        w1 = tl.dot(d1h, guarded(key * eta[:, None], OPERAND), w1, input_precision=PRECISION)
        w2 = tl.dot(x2h, step.to(OPERAND), w2, input_precision=PRECISION)
    return w1, b1, w2, b2


@triton.jit(do_not_specialize=["panel", "first_chunk", "kept", "kept_from"])
def chain(
    q_ptr, k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr, w1_ptr, w2_ptr, b1_ptr, b2_ptr,
    slot_k_ptr, slot_x_ptr, slot_d1_ptr, slot_d2_ptr, slot_rho_ptr, position_ptr,
    out_ptr, x2_ptr, d1_ptr, d2_ptr, w1c_ptr, w2c_ptr, b1c_ptr, b2c_ptr,
    T, H, panel, first_chunk, kept, kept_from,
    EPS: tl.constexpr, F: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BC: tl.constexpr, CHUNK: tl.constexpr,
    STATEFUL: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid [B H], through ``panel`` chunks from ``first_chunk`` on.

    q, k, v, out [B, T, H, F]; rho [B, T, H]; w1 (transposed), w2 [B, H, N, F], b1 [B, H, N], b2 [B, H, F] in float32, w2 and b2
    centred, are moved in place. Left behind: x2, d1 / SCALE [B, panel, H, N, CHUNK], d2 / SCALE [B, panel, H, CHUNK, F], and
    before each chunk, of which ``kept`` are kept and this panel's from ``kept_from`` on, w1c, w2c [B, kept, H, N, F],
    b1c [B, kept, H, N], b2c [B, kept, H, F]. STATEFUL: chunks begin with the second mini-batch; the first one and the one left
    open are answered here, and their pairs taken from and left in the slots of the state.
    """
    i_b, i_h, i_p = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H, tl.program_id(0).to(tl.int64)
    t, f, n = tl.arange(0, BC), tl.arange(0, F)[None, :], tl.arange(0, N)[:, None]
    gamma = tl.load(gamma_ptr + i_h * F + f).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f).to(tl.float32)
    tau = tl.load(tau_ptr + t, mask=t < C, other=0.0).to(tl.float32)
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    first, matrix, units, features = i_b * T * H + i_h, n * F + f, tl.arange(0, N), tl.arange(0, F)
    q_ptr += first * F
    k_ptr += first * F
    v_ptr += first * F
    out_ptr += first * F
    rho_ptr += first
    if STATEFUL:
        slot_k_ptr += i_p * C * F
        slot_x_ptr += i_p * C * N
        slot_d1_ptr += i_p * C * N
        slot_d2_ptr += i_p * C * F
        slot_rho_ptr += i_p * C
    w1, w2 = tl.load(w1_ptr + i_p * N * F + matrix), tl.load(w2_ptr + i_p * N * F + matrix)
    b1, b2 = tl.load(b1_ptr + i_p * N + units), tl.load(b2_ptr + i_p * F + features)
    if STATEFUL:
        # a product of nothing lays W out as accumulators, so that the first tile, too, finds its operands in registers
        left, right = tl.zeros([N, 16], OPERAND), tl.zeros([16, F], OPERAND)
        w1, w2 = tl.dot(left, right, w1), tl.dot(left, right, w2)
    slots, begin, tiles = 0, 0, tl.cdiv(T, C)
    if STATEFUL:
        slots = (tl.load(position_ptr + i_b) % C).to(tl.int32)
        begin, tiles = C - slots, (slots + T) // C - 1
        if first_chunk == 0:
            k, v, rho = _read(k_ptr, v_ptr, rho_ptr, -slots, 0, T, H, F, C, BC)
            w1, b1, w2, b2 = _tile(
                w1, b1, w2, b2, k, v, rho, q_ptr, out_ptr, x2_ptr, d1_ptr, d2_ptr,
                slot_k_ptr, slot_x_ptr, slot_d1_ptr, slot_d2_ptr, slot_rho_ptr,
                gamma, beta, tau, tau_last, -slots, 0, T, slots, H,
                EPS, F, N, C, BC, CHUNK, FIRST, OPERAND, PRECISION, FAST,
            )  # fmt: skip
    end, origin = tl.minimum(begin + tiles * C, T), begin + first_chunk * CHUNK
    k, v, rho = _read(k_ptr, v_ptr, rho_ptr, origin, begin, end, H, F, C, BC)
    for i_c in range(tl.minimum(panel, tl.cdiv(tiles, CHUNK // C) - first_chunk)):
        i_l, i_w = (i_b * panel + i_c) * H + i_h, (i_b * kept + kept_from + i_c) * H + i_h
        tl.store(w1c_ptr + i_w * F * N + matrix, w1.to(OPERAND))
        tl.store(w2c_ptr + i_w * F * N + matrix, w2.to(OPERAND))
        tl.store(b1c_ptr + i_w * N + units, b1)
        tl.store(b2c_ptr + i_w * F + features, b2)
        for i in range(CHUNK // C):
            next_k, next_v, next_rho = _read(k_ptr, v_ptr, rho_ptr, origin + C, begin, end, H, F, C, BC)
            hidden = i_l * N * CHUNK + i * C
            w1, b1, w2, b2 = _tile(
                w1, b1, w2, b2, k, v, rho, q_ptr, out_ptr,
                x2_ptr + hidden, d1_ptr + hidden, d2_ptr + (i_l * CHUNK + i * C) * F,
                slot_k_ptr, slot_x_ptr, slot_d1_ptr, slot_d2_ptr, slot_rho_ptr,
                gamma, beta, tau, tau_last, origin, begin, end, 0, H,
                EPS, F, N, C, BC, CHUNK, MIDDLE, OPERAND, PRECISION, FAST,
            )  # fmt: skip
            k, v, rho = next_k, next_v, next_rho
            origin += C
    if STATEFUL:  # noqa: SIM102
        if (tiles >= 0) & (end < T) & ((first_chunk + panel) * CHUNK >= T):
            k, v, rho = _read(k_ptr, v_ptr, rho_ptr, end, end, T, H, F, C, BC)
            _tile(
                w1, b1, w2, b2, k, v, rho, q_ptr, out_ptr, x2_ptr, d1_ptr, d2_ptr,
                slot_k_ptr, slot_x_ptr, slot_d1_ptr, slot_d2_ptr, slot_rho_ptr,
                gamma, beta, tau, tau_last, end, end, T, 0, H,
                EPS, F, N, C, BC, CHUNK, LAST, OPERAND, PRECISION, FAST,
            )  # fmt: skip
    tl.store(w1_ptr + i_p * N * F + matrix, w1)
    tl.store(w2_ptr + i_p * N * F + matrix, w2)
    tl.store(b1_ptr + i_p * N + units, b1)
    tl.store(b2_ptr + i_p * F + features, b2)
