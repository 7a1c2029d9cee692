"""The models once more, naively, in scalar loops over counting numbers: sequences are one row, [T][D] lists.

Shared with models/ are the parameters, nothing else.
"""

import math
import operator
from typing import Any

import torch

from models.attention import Attention
from models.layers import CausalConv, SwiGLU
from models.lm import LM
from models.mamba import Mamba
from models.mamba2 import Mamba2
from models.mixer import Mixer
from models.short_conv import ShortConv
from models.tests.conftest import branches
from models.tests.counted import (
    Count,
    Number,
    Row,
    Rows,
    add,
    bend,
    gelu,
    gelu_gradient,
    product,
    sigmoid,
    silu,
    softplus,
    total,
    transposed,
    zipped,
)
from models.ttt import TTT


def project(x: Rows, layer: torch.nn.Linear) -> Rows:
    """x W' of a linear layer; its bias is not added."""
    return product(x, layer.weight.T.tolist(), x[0][0].count)


def normalised(x: Row, eps: float) -> tuple[Row, Number]:
    """(x - mean) / deviation, and the deviation."""
    mean = total(x) / len(x)
    centred = [a - mean for a in x]
    deviation = (total([a * a for a in centred]) / len(x) + eps).sqrt()
    return [a / deviation for a in centred], deviation


def layer_norm(x: Row, weight: list[float], bias: list[float], eps: float) -> Row:
    return [y * w + b for y, w, b in zip(normalised(x, eps)[0], weight, bias, strict=True)]


def rms_norm(x: Row, weight: list[float], eps: float) -> Row:
    root = (total([a * a for a in x]) / len(x) + eps).sqrt()
    return [a / root * w for a, w in zip(x, weight, strict=True)]


def rope(x: Row, position: int, theta: float) -> Row:
    out: Row = []
    for m in range(0, len(x), 2):
        angle = position * theta ** (-m / len(x))
        cos, sin, u, v = math.cos(angle), math.sin(angle), x[m], x[m + 1]
        out += [u * cos - v * sin, u * sin + v * cos]
    return out


def conv(x: Rows, layer: CausalConv) -> Rows:
    count, taps, bias = x[0][0].count, layer.weight[:, 0].tolist(), layer.bias.tolist()
    past = [[Number(0.0, count) for _ in x[0]] for _ in range(layer.taps - 1)] + x
    return [
        [sum((past[t + j][e] * w for j, w in enumerate(taps[e])), start=bias[e]) for e in range(len(bias))]
        for t in range(len(x))
    ]


def of_heads(rows: Rows, heads: int) -> list[Rows]:
    """The rows of each head."""
    width = len(rows[0]) // heads
    return [[row[h * width : (h + 1) * width] for row in rows] for h in range(heads)]


def joined(parts: list[Rows]) -> Rows:
    """Back from ``of_heads``."""
    return [[x for part in row for x in part] for row in zip(*parts, strict=True)]


def swiglu(mixer: SwiGLU, x: Rows) -> Rows:
    gates, ups = project(x, mixer.gate), project(x, mixer.up)
    return project(zipped(lambda g, u: silu(g) * u, gates, ups), mixer.down)


def short_conv(mixer: ShortConv, x: Rows) -> Rows:
    return conv(x, mixer.conv)


def attention(mixer: Attention, x: Rows) -> Rows:
    views = [of_heads(project(x, layer), mixer.heads) for layer in (mixer.q, mixer.k, mixer.v)]
    mixed = []
    for q, k, v in zip(*views, strict=True):
        queries, keys = ([rope(row, t, mixer.rope.theta) for t, row in enumerate(rows)] for rows in (q, k))
        mixed.append([attend(t, queries[t], keys, v) for t in range(len(x))])
    return project(joined(mixed), mixer.o)


def attend(t: int, query: Row, keys: Rows, values: Rows) -> Row:
    count = query[0].count
    read = t + 1 if count.convention == "causal" else len(keys)
    logits = [logit / math.sqrt(len(query)) for logit in product([query], transposed(keys[:read]), count)[0]]
    logits = [logit if s <= t else Number(-math.inf, count) for s, logit in enumerate(logits)]
    top = max(logits)
    weights = [(logit - top).exp() for logit in logits]
    scale = total(weights)
    return [y / scale for y in product([weights], values[:read], count)[0]]


