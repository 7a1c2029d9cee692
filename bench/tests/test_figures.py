"""Figures say what the rows say: numbers, intervals, what is missing, failed or published, and where an axis ends."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.compose import compose_runs
from bench.figures import footer, panels, paper, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import COORDINATES, frame
from bench.figures.index import ABLATION_FIGURES, FIGURES, STUDY_FIGURES, draw_all, figures_of, hash_of_rows
from bench.figures.lines import Array, Curve, lines, loss_curve, windows_of
from bench.figures.page import Page
from bench.figures.style import look_of, save, series_name
from bench.results import ROOT, Row, Run
from bench.tests.synthetic_runs import BUDGETS, MODELS, TTT, Bench

TRAINED = ("perplexity_vs_flops", "perplexity_by_context", "perplexity_by_position", "inner_loss", "fairness_card", "verdicts")
CAUSE = "nll is nan at step 41 of 160; lower optim.lr"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return Bench(tmp_path_factory.mktemp("full")).everything()


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two seeds, (T), an exploding model, one that diverged, one out of memory, published rows of other sources."""
    bench = Bench(tmp_path_factory.mktemp("hard"), windows=12)
    bench.everything(("ttt_linear", "ttt_linear_t", "transformer", "mamba"), seeds=(0, 1), exploding=("mamba",))
    bench.failure("train", "ttt_mlp", "diverged", CAUSE)
    bench.failure("decode_latency", "ttt_mlp", "oom", "no memory", list(bench.decode_latency("ttt_mlp"))[:4], context=16384)
    theirs = Bench(
        tmp_path_factory.mktemp("theirs"), windows=12, published=True, sources="77770000", git_sha="fedcba9876543210"
    )
    return bench.runs + theirs.everything()


def draw(name: str, runs: list[Run], expected: tuple[str, ...] = MODELS) -> Figure:
    figure = FIGURES[name].draw(Data(tuple(runs), expected, "nano"))
    figure.draw_without_rendering()
    return figure


def words(figure: Figure) -> str:
    """All that is written on a figure; lines are joined as a reader joins them."""
    found = [text.get_text().replace("\u00a0", " ") for text in figure.findobj(Text) if text.get_visible()]
    return " ".join(word for word in found if word)


def line_of(ax: Axes, label: str, count: int) -> Array:
    """y of the line that has this model's colour and ``count`` points."""
    colour = look_of(label).colour
    mine = [np.asarray(one.get_ydata()) for one in ax.lines if one.get_color() == colour]
    return next(ys for ys in mine if len(ys) == count)


def without(runs: list[Run], model: str) -> list[Run]:
    return [run for run in runs if run.config["model"]["name"] != model]


@pytest.mark.parametrize("name", FIGURES)
def test_full_rows_show_every_model_and_nothing_missing(name: str, full: list[Run]) -> None:
    text = words(draw(name, full))
    for model in TTT if name == "inner_loss" else MODELS:
        assert look_of(model).label in text
    assert "No rows" not in text
    assert "Intel Xeon 2.1 GHz" in text
    assert "match=budget, attention counted causal" in text
    assert "nano_3 (7.4e11 FLOP)" in text
    assert all(run.manifest.run_id[-8:] in text for run in full if run.manifest.experiment == FIGURES[name].EXPERIMENTS[-1])
    assert ("1 seed" in text) == (name in TRAINED)


@pytest.mark.parametrize("name", FIGURES)
def test_missing_model_is_named(name: str, full: list[Run]) -> None:
    assert "No rows of: TTT-MLP" in words(draw(name, without(full, "ttt_mlp")))


@pytest.mark.parametrize("name", FIGURES)
def test_no_rows_is_said_with_the_command(name: str) -> None:
    text = words(draw(name, []))
    assert f"python -m bench experiment={FIGURES[name].EXPERIMENTS[-1]}" in text
    assert "No rows of: TTT-Linear, TTT-MLP" in text


