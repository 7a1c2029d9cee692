"""The TTT reference against autograd and finite differences, and against its own definition (the primal form)."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kernels.ttt import InnerState, LayerNorm
from kernels.ttt.reference import _gradients, forward, gelu, gelu_gradient, inner_loss, prefill, step

BATCH, HEADS, WIDTH, TILE = 2, 2, 3, 4
DEPTHS = {"linear": [WIDTH, WIDTH], "mlp": [WIDTH, 5, WIDTH], "three layers": [WIDTH, 4, 5, WIDTH]}


class Case:
    """Random arguments in float64, for an inner model with layers of the given widths."""

    def __init__(self, widths: list[int], length: int, batch: int = BATCH, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(length)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.q, self.k, self.v = (draw(batch, length, HEADS, WIDTH) for _ in range(3))
        self.rho, self.tau = draw(batch, length, HEADS).sigmoid() / WIDTH, draw(TILE).sigmoid()
        pairs = list(pairwise(widths))
        self.weights = tuple(draw(HEADS, i, o) / math.sqrt(i) for i, o in pairs)
        self.biases = tuple(draw(HEADS, o) for _, o in pairs)
        self.norm = LayerNorm(1 + 0.3 * draw(HEADS, WIDTH), 0.3 * draw(HEADS, WIDTH))

    def forward(self) -> Tensor:
        return forward(self.q, self.k, self.v, self.rho, self.tau, self.weights, self.biases, self.norm)

    def prefill(self, state: InnerState, start: int, end: int) -> Tensor:
        q, k, v, rho = (x[:, start:end] for x in (self.q, self.k, self.v, self.rho))
        return prefill(q, k, v, rho, self.tau, self.norm, state)

    def step(self, state: InnerState, t: int) -> Tensor:
        return step(self.q[:, t], self.k[:, t], self.v[:, t], self.rho[:, t], self.tau, self.norm, state)

    def state(self) -> InnerState:
        return InnerState.fresh(self.weights, self.biases, self.q.shape[0], TILE)


def primal(case: Case) -> Tensor:
    """Token after token, W(i) = W - tau_i sum_{j<=i} rho_j grad_j with autograd's gradients (paper, section 2.4)."""
    params = [p.expand(BATCH, *p.shape) for p in case.weights + case.biases]
    sums, outs, n = [torch.zeros_like(p) for p in params], [], len(case.weights)
    for t in range(case.q.shape[1]):
        query, key, value, gate = (x[:, t : t + 1] for x in (case.q, case.k, case.v, case.rho))
        leaves = [p.clone().requires_grad_() for p in params]
        loss = inner_loss(key, value, tuple(leaves[:n]), tuple(leaves[n:]), case.norm)
        found = torch.autograd.grad((gate * loss).sum(), leaves)
        sums = [s + g for s, g in zip(sums, found, strict=True)]
        moved = [p - case.tau[t % TILE] * s for p, s in zip(params, sums, strict=True)]
        x = query.transpose(1, 2)
        for layer in range(n):
            x = (gelu(x) if layer else x) @ moved[layer] + moved[n + layer][:, :, None]
        x = torch.nn.functional.layer_norm(x, (WIDTH,), eps=case.norm.eps) * case.norm.weight[:, None] + case.norm.bias[:, None]
        outs.append(query + x.transpose(1, 2))
        if t % TILE == TILE - 1:
            params, sums = moved, [torch.zeros_like(s) for s in sums]
    return torch.cat(outs, dim=1)


@pytest.fixture(params=DEPTHS)
def widths(request: pytest.FixtureRequest) -> list[int]:
    return DEPTHS[request.param]


@pytest.mark.parametrize("length", [1, 3, 4, 11])
def test_the_dual_form_is_the_primal(widths: list[int], length: int) -> None:
    case = Case(widths, length)
    torch.testing.assert_close(case.forward(), primal(case), rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [3, 6])
def test_gradients_of_forward(widths: list[int], length: int) -> None:
    case, n = Case(widths, length, batch=1), len(widths) - 1

    def run(q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, scale: Tensor, shift: Tensor, *params: Tensor) -> Tensor:
        return forward(q, k, v, rho, tau, params[:n], params[n:], LayerNorm(scale, shift))

    tensors = (case.q, case.k, case.v, case.rho, case.tau, case.norm.weight, case.norm.bias, *case.weights, *case.biases)
    assert torch.autograd.gradcheck(run, tuple(x.clone().requires_grad_() for x in tensors), fast_mode=True)


def test_inner_gradients_are_autograds(widths: list[int]) -> None:
    """Input X and gradient D of each inner layer: X'D and D, summed over tokens, are the gradients of its weight and bias."""
    case = Case(widths, 5)
    leaves = [p.expand(BATCH, *p.shape).clone().requires_grad_() for p in case.weights + case.biases]
    weights, biases = tuple(leaves[: len(case.weights)]), tuple(leaves[len(case.weights) :])
    found = torch.autograd.grad(inner_loss(case.k, case.v, weights, biases, case.norm).sum(), leaves)
    key, value = case.k.transpose(1, 2), case.v.transpose(1, 2)
    inputs, grads = _gradients(key, value - key, weights, biases, case.norm)
    ours = [x.transpose(2, 3) @ d for x, d in zip(inputs, grads, strict=True)] + [d.sum(2) for d in grads]
    torch.testing.assert_close(ours, list(found), rtol=0, atol=1e-12)


def test_gelu_gradient_is_autograds() -> None:
    z = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(gelu(z).sum(), z)
    torch.testing.assert_close(gelu_gradient(z), expected, rtol=0, atol=1e-12)


def test_prefill_and_steps_leave_one_state(widths: list[int]) -> None:
    """Whichever way the tokens were read, weights and the open pairs are the same; further slots are nobody's."""
    case = Case(widths, 11)
    by_prefill, by_steps = case.state(), case.state()
    case.prefill(by_prefill, 0, 11)
    for t in range(11):
        case.step(by_steps, t)
    i = 11 % TILE
    for name in ("weights", "biases"):
        torch.testing.assert_close(getattr(by_prefill, name), getattr(by_steps, name), rtol=0, atol=1e-12)
    for name in ("inputs", "grads"):
        filled = [tuple(x[:, :, :i] for x in getattr(state, name)) for state in (by_prefill, by_steps)]
        torch.testing.assert_close(*filled, rtol=0, atol=1e-12)
    torch.testing.assert_close(by_prefill.rho[:, :, :i], by_steps.rho[:, :, :i], rtol=0, atol=1e-12)
    assert by_prefill.position.tolist() == by_steps.position.tolist() == [11] * BATCH


def test_undefined_slots_are_never_read(widths: list[int]) -> None:
    case = Case(widths, 7)
    expected, state = case.forward(), case.state()
    outs = [case.prefill(state, 0, 2)]
    for held in (*state.inputs, *state.grads, state.rho):
        held[:, :, 2:] = 1e6
    outs += [case.step(state, 2)[:, None], case.prefill(state, 3, 7)]
    torch.testing.assert_close(torch.cat(outs, dim=1), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arithmetic_is_at_least_float32(widths: list[int], dtype: torch.dtype) -> None:
    case = Case(widths, 9, dtype=dtype)
    state = case.state()
    assert {x.dtype for x in (*state.weights, *state.biases, *state.inputs, *state.grads, state.rho)} == {torch.float32}
    out = case.forward()
    assert out.dtype == dtype
    found = case.prefill(state, 0, 9)
    torch.testing.assert_close(found, out, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)