def mamba(mixer: Mamba, x: Rows) -> Rows:
    inner, rank, n = mixer.inner, mixer.rank, mixer.d_state
    both = project(x, mixer.in_proj)
    u = [[silu(e) for e in row] for row in conv([row[:inner] for row in both], mixer.conv)]
    mixed = project(u, mixer.x_proj)
    rates = project([row[:rank] for row in mixed], mixer.dt_proj)
    rates = [[softplus(e) for e in add(row, mixer.dt_proj.bias.tolist())] for row in rates]
    a, d = (-mixer.a_log.exp()).tolist(), mixer.d.tolist()
    h = [[Number(0.0, x[0][0].count)] * n for _ in range(inner)]
    out = []
    for t in range(len(x)):
        b, c, y = mixed[t][rank : rank + n], mixed[t][rank + n :], []
        for e in range(inner):
            dt, drive = rates[t][e], rates[t][e] * u[t][e]
            h[e] = [(dt * a[e][s]).exp() * h[e][s] + drive * b[s] for s in range(n)]
            y.append(total([h[e][s] * c[s] for s in range(n)]) + d[e] * u[t][e])
        out.append([y[e] * silu(both[t][inner + e]) for e in range(inner)])
    return project(out, mixer.out_proj)


def mamba2(mixer: Mamba2, x: Rows) -> Rows:
    inner, width, n, count = mixer.inner, mixer.head_dim, mixer.d_state, x[0][0].count
    both = project(x, mixer.in_proj)
    mixed = [[silu(e) for e in row] for row in conv([row[inner : 2 * inner + 2 * n] for row in both], mixer.conv)]
    bias, a, d = mixer.dt_bias.tolist(), (-mixer.a_log.exp()).tolist(), mixer.d.tolist()
    rates = [[softplus(e) for e in add(row[2 * inner + 2 * n :], bias)] for row in both]
    h = [[Number(0.0, count)] * n for _ in range(inner)]
    out = []
    for t, row in enumerate(mixed):
        u, b, c, y = row[:inner], row[inner : inner + n], row[inner + n :], []
        decays = [(rate * a[head]).exp() for head, rate in enumerate(rates[t])]
        for e in range(inner):
            head, drive = e // width, rates[t][e // width] * u[e]
            h[e] = [decays[head] * h[e][s] + drive * b[s] for s in range(n)]
            y.append(total([h[e][s] * c[s] for s in range(n)]) + d[head] * u[e])
        out.append([y[e] * silu(both[t][e]) for e in range(inner)])
    return project([rms_norm(row, mixer.norm_weight.tolist(), 1e-5) for row in out], mixer.out_proj)


def ttt(mixer: TTT, x: Rows) -> Rows:
    """Whole mini-batches only."""
    shared, count = project(x, mixer.q), x[0][0].count
    q, k = (conv(shared, mixer.conv_q), conv(shared, mixer.conv_k)) if mixer.is_gated else (shared, project(x, mixer.k))
    gates = [add(row, mixer.lr_bias.tolist()) for row in product(x, mixer.lr_weight.T.tolist(), count)]
    rho = transposed(zipped(lambda gate: mixer.base_lr / mixer.head_dim * sigmoid(gate), gates))
    q_heads, k_heads, v_heads = (of_heads(rows, mixer.heads) for rows in (q, k, project(x, mixer.v)))
    mixed = joined([ttt_head(mixer, h, q_heads[h], k_heads[h], v_heads[h], rho[h]) for h in range(mixer.heads)])
    weight, bias = mixer.post_norm.weight.tolist(), mixer.post_norm.bias.tolist()
    out = [layer_norm(row, weight, bias, mixer.eps) for row in mixed]
    if mixer.is_gated:
        out = zipped(lambda y, g: y * gelu(g, bend(g)), out, project(x, mixer.gate))
    return project(out, mixer.o)


def ttt_head(mixer: TTT, h: int, q: Rows, k: Rows, v: Rows, rho: Row) -> Rows:
    """One head, mini-batch after mini-batch, in the dual form (paper, appendix A)."""
    count, size = rho[0].count, mixer.mini_batch
    q, k = ([rope(row, t % size, mixer.rope.theta) for t, row in enumerate(rows)] for rows in (q, k))
    weights = [[[Number(x, count) for x in row] for row in w[h].tolist()] for w in mixer.inner_weights]
    biases = [[Number(x, count) for x in b[h].tolist()] for b in mixer.inner_biases]
    tau = [max(1 / (i + 1) + a, 0.0) for i, a in enumerate(mixer.token_factor.tolist())]
    norm = (mixer.norm_weight[h].tolist(), mixer.norm_bias[h].tolist(), mixer.eps)
    out: Rows = []
    for tile in (slice(start, start + size) for start in range(0, len(q), size)):
        xs, ds = inner_gradients(k[tile], v[tile], weights, biases, norm)
        eta = [[t * gate for gate in rho[tile]] for t in tau]
        moved, answers = inner_answers(q[tile], eta, xs, ds, weights, biases)
        out += [add(query, layer_norm(z, *norm)) for query, z in zip(q[tile], answers, strict=True)]
        weights = [updated(w, x, d, eta[-1]) for w, x, d in zip(weights, xs, ds, strict=True)]
        biases = [rows[-1] for rows in moved]
    return out