@pytest.mark.parametrize("name", FIGURES)
def test_everything_lies_on_the_page_apart_and_readable(name: str, hard: list[Run]) -> None:
    figure = draw(name, hard)
    page = figure.bbox
    panels = [box for ax in figure.axes if ax.get_visible() and ax.axison and (box := ax.get_tightbbox())]
    blocks = [text.get_window_extent() for text in figure.texts] + [legend.get_window_extent() for legend in figure.legends]
    for box in [*panels, *blocks]:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    everything = [box.padded(-1) for box in [*panels, *blocks]]
    assert not [(a, b) for i, a in enumerate(everything) for b in everything[:i] if a.overlaps(b)]
    assert all(float(text.get_fontsize()) >= 8 for text in figure.findobj(Text) if text.get_text())


@pytest.mark.parametrize("name", TRAINED)
def test_training_that_failed_is_named_in_all_that_needs_it(name: str, hard: list[Run]) -> None:
    assert f"TTT-MLP, nano_3, train, seed 0: diverged ({CAUSE})" in words(draw(name, hard))


def test_failures_are_marked_where_they_happened(hard: list[Run]) -> None:
    for name, x, mark in (
        ("decode_latency", 16384, "TTT-MLP: OOM"),
        ("perplexity_vs_flops", BUDGETS["nano_3"], "TTT-MLP: diverged"),
    ):
        ax = draw(name, hard).axes[0]
        assert mark in [text.get_text() for text in ax.texts]
        crosses = [one for one in ax.lines if one.get_marker() == "x"]
        assert len(crosses) == 1
        assert np.asarray(crosses[0].get_xdata()) == [x]


def test_unfinished_run_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("perplexity_by_context", "mamba", list(bench.by_context("mamba"))[:2], status="running")
    assert "Mamba, nano_3, perplexity_by_context, seed 0: unfinished" in words(draw("perplexity_by_context", bench.runs))


def test_published_rows_are_marked_beside_own_ones_and_do_not_stand_in_for_them(hard: list[Run]) -> None:
    text = words(draw("perplexity_by_context", hard))
    assert "TTT-MLP (published)" in text
    assert "Published rows (hollow, dotted, without intervals): fedcba9." in text
    assert "No own rows of: TTT-MLP" in text
    assert "SOURCES DIFFER: 5a5a0001, 77770000" in text


@pytest.mark.parametrize("name", FIGURES)
def test_published_rows_alone_are_normal_lines(name: str, hard: list[Run]) -> None:
    text = words(draw(name, [run for run in hard if run.published]))
    assert "published rows, fedcba9" in text
    assert "(published)" not in text
    assert "No rows" not in text
    assert "DIFFER" not in text


@pytest.mark.parametrize(("high", "is_whole"), [(1.55, True), (50.0, False)])
def test_a_band_may_pass_the_end_of_an_axis_by_a_little(high: float, is_whole: bool) -> None:
    page, value = Page(""), np.array([1.0, 1.1])
    panels.token_axis(page, page.axes[0], [512, 1024], "")
    curve = Curve(look_of("mamba"), np.array([512.0, 1024.0]), value, value - 0.1, value * 0 + high, (), "")
    assert not panels.clip(page, page.axes[0], [curve], 1.5)
    assert (page.axes[0].get_ylim()[1] > high) == is_whole
    assert page.axes[0].get_ylim()[1] < 2


def test_a_budget_with_fewer_seeds_than_others_is_not_hidden_behind_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for budget, seed in (("nano_2", 0), ("nano_3", 0), ("nano_3", 1)):
        rows = [replace(row, at={**row.at, "seed": seed}) for row in bench.train("mamba", budget, seed)]
        bench.write("train", "mamba", rows, budget, seed)
    table = perplexity_vs_flops.rows(Data(tuple(bench.runs), MODELS, "nano"))
    assert footer.seeds(table) == "1 to 2 seeds"


