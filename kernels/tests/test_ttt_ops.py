"""TTT kernels as operations of PyTorch: FLOPs, compilation, checkpointing; on a GPU long contexts, graphs, autocast."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from kernels import ttt_linear, ttt_mlp
from kernels.check import Runner, Trial
from kernels.op import Case, Inputs, Op, Pass, Stepping
from kernels.ttt_mlp import kernel, launch, panels

OPS = [ttt_linear.OP, ttt_mlp.OP]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SMALL = Case(batch=1, context=32, heads=1, head_dim=16)
LONG = Case(batch=2, context=4096, heads=2, head_dim=64, dtype=torch.bfloat16)


@pytest.fixture(params=OPS, ids=lambda op: op.name)
def op(request: pytest.FixtureRequest) -> Op:
    found: Op = request.param
    return found


def layer(op: Op, impl: str = "triton", wrap: Callable[[Any], Any] = lambda forward: forward) -> Callable[[Inputs], Tensor]:
    module = SimpleNamespace(forward=wrap(op.load(impl).forward))
    return lambda x: op.problem.forward(cast("ModuleType", module), x)


def gradients(call: Callable[[Inputs], Tensor], runner: Runner) -> tuple[Tensor, ...]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in runner.inputs.items()}
    out = call(leaves)
    return out.detach(), *torch.autograd.grad(out, list(leaves.values()), runner.upstream)


def assert_equal(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_flops_are_those_that_the_reference_does(op: Op) -> None:
    runner = Trial(op, SMALL, DEVICE).runner
    counts = {}
    for impl in ("reference", "triton"):
        call = layer(op, impl)  # a counter knows the formulas that were registered before it
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call(runner.inputs)
        counts[impl] = counter.get_total_flops()
    assert counts["triton"] == counts["reference"] == op.problem.matmul_flops(SMALL)
    with FlopCounterMode(display=False) as counter:
        gradients(layer(op), runner)
    assert counter.get_total_flops() == 3 * counts["triton"]


@pytest.mark.parametrize(("op", "in_registers"), [(ttt_linear.OP, (16,)), (ttt_mlp.OP, (16,)), (ttt_mlp.OP, ())])
def test_what_rounding_leaves_does_not_grow(op: Op, in_registers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands of 16 bits over many mini-batches."""
    for module in (launch, panels, kernel):
        monkeypatch.setattr(module, "IN_REGISTERS", in_registers)
    modes: tuple[Pass, ...] = ("fwd", "fwd_bwd")
    for mode in modes:
        verdict = Trial(op, Case(1, 512, 1, 16, dtype=torch.float16), DEVICE).check("triton", mode)
        assert verdict.ok, str(verdict)


def test_gradients_in_16_bits_are_linear_in_the_outputs_however_small(op: Op) -> None:
    runner, shared = Trial(op, replace(SMALL, context=80, dtype=torch.float16), DEVICE).runner, []
    for size in (1.0, 2.0**-14):
        found = gradients(layer(op), replace(runner, upstream=runner.upstream.sign() * size))
        shared.append([grad / size for grad in found if grad.dtype == torch.float32])
    assert_equal(tuple(shared[0]), tuple(shared[1]))


def test_a_gradient_that_is_not_finite_stays_so(op: Op) -> None:
    runner = Trial(op, replace(SMALL, dtype=torch.float16), DEVICE).runner
    runner.upstream[0, 3, 0, 5] = math.inf
    _, *found = gradients(layer(op), runner)
    assert all(grad.isnan().any() for grad in found)


def test_flops_of_a_step_are_a_tokens(op: Op) -> None:
    problem, runner = op.problem, Trial(op, SMALL, DEVICE).runner
    assert isinstance(problem, Stepping)
    module = op.load("triton")
    state = problem.start(module, runner.inputs, SMALL, torch.zeros(1, dtype=torch.int32, device=DEVICE))
    with FlopCounterMode(display=False) as counter:
        problem.step(module, problem.token(runner.inputs, 0), state)
    assert counter.get_total_flops() == problem.matmul_flops(replace(SMALL, context=1))


def test_compiles_in_one_graph_with_its_gradients(op: Op) -> None:
    runner = Trial(op, SMALL, DEVICE).runner
    compiled = layer(op, wrap=partial(torch.compile, backend="aot_eager", fullgraph=True))
    assert_equal(gradients(compiled, runner), gradients(layer(op), runner))


def test_a_checkpointed_layer_runs_its_chain_once_more_and_no_oftener(op: Op) -> None:
    runner, plain, calls = Trial(op, SMALL, DEVICE).runner, layer(op), []

    def counted(x: Inputs) -> Tensor:
        calls.append(1)
        return plain(x)

    found = gradients(lambda x: checkpoint(counted, x, use_reentrant=False), runner)
    assert_equal(found, gradients(plain, runner))
    assert len(calls) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["fwd", "fwd_bwd"])
def test_thousands_of_tokens(op: Op, mode: Pass) -> None:
    """Rounding must not feed on itself: a mean of z that is left to grow shows from about two thousand tokens on."""
    verdict = Trial(op, LONG, DEVICE).check("triton", mode)
    assert verdict.ok, verdict


@pytest.mark.gpu
def test_two_runs_are_bit_equal(op: Op) -> None:
    """No atomics, and no kernel overtakes one that it needs, on whichever stream."""
    runner = Trial(op, LONG, DEVICE).runner
    assert_equal(gradients(layer(op), runner), gradients(layer(op), runner))


@pytest.mark.gpu
@pytest.mark.parametrize(("head_dim", "mini_batch"), [(16, 16), (32, 16), (64, 1), (64, 8), (64, 32), (96, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_sizes(op: Op, head_dim: int, mini_batch: int, dtype: torch.dtype) -> None:
    case = Case(1, 150, 2, head_dim, mini_batch, dtype)
    for mode in ("fwd", "fwd_bwd"):
        verdict = Trial(op, case, DEVICE).check("triton", mode)
        assert verdict.ok, verdict


@pytest.mark.gpu
def test_a_graph_of_forward_and_backward_replays(op: Op) -> None:
    """Four chunks: TTT-MLP's backward pass walks them as four panels, on two streams."""
    runner = Trial(op, replace(LONG, context=256), DEVICE).runner
    expected, side = gradients(layer(op), runner), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        gradients(layer(op), runner)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradients(layer(op), runner)
    graph.replay()
    assert_equal(found, expected)


@pytest.mark.gpu
def test_autocast_leaves_the_state_in_float32(op: Op) -> None:
    runner = Trial(op, replace(LONG, context=256), DEVICE).runner
    expected = gradients(layer(op), runner)
    with torch.autocast("cuda", torch.bfloat16):
        found = gradients(layer(op), runner)
    assert_equal(found, expected)
