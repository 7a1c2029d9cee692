"""Verdicts by rule: paired, adjusted for all that is asked together, wider where seeds differ, and held against the paper."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.figures.data import Data
from bench.figures.judged import Verdict, about_paper
from bench.figures.paper import finding_of
from bench.figures.verdicts import as_table, verdicts
from bench.stats import holm
from bench.tests.synthetic_runs import MODELS, Bench


def judged(bench: Bench) -> tuple[Verdict, ...]:
    return verdicts(Data(tuple(bench.runs), MODELS, "nano"))


def one(found: Sequence[Verdict], first: str, second: str, where: str = "") -> Verdict:
    (it,) = [v for v in found if (v.first.label, v.second.label) == (first, second) and where in v.where]
    return it


def trained(bench: Bench, shifts: dict[str, float], seeds: Sequence[float] = (0.0,), context: int = 512) -> Bench:
    """Runs of one budget: the losses of one model, shifted, with noise of 0.001; ``seeds``: what each adds (mamba) or takes."""
    for model, shift in shifts.items():
        for seed, of_seed in enumerate(seeds):
            rows = []
            for row in bench.train("mamba", "nano_3", 0):
                moved = np.array(row.samples) + shift + of_seed * (1 if model == "mamba" else -1)
                noise = np.random.default_rng([seed, *model.encode()]).normal(0, 0.001, len(moved))
                kind = {"model": model, "backbone": "transformer" if model == "transformer" else "mamba", "seed": seed}
                samples = tuple((moved + noise).tolist()) if row.metric == "nll" else row.samples
                value = float(np.mean(samples)) if row.metric == "nll" else row.value
                rows.append(replace(row, value=value, samples=samples, at={**row.at, **kind, "train_context": context}))
            bench.write("train", model, rows, seed=seed)
    return bench


def test_every_pair_is_asked_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.everything()
    found = judged(bench)
    assert len({(v.where, v.first.label, v.second.label) for v in found}) == len(found) == 3 * 6 + 6 + 4
    rows = {
        run.config["model"]["name"]: {row.metric: row.samples for row in run.rows}
        for run in bench.runs
        if run.manifest.experiment == "train" and run.config["budget"]["name"] == "nano_2"
    }
    difference = np.array(rows["ttt_linear"]["nll"]) - np.array(rows["mamba"]["nll"])
    expected = np.average(difference, weights=rows["mamba"]["targets"])
    assert one(found, "TTT-Linear", "Mamba", "3.7e11").difference.value == pytest.approx(expected)
    for experiment, count in (("train", 18), ("perplexity_by_context", 10)):
        family = [v for v in found if v.experiment == experiment]
        assert len(family) == count
        assert [v.p_holm for v in family] == pytest.approx(holm([v.difference.p or 0 for v in family]))


def test_equal_different_and_what_cannot_be_told(tmp_path: Path) -> None:
    found = judged(trained(Bench(tmp_path), {"ttt_linear": 0.0, "ttt_mlp": 0.001, "mamba": 0.05}))
    assert one(found, "TTT-Linear", "TTT-MLP").judgement == "equal"
    assert "TTT-Linear equals TTT-MLP within 0.005 nat/token" in one(found, "TTT-Linear", "TTT-MLP").sentence
    apart = one(found, "TTT-Linear", "Mamba")
    assert (apart.judgement, apart.is_lower) == ("different", True)
    assert "TTT-Linear is lower than Mamba by 0.0" in apart.sentence
    assert as_table([apart]).rows[0][7] == "different: first better"
    unsure = replace(apart, p_holm=0.06)
    assert unsure.judgement == "cannot tell"
    assert "TTT-Linear cannot be told from Mamba (it is lower by 0.0" in unsure.sentence


def test_seeds_that_differ_widen_the_interval_until_nothing_can_be_told(tmp_path: Path) -> None:
    shifts = {"ttt_linear": 0.0, "mamba": 0.05}
    sure = one(judged(trained(Bench(tmp_path / "a"), shifts)), "TTT-Linear", "Mamba")
    unsure = one(judged(trained(Bench(tmp_path / "b"), shifts, seeds=(-0.1, 0.1))), "TTT-Linear", "Mamba")
    assert math.isnan(sure.seed_error)
    assert unsure.seed_error == pytest.approx(math.sqrt(2) * 0.1, rel=0.02)
    assert unsure.difference.value == pytest.approx(sure.difference.value, abs=0.002)
    assert (sure.judgement, unsure.judgement) == ("different", "cannot tell")
    assert unsure.difference.high - unsure.difference.low == pytest.approx(2 * 4.303 * unsure.seed_error, rel=0.01)


def test_one_seed_takes_the_spread_of_others(tmp_path: Path) -> None:
    bench = trained(Bench(tmp_path), {"ttt_linear": 0.0, "mamba": 0.05}, seeds=(-0.01, 0.01))
    trained(bench, {"transformer": 0.1})
    error = one(judged(bench), "TTT-Linear", "Transformer").seed_error
    assert error == pytest.approx(math.sqrt(2) * 0.01 * math.sqrt(1 / 2 + 1), rel=0.05)


def test_the_paper_is_agreed_with_only_where_it_says_something(tmp_path: Path) -> None:
    shifts = {"ttt_linear": 0.0, "mamba": 0.05}
    found = {
        context: one(judged(trained(Bench(tmp_path / str(context)), shifts, context=context)), "TTT-Linear", "Mamba")
        for context in (512, 2048, 32768)
    }
    said = {context: (verdict.found, verdict.agrees) for context, verdict in found.items()}
    assert said == {512: ("", ""), 2048: ("equal", "disagrees"), 32768: ("lower", "agrees")}
    assert replace(found[32768], p_holm=1.0).agrees == "cannot tell"


def test_what_the_paper_found_on_books_alone_holds_there_alone() -> None:
    assert [finding_of("ttt_linear", "mamba", 2048, data) for data in ("books", "pile")] == ["higher", "equal"]
    assert finding_of("mamba", "ttt_linear", 2048, "books") == "lower"
    assert finding_of("ttt_linear", "transformer", 2048, "books") == "equal"


def test_a_caption_says_where_the_paper_is_agreed_with(tmp_path: Path) -> None:
    found = judged(trained(Bench(tmp_path), {"ttt_linear": 0.0, "ttt_mlp": 0.0, "mamba": 0.05}, context=2048))
    sentences = about_paper(found)
    assert "The paper: TTT-Linear equal to Mamba, trained at 2k. Here: disagrees (nano 7.4e11)." in sentences
    assert len(sentences) == 2  # of the third pair the paper says nothing
    other = replace(one(found, "TTT-Linear", "Mamba"), p_holm=1.0)
    assert about_paper([*found, other])[1].endswith("Here: disagrees (nano 7.4e11); cannot tell (nano 7.4e11).")


def test_the_spread_of_trainings_widens_what_is_read_of_them_at_any_context(tmp_path: Path) -> None:
    bench = trained(Bench(tmp_path), {"ttt_linear": 0.0, "mamba": 0.05}, seeds=(-0.01, 0.01))
    for model in ("ttt_linear", "mamba"):
        bench.write("perplexity_by_context", model, bench.by_context(model))
    found = [v for v in judged(bench) if v.experiment == "perplexity_by_context"]
    between, *own = sorted(found, key=lambda v: v.first.series == v.second.series)
    assert between.seed_error == pytest.approx(math.sqrt(2) * 0.01 * math.sqrt(2), rel=0.05)
    assert all(math.isnan(v.seed_error) for v in own)


def test_a_model_at_long_context_is_held_against_itself_at_its_training_context(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for model in ("ttt_linear", "mamba"):
        rows = [replace(row, at={**row.at, "train_context": 8192}) for row in bench.by_context(model)]
        bench.write("perplexity_by_context", model, rows)
    found = judged(bench)
    own = one(found, "Mamba at 32k", "Mamba at 8k")
    samples = {row.at["context"]: np.array(row.samples) for row in bench.runs[1].rows}
    assert own.difference.value == pytest.approx((samples[32768] - samples[8192]).mean())
    assert (own.found, one(found, "TTT-Linear at 32k", "TTT-Linear at 8k").found) == ("equal", "lower")


def test_a_context_within_the_training_is_judged_rather_than_one_whose_targets_lie_past_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for model in ("ttt_linear", "mamba"):
        rows = [replace(row, at={**row.at, "train_context": 32768}) for row in bench.by_context(model)]
        (last,) = [row for row in rows if row.at["context"] == 32768]
        bench.write("perplexity_by_context", model, [*rows, replace(last, at={**last.at, "context": 31744})])
    found = judged(bench)
    assert [v.where.split(", ")[-1] for v in found if v.first.series != v.second.series] == ["31k before the targets"]
    assert one(found, "Mamba at 31k", "Mamba at 16k").found == "equal"


def test_what_more_context_brings_is_compared_within_the_training_context(tmp_path: Path) -> None:
    bench, gains = Bench(tmp_path), {"ttt_linear": -0.01, "mamba": 0.0}
    samples = {}
    for model, gain in gains.items():
        for seed, level in enumerate((-0.3, 0.3)):  # what a seed does to the level is not what it does to the gain
            rows = []
            for row in bench.by_context(model):
                losses = np.array(row.samples) + level + (row.at["context"] == 16384) * (gain + 0.001 * seed)
                at = {**row.at, "seed": seed, "train_context": 32768, "n_targets": 1024 * len(losses)}
                rows.append(replace(row, value=float(losses.mean()), samples=tuple(losses.tolist()), at=at))
                samples[model, seed, row.at["context"]] = losses
            bench.write("perplexity_by_context", model, rows, seed=seed)
    found = one(judged(bench), "TTT-Linear", "Mamba", "change from 1k to 16k before the targets")
    linear, mamba = (
        np.mean([samples[model, seed, 16384] - samples[model, seed, 1024] for seed in (0, 1)], axis=0) for model in gains
    )
    assert found.difference.value == pytest.approx((linear - mamba).mean())
    assert found.seed_error == pytest.approx(0.001 / math.sqrt(2))
    assert found.found == ""  # the paper says nothing of it


def test_what_is_not_alike_is_not_compared(tmp_path: Path) -> None:
    bench = trained(Bench(tmp_path), {"ttt_linear": 0.0})
    trained(bench, {"mamba": 0.05}, context=1024)
    assert judged(bench) == ()
    other = trained(Bench(tmp_path / "other", windows=30), {"mamba": 0.05})
    assert judged(replace(bench, runs=[*bench.runs[:1], *other.runs])) == ()


def test_a_loss_that_is_not_finite_decides_nothing(tmp_path: Path) -> None:
    verdict = one(judged(trained(Bench(tmp_path), {"ttt_linear": 0.0, "mamba": math.inf})), "TTT-Linear", "Mamba")
    assert verdict.judgement == "cannot tell"
    assert as_table([verdict]).rows[0][4] == "none"