def test_two_seeds_are_dots_around_their_mean(hard: list[Run]) -> None:
    own = [run for run in hard if not run.published]
    figure = draw("perplexity_vs_flops", own)
    assert "2 seeds" in words(figure)
    assert "small dots: single seeds" in words(figure)
    rows = frame(own).query("metric == 'nll' and experiment == 'train' and series == 'mamba'")
    assert line_of(figure.axes[0], "mamba", 6) == pytest.approx(np.exp(rows.sort_values(["train_flops", "run_id"]).value))
    means = [np.exp(rows[rows.budget == budget].value.mean()) for budget in BUDGETS]
    assert line_of(figure.axes[0], "mamba", 3) == pytest.approx(means)


def test_perplexity_is_exp_of_the_mean_over_targets(full: list[Run]) -> None:
    rows = frame(full).query("metric == 'nll' and experiment == 'train' and series == 'mamba' and budget == 'nano_1'")
    row = rows.iloc[0]
    weighted = np.average(row.samples, weights=row.target_counts)
    assert weighted != pytest.approx(np.mean(row.samples), abs=1e-5)
    curve = loss_curve(lines(rows)[0], "train_flops").map(np.exp)
    assert curve.value == pytest.approx([math.exp(weighted)])
    assert curve.low[0] < curve.value[0] < curve.high[0]
    assert windows_of(rows).interval().value == pytest.approx(weighted)
    assert windows_of(rows).interval().n == 40


def test_differences_are_paired(full: list[Run]) -> None:
    figure = draw("perplexity_vs_flops", full)
    nll = frame(full).query("metric == 'nll' and experiment == 'train' and budget == 'nano_2'").set_index("series")
    a, b = np.array(nll.samples["mamba"]), np.array(nll.samples["transformer"])
    expected = np.average(a - b, weights=nll.target_counts["mamba"])
    assert line_of(figure.axes[1], "mamba", 3)[1] == pytest.approx(expected)
    bars = [segment for one in figure.axes[1].collections if isinstance(one, LineCollection) for segment in one.get_segments()]
    assert (
        max(np.ptp(np.asarray(segment)[:, 1]) for segment in bars) < 0.05
    )  # the windows' own difficulty, σ = 0.15, has cancelled


def test_change_with_context_is_paired_against_the_smallest(full: list[Run]) -> None:
    ax = draw("perplexity_by_context", full).axes[1]
    rows = (
        frame(full)
        .query("metric == 'nll' and experiment == 'perplexity_by_context' and series == 'mamba'")
        .sort_values("context")
    )
    assert line_of(ax, "mamba", 6) == pytest.approx(rows.value - rows.value.iloc[0], abs=1e-9)


@pytest.mark.parametrize(("name", "x"), [("perplexity_by_context", 32768), ("perplexity_by_position", 32768)])
def test_exploding_curve_is_clipped_and_printed(name: str, x: int, hard: list[Run]) -> None:
    own = [run for run in hard if not run.published]
    ax = draw(name, own).axes[0]
    rows = frame(own).query(f"metric == 'nll' and experiment == '{name}'")
    at_end = rows[rows["context" if name.endswith("context") else "position"] == x].groupby("series").value.mean()
    assert f"{np.exp(at_end['mamba']):.3g}" in [text.get_text() for text in ax.texts]
    assert np.exp(at_end["mamba"]) > ax.get_ylim()[1] > np.exp(at_end.drop("mamba").max())
    assert ax.get_ylim()[1] < 2.2 * np.exp(at_end["ttt_linear"])  # the others are not squeezed
    shown = words(draw(name, own))
    assert "training context 512" in shown
    assert "beyond the training context: extrapolation" in shown
    assert "how a model fails outside its training, not that another one is better" in shown


def test_nothing_is_beyond_a_training_context_that_is_the_longest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rows = [replace(row, at={**row.at, "train_context": 32768}) for row in bench.by_context("mamba")]
    bench.write("perplexity_by_context", "mamba", rows)
    shown = words(draw("perplexity_by_context", bench.runs))
    assert "training context 32,768" in shown and "beyond" not in shown


