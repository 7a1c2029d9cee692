"""Figures of what trainings differ in: their context, their state, their inner mini-batch, a row of the paper's table 1."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from bench.compose import compose_run, compose_runs
from bench.figures.data import Data
from bench.figures.index import ABLATION_FIGURES, STUDY_FIGURES, figures_of
from bench.figures.paper import TABLE_1
from bench.results import Coordinate, Row
from bench.tests.synthetic_runs import MODELS, Bench
from bench.tests.test_figures import line_of, words

EVERY = {**STUDY_FIGURES, **ABLATION_FIGURES}


def trained(bench: Bench, model: str, level: float, **at: Coordinate) -> float:
    """A training whose rows stand at other coordinates, with a loss of its own; its perplexity."""
    kind = model.removesuffix("_t")
    named = {"model": kind, "backbone": "mamba" if model in {"ttt_linear", "mamba"} else "transformer"}
    losses = bench.losses("mamba", level, 0, bench.windows)
    rows: list[Row] = []
    for row in bench.train("mamba", "nano_3", 0):
        mine = losses if row.metric == "nll" else row.samples
        rows.append(replace(row, at={**row.at, **named, **at}, samples=mine))
    counts = next(row.samples for row in rows if row.metric == "targets")
    mean = float(np.average(losses, weights=counts))
    bench.write("train", model, [replace(row, value=mean) if row.metric == "nll" else row for row in rows])
    bench.runs[-1] = replace(
        bench.runs[-1], config={**bench.runs[-1].config, "model": {"name": kind, "backbone": named["backbone"]}}
    )
    return math.exp(mean)


def draw(name: str, bench: Bench) -> Figure:
    figure = EVERY[name].draw(Data(tuple(bench.runs), MODELS, "small"))
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", EVERY)
def test_no_rows_are_said_with_the_command(name: str, tmp_path: Path) -> None:
    assert f"python -m bench experiment={EVERY[name].EXPERIMENTS[-1]}" in words(draw(name, Bench(tmp_path)))


def test_a_tier_draws_what_its_trainings_differ_in() -> None:
    def drawn(*jobs: str) -> set[str]:
        return set(figures_of(compose_runs([job.split() for job in jobs]))) - {"perplexity_vs_flops", "fairness_card"}

    train = "experiment=train model=mamba"
    assert drawn(train) == set()
    assert drawn(train, f"{train} optim.train_context=64") == {"perplexity_by_train_context"}
    assert drawn(*(f"{train} budget=nano_{n}" for n in (1, 2, 3))) == {"scaling_fits"}
    assert drawn(train, "experiment=train model=transformer") == {"perplexity_vs_state"}
    assert drawn("experiment=train model=ablation/linear_attention") == {"ablation"}


def test_each_model_is_read_at_the_context_that_it_was_trained_at(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    made = [trained(bench, "mamba", level, train_context=c, context=c) for c, level in ((2048, 2.0), (8192, 1.8), (32768, 1.9))]
    figure = draw("perplexity_by_train_context", bench)
    assert line_of(figure.axes[0], "mamba", 3) == pytest.approx(made)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["2k", "8k", "32k"]
    assert "nano, 7.4e11 FLOP" in words(figure)


def test_perplexity_stands_over_the_bytes_of_the_state(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    mamba, linear = trained(bench, "mamba", 2.0), trained(bench, "ttt_linear", 1.9)
    figure = draw("perplexity_vs_state", bench)
    for model, expected in (("mamba", mamba), ("ttt_linear", linear)):
        assert line_of(figure.axes[0], model, 1) == pytest.approx([expected])
    places = {float(x) for line in figure.axes[0].lines for x in np.asarray(line.get_xdata())}
    assert places == {bench.bytes_of("mamba", 512)}


def test_mini_batches_have_a_place_each_and_a_time(tmp_path: Path) -> None:
    bench, sizes = Bench(tmp_path), (1, 16, 256)
    made = [trained(bench, "ttt_linear", 1.8 + 0.1 * n, mini_batch=size) for n, size in enumerate(sizes)]
    for n, size in enumerate(sizes):
        at = bench.at("ttt_linear", context=2048, batch=8, phase="prefill", mini_batch=size)
        rows = [Row(metric="latency", value=0.1 / (n + 1), unit="s", at=at, samples=(0.1 / (n + 1),) * 9)]
        bench.write("prefill_latency", "ttt_linear", rows, seed=n)
    figure = draw("mini_batch", bench)
    left, right = figure.axes
    assert line_of(left, "ttt_linear", 3) == pytest.approx(made)
    assert line_of(right, "ttt_linear", 3) == pytest.approx([100.0, 50.0, 100 / 3])
    assert "2k tokens, batch 8, the whole model, reference" in words(figure)
    assert "Here, of 2 steps to the next smaller: agrees 2." in words(figure)


def test_the_ladder_stands_beside_the_papers(tmp_path: Path) -> None:
    bench, made = Bench(tmp_path), {}
    for n, series in enumerate(dict.fromkeys(row.series for row in TABLE_1)):
        if series != "inner_norm":
            made[series] = trained(bench, series, 2.0 - 0.05 * n, mini_batch=16)
    trained(bench, "ttt_linear", 9.0, mini_batch=4)  # no row of this table
    figure = draw("ablation", bench)
    text = words(figure)
    for series, perplexity in made.items():
        assert f"{perplexity:.2f}" in text, series
    assert all(f"{row.perplexity:.2f}" in text and row.what in text for row in TABLE_1)
    assert "-0.68" in text and "+0.00" in text and "-0.90" in text  # the paper's steps
    assert f"{made['ttt_linear'] - made['ttt_linear_t']:+.2f}" in text
    assert text.count("disagrees") == 1 and text.count("agrees") > 3  # + learned W₀, which the paper calls equal, and the head
    assert text.count("no rows") == 1 and "No rows of: batch descent, inner norm" in text


def test_rows_of_the_table_are_models_of_conf() -> None:
    for row in TABLE_1:
        name = row.series if row.series.startswith("ttt_") else f"ablation/{row.series}"
        run = compose_run([f"model={name}", "optim.train_context=256"])
        assert row.series in (run.model.name, f"{run.model.name}_t")
        assert run.model.mini_batch == {"inner_norm": 256}.get(row.series, run.model.mini_batch)
