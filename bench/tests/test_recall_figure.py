"""The figure of recall shows accuracies over contexts, and over what the same model costs there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from bench.figures import panels
from bench.figures.data import Data
from bench.figures.index import RECALL_FIGURES, draw_all
from bench.figures.style import look_of
from bench.results import Row, Run
from bench.stats import share_interval
from bench.tests.synthetic_runs import CONTEXTS, STEP_MS, Bench
from bench.tests.test_figures import line_of, words

FIGURE = RECALL_FIGURES["recall"]
EXPECTED = ("ttt_linear", "transformer")


def accuracies(bench: Bench, model: str, task: str) -> Iterator[Row]:
    """All right at 1k, one in eight less at each octave."""
    for octave, context in enumerate(CONTEXTS):
        for depth in (0.0, 1.0):
            samples = tuple(float(n >= octave) for n in range(8))
            at = bench.at(model, context=context, depth=depth, task=task)
            yield Row(metric="accuracy", value=float(np.mean(samples)), unit="1", at=at, samples=samples)


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    bench = Bench(tmp_path)
    for model in EXPECTED:
        for experiment in ("state_vs_context", "decode_latency"):
            bench.write(experiment, model, getattr(bench, experiment)(model))
        bench.write("recall", model, [row for task in ("needle", "mqar") for row in accuracies(bench, model, task)])
    bench.failure("recall", "mamba", "oom", "no memory", task="needle", context=4096)
    return bench.runs


def x_of(ax: Axes, model: str) -> list[float]:
    colour = look_of(model).colour
    return [float(x) for line in ax.lines if line.get_color() == colour for x in np.asarray(line.get_xdata())][: len(CONTEXTS)]


def test_a_row_of_panels_for_each_task(runs: list[Run]) -> None:
    figure = FIGURE.draw(Data(tuple(runs), EXPECTED, "evals"))
    figure.draw_without_rendering()
    assert len(figure.axes) == 6
    assert [ax.get_title(loc="left") for ax in figure.axes[::3]] == ["MQAR", "needle"]
    for model in EXPECTED:
        for ax in figure.axes:
            assert line_of(ax, model, len(CONTEXTS)).tolist() == [1 - octave / 8 for octave in range(len(CONTEXTS))]
        bytes_there = [Bench(Path()).bytes_of(model, context) for context in CONTEXTS]
        assert x_of(figure.axes[1], model) == bytes_there
        assert x_of(figure.axes[0], model) == list(CONTEXTS)
    assert x_of(figure.axes[2], "ttt_linear")[0] > 1e-3 * STEP_MS["ttt_linear"]  # every 16th step takes three times as long
    text = words(figure)
    assert "Mamba: OOM" in text
    assert "16 examples at each context, equally many at depths 0, 1" in text
    assert "no rows" not in text.lower()


@pytest.mark.parametrize("most", [1.02, 3.0, 9.0, 300.0, 1e6])
def test_a_cost_has_ticks_however_near_its_values_are(most: float) -> None:
    ax = Figure().add_subplot()
    ax.plot([2.1e4, 2.1e4 * most], [0, 1])
    panels.cost_axis(ax, EngFormatter(sep=""))
    low, high = ax.get_xlim()
    labels = [label.get_text() for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert 2 <= len(labels) <= 6
    assert len(set(labels)) == len(labels)


def test_what_was_not_measured_is_said(runs: list[Run], tmp_path: Path) -> None:
    own = tuple(run for run in runs if run.manifest.experiment == "recall" and run.config["model"]["name"] == "ttt_linear")
    text = words(FIGURE.draw(Data(own, EXPECTED, "evals")))
    assert "no rows of\nstate_vs_context" in text
    assert "no rows of\ndecode_latency" in text
    assert "No rows of: Transformer" in text
    assert "python -m bench experiment=recall" in words(FIGURE.draw(Data((), EXPECTED, "evals")))
    assert draw_all(list(own), tmp_path / "out", "evals", EXPECTED, figures=RECALL_FIGURES) == 1
    assert draw_all(runs, tmp_path / "out", "evals", EXPECTED, figures=RECALL_FIGURES) == 0


def test_the_interval_of_a_share() -> None:
    """Wilson's, by the values of its paper's rule: the bounds solve (p - mean)² = z² p (1 - p) / n."""
    for right, n in ((0, 10), (3, 10), (10, 10), (499, 500)):
        found = share_interval([1.0] * right + [0.0] * (n - right))
        assert found.value == right / n
        for bound in {found.low, found.high} - {0.0, 1.0}:
            assert (bound - found.value) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / n, rel=1e-5, abs=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1
    with pytest.raises(ValueError, match="from 0 to 1"):
        share_interval([0.5, 1.5])