def test_a_finetuned_model_is_not_missing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rows = [replace(row, at={**row.at, "model": "transformer_finetune"}) for row in bench.by_context("transformer")]
    bench.write("perplexity_by_context", "transformer", rows)
    assert Data(tuple(bench.runs), ("transformer", "mamba"), "nano").missing(frame(bench.runs)) == ["mamba"]


def test_value_within_the_training_context_is_never_clipped(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for model in MODELS:
        worse = 2.0 if model == "mamba" else 1.0
        rows = [
            replace(row, value=row.value * worse, samples=tuple(worse * s for s in row.samples))
            for row in bench.by_position(model)
        ]
        bench.write("perplexity_by_position", model, rows)
    ax = draw("perplexity_by_position", bench.runs).axes[0]
    assert ax.get_ylim()[1] > line_of(ax, "mamba", 10)[0]


def test_loss_of_one_seed_that_is_not_finite_is_printed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("perplexity_by_context", "ttt_linear", bench.by_context("ttt_linear"))
    bench.write("perplexity_by_context", "mamba", bench.by_context("mamba"))
    rows = list(bench.by_context("mamba", seed=1))
    rows[-1] = replace(rows[-1], value=math.nan, samples=(math.nan, *rows[-1].samples[1:]))
    bench.write("perplexity_by_context", "mamba", rows, seed=1)
    for ax in draw("perplexity_by_context", bench.runs).axes:
        assert "not finite" in [text.get_text() for text in ax.texts]


def test_what_differs_is_not_mixed_in_one_line(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rows = list(bench.prefill_latency("mamba"))
    bench.write("prefill_latency", "mamba", rows + [replace(row, at={**row.at, "batch": 4}) for row in rows])
    text = words(draw("prefill_latency", bench.runs))
    assert "Mamba, batch 1" in text
    assert "Mamba, batch 4" in text


def test_mean_step_takes_whole_cycles(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    steps = tuple(1e-3 * (17 if i % 16 == 15 else 1) for i in range(40))
    for model in ("ttt_linear", "mamba"):
        at = bench.at(model, context=1024, batch=1, phase="step")
        more = replace(row := Row(metric="latency", value=1e-3, unit="s", at=at, samples=steps), at=at | {"context": 2048})
        bench.write("decode_latency", model, [row, more])
    figure = draw("decode_latency", bench.runs)
    assert line_of(figure.axes[0], "ttt_linear", 2) == pytest.approx([1, 1])  # a median does not see the commit
    assert line_of(figure.axes[1], "ttt_linear", 2) == pytest.approx([2, 2])
    assert line_of(figure.axes[1], "mamba", 2) == pytest.approx([1e3 * np.mean(steps)] * 2)


def test_damaged_windows_are_an_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rows = [replace(row, samples=row.samples[1:]) for row in bench.by_context("mamba")]
    run = bench.write("perplexity_by_context", "mamba", rows)
    with pytest.raises(ValueError, match=f"{run.manifest.run_id}: a row has 15 samples, its clusters count 16"):
        draw("perplexity_by_context", bench.runs)


def test_index_of_full_rows(full: list[Run], tmp_path: Path) -> None:
    assert draw_all(full, tmp_path, "nano", MODELS) == 0
    index = json.loads((tmp_path / "index.json").read_text())
    assert list(index["figures"]) == list(FIGURES)
    for name, entry in index["figures"].items():
        assert entry["status"] == "drawn"
        assert entry["missing"] == []
        assert not entry["sources_differ"]
        assert all((tmp_path / file).stat().st_size > 5000 for file in entry["files"])
        assert entry["files"] == [f"{name}.png", f"{name}.pdf"]
    assert index["figures"]["inner_loss"]["analogue_of"] == ["4", "14"]
    assert len(index["figures"]["perplexity_vs_flops"]["runs"]) == 12
    assert set(index["paper"]) == {"2L", "2R", "4", "7L", "7R", "Table 1", "10", "11", "12", "14", "15", "16"}
    assert all(entry["status"] == "no_rows" for entry in index["paper"].values())
    assert index["paper"]["12"]["tier"] == "gpu"
    assert (tmp_path / "contact_sheet.png").stat().st_size > 100_000
    assert not list(tmp_path.glob(".*"))


def test_index_of_partial_rows(hard: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_all(hard, tmp_path, "gpu", MODELS) == 1
    assert "inner_loss: no rows of ttt_mlp" in capsys.readouterr().err
    index = json.loads((tmp_path / "index.json").read_text())
    context, decode = index["figures"]["perplexity_by_context"], index["figures"]["decode_latency"]
    assert (context["status"], context["missing"], context["sources_differ"]) == ("partial", ["ttt_mlp"], True)
    assert decode["status"] == "drawn"  # it ran out of memory at 16k, but has rows
    assert any("oom" in trouble for trouble in decode["troubles"])
    assert index["paper"]["12"]["status"] == "no_rows"  # this is its tier, but models side by side draw it
    assert index["figures"]["prefill_latency"]["analogue_of"] == ["12"]


def test_hash_names_the_rows_whatever_their_order(full: list[Run]) -> None:
    whole, turned, part = (frame(runs) for runs in (full, full[::-1], without(full, "mamba")))
    assert hash_of_rows(whole) == hash_of_rows(turned) != hash_of_rows(part)


def test_files_are_the_same_bytes_every_time(full: list[Run], tmp_path: Path) -> None:
    first, second = (tmp_path / "a", tmp_path / "b")
    for folder in (first, second):
        save(draw("state_vs_context", full), folder, "state_vs_context")
    for kind in ("png", "pdf"):
        assert (first / f"state_vs_context.{kind}").read_bytes() == (second / f"state_vs_context.{kind}").read_bytes()
    assert b"CreationDate" not in (first / "state_vs_context.pdf").read_bytes()


def test_looks_depend_on_the_name_alone() -> None:
    assert look_of("gated_deltanet") == look_of("gated_deltanet")
    assert len({look_of(name).colour for name in (*MODELS, "mamba2")}) == 5
    linear, other = look_of("ttt_linear"), look_of(series_name("ttt_linear", "transformer"))
    assert (other.colour, other.label, other.hollow) == (linear.colour, "TTT-Linear (T)", True)
    assert series_name("transformer", "transformer") == "transformer"


def test_frame_is_tidy(full: list[Run]) -> None:
    table = frame(full)
    assert len(table) == sum(len(run.rows) for run in full)
    assert {*COORDINATES, "metric", "value", "unit", "samples", "run_id", "sources", "published"} <= set(table.columns)
    assert list(frame([]).columns) == list(table.columns)


def test_every_figure_of_the_paper_has_its_tier_and_content() -> None:
    assert set(paper.PAPER_TIERS) == set(paper.CONTENT)
    assert set(paper.LIKE) == {*FIGURES, *STUDY_FIGURES, *ABLATION_FIGURES, "latency"}
    assert {number for like in paper.LIKE.values() for number in like} | set(paper.DRAWN_BY) <= set(paper.CONTENT)
    assert set(paper.PAPER_TIERS.values()) <= {"small", "gpu", "paper", "ablation"}


def test_drawing_needs_no_torch_and_no_pyplot() -> None:
    code = "import sys, bench.figures.index; sys.exit(' '.join({'torch', 'matplotlib.pyplot'} & set(sys.modules)) or 0)"
    done = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_tier_draws_what_it_measures() -> None:
    def drawn(*jobs: str) -> set[str]:
        return set(figures_of(compose_runs([job.split() for job in jobs])))

    assert drawn("experiment=train") == {"perplexity_vs_flops", "fairness_card"}
    assert drawn("experiment=train optim.lr=1e-3", "experiment=train optim.lr=2e-3") == {"learning_rates"}
    assert "learning_rates" not in drawn("experiment=train optim.lr=1e-3 budget=nano_2", "experiment=train optim.lr=2e-3")
    assert drawn("experiment=kernel_speed", "experiment=state_vs_context") == {"kernel_speed", "state_vs_context"}
