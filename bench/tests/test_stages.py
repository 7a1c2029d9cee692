"""A training in two stages: the second starts from the weights of the first, and both together spend the budget."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.budget import BudgetError
from bench.build import prepare
from bench.compose import compose_run
from bench.config import identity, run_id
from bench.lab import Lab
from bench.results import hash_of, open_run, read_run
from bench.run import describe, execute
from bench.tests.micro import BUDGET, micro_run
from bench.train import load

FINETUNE = "model=finetune/transformer"


@pytest.mark.parametrize("method", ["budget", "tokens"])
def test_both_stages_share_what_is_held_equal(tmp_path: Path, method: str) -> None:
    run = micro_run(tmp_path, "train", FINETUNE, f"match={method}", "budget.flops=1e9")
    whole, plain = (
        prepare(run),
        prepare(micro_run(tmp_path, "train", "model=transformer", f"match={method}", "budget.flops=1e9")),
    )
    assert whole.first is not None
    first, plan = whole.first.unchecked_plan, whole.unchecked_plan
    held = "flops" if method == "budget" else "tokens"
    assert getattr(plan, held) == pytest.approx(getattr(plain.unchecked_plan, held), rel=0.002)
    assert (plan.tokens - first.tokens) / first.tokens == pytest.approx(0.2, rel=0.02)
    assert plan.all_steps == first.steps + plan.steps
    assert (first.context, plan.context) == (16, 32)
    assert abs(plan.mismatch) < 0.002 or method == "tokens"


def test_the_second_stage_starts_from_the_weights_of_the_first(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", FINETUNE)
    outcome = execute(run)
    first = prepare(run).first
    assert first is not None
    one, two = (Path(run.results) / "train" / describe(each).run_id for each in (first.run, run))
    assert not execute(first.run).is_new
    assert outcome.manifest.seconds > read_run(one).manifest.seconds
    assert {row.metric for row in read_run(one).rows} >= {"train_nll"}
    assert not [row for row in read_run(one).rows if row.metric == "nll"]
    (before,), (beforehand,) = (
        [r.value for r in read_run(at).rows if r.metric == m] for at, m in ((one, "train_time"), (two, "first_stage_time"))
    )
    assert before == beforehand > 0
    (flops,) = [row.value for row in read_run(two).rows if row.metric == "train_flops"]
    assert flops == prepare(run).plan.flops == pytest.approx(BUDGET, rel=0.005)
    with open_run(tmp_path / "other", replace(describe(run)), {}) as recorder:
        started = Lab(run, recorder, None, start=one / "weights.pt").lm_to_train(run.train).state_dict()
    for name, tensor in load(one / "weights.pt")["model"].items():
        assert torch.equal(started[name], tensor)
        assert not torch.equal(load(two / "weights.pt")["model"][name], tensor)


def test_identity_covers_the_first_stage() -> None:
    words = [FINETUNE, "size=15m", "budget=flops_1e16", "optim=finetune_32k", "data=books"]
    run = compose_run(words)
    assert (run.model.first and run.model.first.model.name, run.model.first and run.model.first.optim.name) == (
        "transformer",
        "small",
    )
    for word, is_same in (("lr=0.1", False), ("train_context=1024", False), ("lr_source=guessed", True)):
        assert (run_id(run, {}) == run_id(compose_run([*words, f"model.first.optim.{word}"]), {})) == is_same
    assert run.model.layer[0]["rope_theta"] == 500_000
    plain = identity(compose_run(["model=transformer"]))
    assert "first" not in plain["model"] and "first" not in plain["match"]["reference"]["model"]
    assert hash_of(plain) == "30dd1356"


def test_the_first_stage_takes_the_rate_that_was_searched_for_its_model() -> None:
    run = compose_run([FINETUNE, "optim@model.first.optim=nano", "optim=small_32k"])
    assert run.model.first is not None
    assert run.model.first.optim.lr == run.model.first.optim.searched["transformer"]


def test_two_stages_need_a_total_to_share(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"match=ffn knows no training in two stages.*use match=budget"):
        _ = prepare(micro_run(tmp_path, "train", FINETUNE, "match=ffn")).plan
