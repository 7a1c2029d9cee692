"""Sizes and lengths that make FLOPs equal, on real models; the paper's own numbers."""

from collections import Counter
from pathlib import Path

import pytest

from bench.budget import BudgetError
from bench.build import Prepared, build_lm, prepare, size_of, sketch_lm
from bench.compose import compose_run
from bench.data.prepare import prepare as prepare_corpus
from bench.tests.micro import MODELS, micro_run
from models.mixer import Size, SizeError

PAPER = ["size=1.3b", "optim.train_context=2048", "optim.batch_tokens=524288", "data.vocab=32000", "budget.flops=1e20"]


def prepared(*overrides: str) -> Prepared:
    return prepare(compose_run(["data.max_epochs=inf", *overrides]))  # as where no corpus is prepared


@pytest.mark.parametrize(("model", "ffn"), [("ttt_linear", 5808), ("ttt_mlp", 5248)])
def test_widths_matched_to_mamba_are_those_of_the_paper(model: str, ffn: int) -> None:
    made = prepared("match=ffn", f"model={model}", *PAPER)
    assert made.size.ffn == pytest.approx(ffn, rel=0.01)
    assert made.size.ffn % made.run.match.multiple == 0
    assert (made.size.width, made.size.layers, made.size.heads) == (2048, 24, 32)
    reference = made.run.match.reference
    assert (reference.model.name, reference.size.name) == ("mamba", "1.3b")
    assert abs(made.plan.mismatch) < 0.01
    assert made.plan.is_matched


@pytest.mark.parametrize("model", MODELS)
def test_depth_is_the_nearest_there_is(model: str) -> None:
    made = prepared("match=depth", "size=5m", "optim=nano", f"model={model}", "budget.flops=1e15", "match.tolerance=1")
    reference = made.run.match.reference
    target = sketch_lm(reference.model, size_of(reference.size, reference.model), 256).cost("train", 512, "causal").flops

    def distance(layers: int) -> float:
        size = Size(made.size.width, layers, made.size.heads, made.size.ffn)
        return abs(sketch_lm(made.run.model, size, 256).cost("train", 512, "causal").flops - target)

    assert distance(made.size.layers) == min(distance(made.size.layers + more) for more in (-1, 0, 1))
    assert abs(made.unchecked_plan.mismatch) == pytest.approx(distance(made.size.layers) / target, rel=0.01, abs=1e-5)


def test_a_match_that_is_too_coarse_is_an_error_only_where_it_is_spent() -> None:
    made = prepared("match=depth", "size=nano", "model=transformer", "match.tolerance=0.001")
    assert abs(made.unchecked_plan.mismatch) > 0.001
    with pytest.raises(BudgetError, match=r"match\.tolerance is 0\.10%"):
        _ = made.plan


def test_a_model_without_a_feed_forward_layer_cannot_be_matched_by_its_width() -> None:
    with pytest.raises(BudgetError, match=r"'mamba'.*no feed-forward layer; use match=depth"):
        prepared("match=ffn", "model=mamba", "size@match.reference.size=5m")


def test_the_reference_itself_is_as_it_is() -> None:
    made = prepared("match=ffn", "model=mamba", "size=5m", "budget.flops=1e15")
    assert made.size == size_of(made.run.size, made.run.model)
    assert made.plan.mismatch == pytest.approx(0, abs=1e-5)


def test_equal_tokens_are_not_said_to_be_matched() -> None:
    plans = [prepared("match=tokens", "budget=nano_1", f"model={model}").plan for model in MODELS]
    assert len({plan.tokens for plan in plans}) == 1
    assert not any(plan.is_matched for plan in plans)
    assert max(abs(plan.mismatch) for plan in plans) > 0.01  # so a check would have failed


def test_a_budget_of_tokens_is_what_the_reference_sees() -> None:
    tokens = ["budget.flops=null", "budget.tokens=200000"]
    seen = prepared("model=transformer", *tokens).plan
    assert seen.tokens == pytest.approx(200_000, rel=1e-3)
    others = [prepared(f"model={model}", *tokens).plan for model in ("ttt_mlp", "mamba")]
    assert all(plan.flops == pytest.approx(seen.flops, rel=0.005) for plan in others)


def test_a_training_goes_through_its_text_no_more_often_than_it_may(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "data.max_epochs=0.01")
    unknown = prepare(run)
    assert (unknown.epochs, unknown.heldout_documents) == (None, 2)
    plan = unknown.plan
    corpus = prepare_corpus(run.data)
    assert prepare(run).epochs == plan.tokens / corpus.train_tokens
    with pytest.raises(
        BudgetError, match=r"tokens are \d\.\d+ epochs of data=austen, more than data\.max_epochs=0\.01; choose a"
    ):
        _ = prepare(run).plan
    run.data.max_epochs = 4.0
    assert prepare(run).plan == plan


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("budget", ["nano_1", "nano_3"])
def test_every_nano_training_spends_its_budget(model: str, budget: str) -> None:
    made = prepared(f"model={model}", f"budget={budget}")
    assert made.run.budget.flops is not None
    batches = Counter(map(made.plan.shape, range(made.plan.steps)))
    spent = sum(times * rows * made.train_flops(length) for (rows, length), times in batches.items())
    assert spent == made.plan.flops == pytest.approx(made.run.budget.flops, rel=0.005)


def test_parameters_are_counted_once_and_none_are_made_for_counting() -> None:
    made = prepared("model=mamba", "size=tiny")
    assert {p.device.type for p in made.sketch.parameters()} == {"meta"}
    real = build_lm(made.run.model, made.size, made.run.data.vocab)
    assert made.parameters == sum(p.numel() for p in real.parameters())
    assert made.size.layers == 2 * made.run.size.layers  # layers_factor


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("size.heads=3", "3 heads do not divide width 64; choose"),
        ("size.heads=64", "head dim 64/64 is odd"),
        ("size.layers=0", "every field of a size must be positive"),
    ],
)
def test_a_size_that_makes_no_model_says_why(override: str, message: str) -> None:
    with pytest.raises(SizeError, match=message):
        prepared(override)


def test_a_budget_under_one_step_says_so() -> None:
    with pytest.raises(BudgetError, match="too small for one step"):
        _ = prepared("budget.flops=1e6").plan
