"""From a budget to steps: how long a model trains so that the comparison is fair. No torch here.

The amount held equal is FLOPs (match=budget) or tokens (every other method); what is realised is counted, not asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

Count = Callable[[int], int]
"""What one sequence of n tokens amounts to: its training FLOPs, or n itself. Grows with n."""


class BudgetError(ValueError):
    """A budget that cannot be met."""


@dataclass(frozen=True)
class Plan:
    """Realised training: ``steps`` batches of ``rows`` x ``context`` tokens, the last one ``last_rows`` x ``last_length``.

    ``target_flops`` is what the comparison holds equal; ``is_matched`` is False where it only holds tokens equal.
    ``steps_before``: of the stage whose weights this one starts from.
    """

    steps: int
    rows: int
    context: int
    last_rows: int
    last_length: int
    tokens: int
    flops: int
    target_flops: float
    is_matched: bool = True
    steps_before: int = 0

    def after(self, first: "Plan") -> "Plan":
        """The plan of a second stage: its own batches; tokens, FLOPs and target of both stages together."""
        return replace(
            self,
            tokens=self.tokens + first.tokens,
            flops=self.flops + first.flops,
            target_flops=self.target_flops + first.flops,
            steps_before=first.steps,
        )

    @property
    def all_steps(self) -> int:
        """Of both stages."""
        return self.steps_before + self.steps

    @property
    def flops_per_token(self) -> float:
        """Mean over the whole training."""
        return self.flops / self.tokens

    @property
    def mismatch(self) -> float:
        """Relative, signed: realised over target, minus 1."""
        return self.flops / self.target_flops - 1

    def shape(self, step: int) -> tuple[int, int]:
        """Sequences and tokens of each in the batch of a step, counted from 0."""
        return (self.last_rows, self.last_length) if step == self.steps - 1 else (self.rows, self.context)

    def check(self, tolerance: float) -> None:
        """Raises BudgetError where FLOPs should be matched and are not, within ``tolerance``."""
        if self.is_matched and abs(self.mismatch) > tolerance:
            raise BudgetError(
                f"realised {self.flops:.4g} training FLOPs are {self.mismatch:+.2%} off the target {self.target_flops:.4g}; "
                f"match.tolerance is {tolerance:.2%}: raise it, or choose a larger budget or a size that can come closer"
            )


def plan_steps(amount: Count, target: float, batch_tokens: int, context: int) -> tuple[int, int, int, int]:
    """Steps, rows of a batch, and rows and length of the last batch, so that the amounts add up to ``target``.

    The last batch has fewer, and shorter, sequences: the sum is off by half a token a row at most.

    Raises:
        BudgetError: the batch is not made of whole sequences, or the target is less than one step.
    """
    if batch_tokens % context:
        raise BudgetError(f"optim.batch_tokens={batch_tokens} is not a multiple of optim.train_context={context}; make it one")
    rows = batch_tokens // context
    full = rows * amount(context)
    steps, rest = int(target // full), target % full
    if not steps:
        raise BudgetError(
            f"the budget {target:.4g} is too small for one step, which takes {full:.4g}; "
            "choose a larger budget, or a smaller optim.batch_tokens or optim.train_context"
        )
    last_rows = min(rows, max(1, math.ceil(rest / amount(context))))
    length = _nearest_length(amount, rest / last_rows, context)
    return (steps + 1, rows, last_rows, length) if length else (steps, rows, rows, context)


def _nearest_length(amount: Count, target: float, longest: int) -> int:
    """The length from 0 to ``longest`` whose amount is nearest to ``target``."""
    low, high = 0, longest
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if amount(middle) < target else (low, middle)
    return low - 1 if low and target - amount(low - 1) < amount(low) - target else low


def plan(
    flops: Count, *, target_flops: float, tokens: float | None, batch_tokens: int, context: int, is_matched: bool = True
) -> Plan:
    """The plan that spends ``target_flops``, or that sees ``tokens`` where they are given."""
    amount, target = (flops, target_flops) if tokens is None else (lambda n: n, tokens)
    steps, rows, last_rows, last_length = plan_steps(amount, target, batch_tokens, context)
    seen = (steps - 1) * rows * context + last_rows * last_length
    spent = (steps - 1) * rows * flops(context) + last_rows * flops(last_length)
    return Plan(steps, rows, context, last_rows, last_length, seen, spent, target_flops, is_matched)


def solve_linear(flops: Count, target: float, multiple: int) -> int:
    """The multiple of ``multiple`` at which ``flops``, linear in its argument, comes nearest to ``target``.

    Raises:
        BudgetError: it would be zero or less.
    """
    base, slope = flops(multiple), (flops(2 * multiple) - flops(multiple)) / multiple
    best = multiple * round(((target - base) / slope + multiple) / multiple)
    if best < multiple:
        raise BudgetError(
            f"no size reaches the reference's {target:.4g} FLOPs per token: even the smallest spends {base:.4g}; "
            "choose a larger reference (size@match.reference.size=…)"
        )
    return best
