"""Every operation passes its check with its reference; a kernel that is wrong in any one way does not."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import attention, causal_conv, gated_norm, selective_scan, ssd, ttt_linear, ttt_mlp
from kernels.check import Broken, RoundedOperands, Runner, Trial, Verdict, poisoned, relative_error
from kernels.op import Case, Impl, Op, Pass, Stepping
from kernels.selective_scan.problem import SelectiveScan
from kernels.tests.optional import loaded
from kernels.ttt import reference

GATED = replace(selective_scan.OP, name="gated_scan", problem=SelectiveScan(is_gated=True))
OPS = (ttt_linear.OP, ttt_mlp.OP, attention.OP, selective_scan.OP, GATED, ssd.OP, causal_conv.OP, gated_norm.OP)
CPU = torch.device("cpu")
SMALL = Case(batch=3, context=37, heads=3, head_dim=8)
PASSES: tuple[Pass, ...] = ("fwd", "fwd_bwd", "step")
TRIED = [(op, mode) for op in OPS for mode in PASSES if op.runs("reference", mode)]


def verdict_on(op: Op, mode: Pass, monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> Verdict:
    """The verdict on the reference with some of its functions replaced."""
    broken = ModuleType("broken_kernel")
    vars(broken).update(vars(op.load("reference")) | functions)
    monkeypatch.setitem(sys.modules, "broken_kernel", broken)
    return Trial(replace(op, impls={"triton": Impl("broken_kernel", "")}), SMALL, CPU).check("triton", mode)


@pytest.mark.parametrize(("op", "mode"), TRIED, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_references_are_right(op: Op, mode: Pass, dtype: torch.dtype) -> None:
    verdict = Trial(op, replace(SMALL, dtype=dtype), CPU).check("reference", mode)
    assert verdict.ok, verdict
    assert str(verdict) == "correct"
    assert "output" in {error.tensor for error in verdict.errors}
    assert all((error.yardstick >= 0) == (dtype != torch.float32) for error in verdict.errors)


def test_every_input_has_its_gradient_and_every_part_of_the_state_its_error() -> None:
    trial = Trial(ttt_mlp.OP, SMALL, CPU)
    gradients = {error.tensor for error in trial.check("reference", "fwd_bwd").errors}
    assert gradients == {"output", *(f"d_{name}" for name in trial.runner.inputs)}
    state = {"weight_1", "weight_2", "bias_1", "bias_2", "rho", "input_1", "input_2", "grad_1", "grad_2"}
    states = {error.tensor for error in trial.check("reference", "step").errors}
    assert states == {"output", *(f"state_{name}" for name in state)}


def test_a_wrong_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*args: Any) -> Tensor:
        out = reference.forward(*args).clone()
        out[-1, -1, -1] *= 1.01
        return out

    verdict = verdict_on(ttt_linear.OP, "fwd", monkeypatch, forward=forward)
    assert {error.tensor for error in verdict.errors if not error.ok} == {"output"}
    assert "output" in str(verdict)


def test_a_value_that_was_never_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*args: Any) -> Tensor:
        out = torch.empty_like(args[0])
        out[:, :-1] = reference.forward(*args)[:, :-1]
        return out

    torch.empty(SMALL.batch, SMALL.context, SMALL.heads, SMALL.head_dim).zero_()  # memory that looks innocent
    verdict = verdict_on(ttt_linear.OP, "fwd", monkeypatch, forward=forward)
    assert {error.tensor: error.value for error in verdict.errors}["output"] == float("inf")


def test_a_gradient_that_leaves_a_part_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, *rest: Any) -> Tensor:
        return reference.forward(q, k, v, rho, torch.cat([tau[:1].detach(), tau[1:]]), *rest)

    verdict = verdict_on(ttt_linear.OP, "fwd_bwd", monkeypatch, forward=forward)
    assert {error.tensor for error in verdict.errors if not error.ok} == {"d_tau"}


def test_a_state_that_is_wrong_only_inside_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def prefill(*args: Any) -> Tensor:
        out = reference.prefill(*args)
        args[-1].grads[0][:, :, 0] *= 1.01
        return out

    verdict = verdict_on(ttt_linear.OP, "fwd", monkeypatch, prefill=prefill)
    assert {error.tensor for error in verdict.errors if not error.ok} == {"state_grad_1"}


def test_two_runs_that_differ_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = iter([1.0, 1.0 + 2**-22])

    def forward(*args: Any) -> Tensor:
        return reference.forward(*args) * next(factors)

    verdict = verdict_on(ttt_linear.OP, "fwd", monkeypatch, forward=forward)
    assert all(error.ok for error in verdict.errors)
    assert not verdict.ok
    assert str(verdict) == "two runs differ"


def test_another_shape_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Broken, match=r"the output is \(3, 36, 3, 8\), torch.float32 and should be \(3, 37, 3, 8\)"):
        verdict_on(ttt_linear.OP, "fwd", monkeypatch, forward=lambda *args: reference.forward(*args)[:, 1:])


def test_a_foreign_implementation_may_be_rough_and_a_variant_is_its_own_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = ModuleType("variant_kernel")
    variant.forward = lambda *args: 2 * reference.forward(*args)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "variant_kernel", variant)
    about = Impl("variant_kernel", "", is_ours=False)
    for is_variant in (False, True):
        op = replace(ttt_linear.OP, impls={"other": replace(about, is_variant=is_variant)})
        assert Trial(op, replace(SMALL, dtype=torch.bfloat16), CPU).check("other", "fwd_bwd").ok == is_variant


def test_the_heads_of_a_comparison_stand_for_all() -> None:
    """The errors of few heads are those of a run with no others; a shared input's gradient is of these heads alone."""
    runner = Trial(ttt_linear.OP, SMALL, CPU).runner
    assert runner.heads.tolist() == [0, 2]
    few = runner.problem.cut(runner.inputs, runner.heads)
    alone = Runner(runner.problem, SMALL, few, runner.upstream[:, :, [0, 2]], torch.arange(2))
    for mode in PASSES:
        whole, part = runner.run(reference, mode), alone.run(reference, mode)
        for name, tensor in whole.items():
            torch.testing.assert_close(tensor, part[name], rtol=1e-4, atol=1e-6, msg=f"{mode} {name}")


