"""The TTT layer against its definition (arXiv 2407.04620, section 2): numpy, token by token, explicit sums of gradients.

Nothing here has a dual form, tiles or pairs. Both inner models and both backbones agree to 1e-9 in float64.
"""

from typing import Literal

import numpy as np
import pytest
import torch
from numpy import ndarray

from models.mixer import Size
from models.ttt import TTT

SIZE = Size(width=24, layers=1, heads=3, ffn=1)
LENGTH = 37  # ragged: the last mini-batch of 16 and of 5 tokens is short
EPS = 1e-6

Params = dict[str, ndarray]


def layer_norm(z: ndarray, weight: ndarray, bias: ndarray) -> ndarray:
    return weight * (z - z.mean()) / np.sqrt(z.var() + EPS) + bias


def loss_gradient(z: ndarray, target: ndarray, weight: ndarray, bias: ndarray) -> ndarray:
    """Gradient of 1/2 |LN(z) - target|^2 by z, through the whole Jacobian of LN."""
    n, deviation = len(z), np.sqrt(z.var() + EPS)
    y = (z - z.mean()) / deviation
    jacobian = weight[:, None] * (np.eye(n) - 1 / n - np.outer(y, y) / n) / deviation
    return jacobian.T @ (weight * y + bias - target)


def gelu(z: ndarray) -> ndarray:
    return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def gelu_slope(z: ndarray) -> ndarray:
    """The derivative by a step along the imaginary axis, exact to rounding: no second formula to get wrong."""
    return gelu(z + 1e-30j).imag / 1e-30


def sigmoid(z: ndarray) -> ndarray:
    return 1 / (1 + np.exp(-z))


def causal_conv(x: ndarray, weight: ndarray, bias: ndarray) -> ndarray:
    """x [T, D], weight [D, 1, 4]: tap 3 reads the token itself, tap 0 the one three before."""
    out = np.tile(bias, (len(x), 1))
    for t in range(len(x)):
        for tap in range(max(0, 3 - t), 4):
            out[t] += weight[:, 0, tap] * x[t - 3 + tap]
    return out


def rotated(x: ndarray, position: int, theta: float) -> ndarray:
    """Dims 2m and 2m + 1 as a complex number, turned by position * theta^(-2m/F)."""
    turned = (x[::2] + 1j * x[1::2]) * np.exp(1j * position * theta ** (-np.arange(0, len(x), 2) / len(x)))
    return np.stack((turned.real, turned.imag), axis=1).ravel()


def apply(x: ndarray, weights: list[ndarray], biases: list[ndarray]) -> tuple[list[ndarray], list[ndarray]]:
    """Inputs and outputs of every layer of the inner model g."""
    inputs: list[ndarray] = []
    outputs: list[ndarray] = []
    for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs.append(gelu(outputs[-1]) if n else x)
        outputs.append(inputs[-1] @ weight + bias)
    return inputs, outputs


def one_head(q: ndarray, k: ndarray, v: ndarray, rho: ndarray, tau: ndarray, weights: list[ndarray],
             biases: list[ndarray], norm: tuple[ndarray, ndarray]) -> ndarray:  # fmt: skip
    """Outputs [T, F]: token t answers with W - tau_i sum_{j<=i} rho_j grad_j, gradients at W of the mini-batch's start."""
    out = np.empty_like(q)
    for t in range(len(q)):
        i = t % len(tau)
        if i == 0:
            weight_sums, bias_sums = [np.zeros_like(w) for w in weights], [np.zeros_like(b) for b in biases]
        inputs, outputs = apply(k[t], weights, biases)
        grad = loss_gradient(outputs[-1], v[t] - k[t], *norm)
        for n in reversed(range(len(weights))):
            weight_sums[n] += rho[t] * np.outer(inputs[n], grad)
            bias_sums[n] += rho[t] * grad
            if n:
                grad = weights[n] @ grad * gelu_slope(outputs[n - 1])
        moved = [w - tau[i] * s for w, s in zip(weights, weight_sums, strict=True)]
        shifted = [b - tau[i] * s for b, s in zip(biases, bias_sums, strict=True)]
        out[t] = q[t] + layer_norm(apply(q[t], moved, shifted)[1][-1], *norm)
        if i == len(tau) - 1:
            weights, biases = moved, shifted
    return out


def views(x: ndarray, p: Params, mini_batch: int, theta: float) -> tuple[ndarray, ndarray, ndarray]:
    """q, k, v [T, H, F]."""
    shared = x @ p["q.weight"].T
    if "k.weight" in p:
        q, k = shared, x @ p["k.weight"].T
    else:
        q, k = (causal_conv(shared, p[f"conv_{name}.weight"], p[f"conv_{name}.bias"]) for name in "qk")
    q, k, v = (y.reshape(len(x), SIZE.heads, SIZE.head_dim) for y in (q, k, x @ p["v.weight"].T))
    q, k = (np.stack([[rotated(head, t % mini_batch, theta) for head in y[t]] for t in range(len(x))]) for y in (q, k))
    return q, k, v


def ttt_layer(x: ndarray, p: Params, depth: int, base_lr: float, mini_batch: int, theta: float) -> ndarray:
    """Outputs [T, D] of one sequence x [T, D]; p are the layer's parameters by our names."""
    q, k, v = views(x, p, mini_batch, theta)
    tau = np.maximum(1 / np.arange(1, mini_batch + 1) + p["token_factor"], 0)
    heads = []
    for h in range(SIZE.heads):
        rho = base_lr / SIZE.head_dim * sigmoid(x @ p["lr_weight"][h] + p["lr_bias"][h])
        weights, biases = ([p[f"inner_{kind}.{n}"][h] for n in range(depth)] for kind in ("weights", "biases"))
        norm = p["norm_weight"][h], p["norm_bias"][h]
        heads.append(one_head(q[:, h], k[:, h], v[:, h], rho, tau, weights, biases, norm))
    y = np.concatenate(heads, axis=1)
    y = np.stack([layer_norm(token, p["post_norm.weight"], p["post_norm.bias"]) for token in y])
    if "gate.weight" in p:
        y = y * gelu(x @ p["gate.weight"].T)
    return y @ p["o.weight"].T


@pytest.mark.parametrize("mini_batch", [5, 16])
@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
@pytest.mark.parametrize(("inner", "base_lr"), [("linear", 1.0), ("mlp", 0.1)])
def test_the_layer_is_its_definition(
    inner: Literal["linear", "mlp"], base_lr: float, backbone: Literal["transformer", "mamba"], mini_batch: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = TTT(SIZE, inner, backbone, base_lr, mini_batch, rope_theta=100.0).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
        layer.token_factor[2] = -1  # tau is clamped at 0 there
    x = torch.randn(2, LENGTH, SIZE.width, generator=generator, dtype=torch.float64)
    params = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    depth = {"linear": 1, "mlp": 2}[inner]
    expected = np.stack([ttt_layer(row.numpy(), params, depth, base_lr, mini_batch, theta=100.0) for row in x])
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=0, atol=1e-9)
