"""What is spent is what was asked for, nearly; what cannot be spent says why."""

import random
from collections.abc import Callable

import pytest

from bench.budget import BudgetError, Plan, plan, plan_steps, solve_linear


def flops_like(linear: int, square: int) -> Callable[[int], int]:
    """Training FLOPs of a sequence: linear layers and causal attention."""
    return lambda n: linear * n + square * n * (n + 1) // 2


def recount(made: Plan, amount: Callable[[int], int]) -> int:
    """Sum over the batches, one by one."""
    return sum(rows * amount(length) for rows, length in map(made.shape, range(made.steps)))


@pytest.mark.parametrize("target", [1.8e11, 3.7e11, 7.4e11])
@pytest.mark.parametrize(("linear", "square"), [(1_050_000, 0), (1_310_000, 0), (1_100_000, 768)])
def test_nano_spends_its_budget_within_half_a_percent(target: float, linear: int, square: int) -> None:
    flops = flops_like(linear, square)
    made = plan(flops, target_flops=target, tokens=None, batch_tokens=4096, context=512)
    assert abs(made.mismatch) < 5e-5
    assert made.flops == recount(made, flops)
    assert made.tokens == recount(made, lambda n: n)
    assert made.flops_per_token == pytest.approx(target / made.tokens, rel=1e-4)


def test_any_budget_is_met_to_half_a_token_a_row() -> None:
    draw = random.Random(3)
    for _ in range(2000):
        flops = flops_like(draw.randint(1, 10**6), draw.choice([0, draw.randint(0, 5000)]))
        context, rows = draw.randint(1, 700), draw.randint(1, 16)
        step = rows * flops(context)
        target = step * draw.uniform(1, draw.choice([1.2, 3, 500]))
        made = plan(flops, target_flops=target, tokens=None, batch_tokens=rows * context, context=context)
        assert made.flops == recount(made, flops)
        assert made.tokens == recount(made, lambda n: n)
        assert 1 <= made.last_rows <= rows == made.rows
        assert 1 <= made.last_length <= context
        dearest_token = flops(context) - flops(context - 1)
        assert abs(made.flops - target) <= made.rows * dearest_token / 2 + 1e-9 * target


@pytest.mark.parametrize(
    ("target", "steps", "last", "spent"),
    [
        (120, 3, (4, 10), 120),  # whole batches
        (145, 4, (3, 8), 144),  # 25 more: three sequences of 8
        (160, 4, (4, 10), 160),
        (121, 4, (1, 1), 121),
        (120.4, 3, (4, 10), 120),  # less than half a token is no batch
        (159.9, 4, (4, 10), 160),
        (40, 1, (4, 10), 40),
    ],
)
def test_only_the_last_batch_is_shorter(target: float, steps: int, last: tuple[int, int], spent: int) -> None:
    made = plan(lambda n: n, target_flops=target, tokens=None, batch_tokens=40, context=10)
    assert made.steps == steps
    assert [made.shape(step) for step in range(steps)] == [(4, 10)] * (steps - 1) + [last]
    assert made.flops == spent


def test_equal_tokens_are_spent_whatever_they_cost() -> None:
    made = plan(lambda n: 7 * n, target_flops=5000.0, tokens=1003, batch_tokens=40, context=10, is_matched=False)
    assert made.tokens == pytest.approx(1003, abs=2)
    assert made.flops == 7 * made.tokens
    assert made.mismatch == pytest.approx(made.flops / 5000 - 1)
    made.check(0.005)  # FLOPs are not said to be matched


def test_a_mismatch_over_the_tolerance_is_an_error_that_says_how_large() -> None:
    made = plan(lambda n: 7 * n, target_flops=6800.0, tokens=1000, batch_tokens=40, context=10)
    assert made.mismatch == pytest.approx(200 / 6800)
    made.check(0.03)
    with pytest.raises(BudgetError, match=r"\+2\.94% off.*match\.tolerance is 2\.90%.*larger budget"):
        made.check(0.029)


def test_a_mismatch_below_counts_as_one_above() -> None:
    made = plan(lambda n: 7 * n, target_flops=7200.0, tokens=1000, batch_tokens=40, context=10)
    with pytest.raises(BudgetError, match=r"-2\.78% off"):
        made.check(0.027)


def test_a_budget_too_small_for_one_step_says_what_one_takes() -> None:
    with pytest.raises(BudgetError, match=r"budget 39\.9 is too small for one step, which takes 40;.*optim\.batch_tokens"):
        plan_steps(lambda n: n, 39.9, 40, 10)


def test_a_batch_is_made_of_whole_sequences() -> None:
    with pytest.raises(BudgetError, match=r"optim\.batch_tokens=45 is not a multiple of optim\.train_context=10"):
        plan_steps(lambda n: n, 1000, 45, 10)


def test_the_solved_size_is_the_nearest_of_all() -> None:
    draw = random.Random(5)
    for _ in range(300):
        base, slope, multiple = draw.randint(0, 10**6), draw.randint(1, 1000), draw.choice([1, 8, 16])
        target = base + slope * multiple * draw.uniform(0.6, 60)

        def flops(value: int, base: int = base, slope: int = slope) -> int:
            return base + slope * value

        nearest = min(range(multiple, 100 * multiple, multiple), key=lambda value: abs(flops(value) - target))
        assert solve_linear(flops, target, multiple) == nearest


def test_a_reference_smaller_than_any_size_is_an_error() -> None:
    with pytest.raises(BudgetError, match=r"no size reaches.*even the smallest spends 1\.16e\+04.*match\.reference\.size"):
        solve_linear(lambda value: 10_000 + 100 * value, 5_000, 16)