@pytest.mark.parametrize("op", [ttt_linear.OP, ttt_mlp.OP], ids=lambda op: op.name)
def test_the_matrix_products_of_ttt_are_those_that_are_counted(op: Op) -> None:
    """Of whole mini-batches, against torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    runner = Trial(op, replace(SMALL, context=48), CPU).runner
    with FlopCounterMode(display=False) as counter:
        runner.problem.forward(reference, runner.inputs)
    assert counter.get_total_flops() == op.problem.matmul_flops(runner.case)


def test_bytes_of_a_step_are_those_that_a_cycle_moves() -> None:
    """TTT-Linear, 512 sequences, 32 heads of 64, 16 bits: counted by hand, W 134, pairs 31, commit 25, a pair 4, rest 8 MB."""
    problem = ttt_linear.OP.problem
    assert isinstance(problem, Stepping)
    case = Case(batch=512, context=32, heads=32, head_dim=64, dtype=torch.bfloat16)
    assert problem.step_bytes(case) == pytest.approx(203e6, rel=0.03)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_operands_of_products_are_rounded_in_backward_too(device: str) -> None:
    a, b = (torch.randn(5, 5, requires_grad=True, device=device) for _ in range(2))
    with RoundedOperands(torch.bfloat16):
        out = a @ b
        out.sum().backward()
    rounded = [x.detach().bfloat16().float() for x in (a, b)]
    torch.testing.assert_close(out, rounded[0] @ rounded[1], rtol=1e-6, atol=1e-6)
    assert a.grad is not None
    torch.testing.assert_close(a.grad, torch.ones_like(a) @ rounded[1].T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_poison_ends_with_its_block(device: str) -> None:
    zeros = torch.zeros(3, device=device)
    with poisoned():
        assert all(
            empty.isnan().all() for empty in (torch.empty(3, device=device), torch.empty_like(zeros), zeros.new_empty(3))
        )
    assert not torch.are_deterministic_algorithms_enabled()


def test_relative_error_of_what_is_zero_or_not_a_number() -> None:
    zero, one, nan = torch.zeros(2), torch.ones(2), torch.full((2,), float("nan"))
    assert relative_error(one * 1.5, one) == 0.5
    assert relative_error(zero, zero) == 0.0
    assert relative_error(one, zero) == relative_error(nan, one) == float("inf")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # other packages' own
@pytest.mark.parametrize(
    ("op", "impl", "mode"),
    [(op, impl, mode) for op in OPS for impl in op.impls for mode in PASSES if op.runs(impl, mode)],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_implementation_on_a_gpu(op: Op, impl: str, mode: Pass) -> None:
    loaded(op, impl)
    case = Case(batch=2, context=256, heads=4, head_dim=64, dtype=torch.bfloat16)
    verdict = Trial(op, case, torch.device("cuda")).check(impl, mode)
    assert verdict.ok, verdict