Norm = tuple[list[float], list[float], float]


def inner_gradients(keys: Rows, values: Rows, weights: list[Rows], biases: Rows, norm: Norm) -> tuple[list[Rows], list[Rows]]:
    """Inputs and output gradients of each inner layer."""
    count, xs = keys[0][0].count, [keys]
    pre: list[Rows] = []
    bends: list[Rows] = []
    for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if n:
            bends.append([[bend(z) for z in row] for row in pre[-1]])
            xs.append(zipped(gelu, pre[-1], bends[-1]))
        pre.append([add(row, bias) for row in product(xs[-1], weight, count)])
    targets = zipped(operator.sub, values, keys)
    ds = [[norm_gradient(z, target, norm) for z, target in zip(pre[-1], targets, strict=True)]]
    for weight, zs, ts in zip(reversed(weights[1:]), reversed(pre[:-1]), reversed(bends), strict=True):
        back = product(ds[0], transposed(weight), count)
        ds.insert(0, zipped(operator.mul, back, zipped(gelu_gradient, zs, ts)))
    return xs, ds


def norm_gradient(z: Row, target: Row, norm: Norm) -> Row:
    weight, bias, eps = norm
    y, deviation = normalised(z, eps)
    u = [w * (w * a + b - t) for a, w, b, t in zip(y, weight, bias, target, strict=True)]
    mean, slope = total(u) / len(u), total([a * b for a, b in zip(u, y, strict=True)]) / len(u)
    return [(a - mean - b * slope) / deviation for a, b in zip(u, y, strict=True)]


def inner_answers(
    queries: Rows, eta: Rows, xs: list[Rows], ds: list[Rows], weights: list[Rows], biases: Rows
) -> tuple[list[Rows], Rows]:
    """The moved biases of each inner layer, a row for each token, and g(Q)."""
    count, x, moved = queries[0][0].count, queries, []
    for n, (held, d, weight, bias) in enumerate(zip(xs, ds, weights, biases, strict=True)):
        x = [[gelu(z, bend(z)) for z in row] for row in x] if n else x
        shift = product(lower(eta), d, count)
        moved.append([[b - s for b, s in zip(bias, row, strict=True)] for row in shift])
        scores = zipped(operator.mul, eta, product(x, transposed(held), count))
        pulls = product(lower(scores), d, count)
        x = zipped(lambda w, p, b: w - p + b, product(x, weight, count), pulls, moved[-1])
    return moved, x


def lower(rows: Rows) -> list[list[Any]]:
    """The lower triangle, with the diagonal."""
    return [[x if j <= i else 0.0 for j, x in enumerate(row)] for i, row in enumerate(rows)]


def updated(weight: Rows, xs: Rows, ds: Rows, eta: Row) -> Rows:
    gated = [[e * a for a in row] for e, row in zip(eta, xs, strict=True)]
    change = product(transposed(gated), ds, eta[0].count)
    return zipped(operator.sub, weight, change)


NAIVE: dict[type[Mixer], Any] = {
    SwiGLU: swiglu,
    ShortConv: short_conv,
    Attention: attention,
    Mamba: mamba,
    Mamba2: mamba2,
    TTT: ttt,
}


def logits(model: LM, tokens: list[int], count: Count) -> Rows:
    """Logits of every position."""
    embedding = model.embedding.weight.tolist()
    h = [[Number(x, count) for x in embedding[token]] for token in tokens]
    for branch in branches(model):
        weight, eps = branch.norm.weight.tolist(), branch.norm.eps
        out = NAIVE[type(branch.mixer)](branch.mixer, [rms_norm(row, weight, eps) for row in h])
        h = [add(row, change) for row, change in zip(h, out, strict=True)]
    weight, eps = model.norm.weight.tolist(), model.norm.eps
    return project([rms_norm(row, weight, eps) for row in h], model.head)
