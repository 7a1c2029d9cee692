"""Figures of models that took turns say what their rows say: pairs by round, engines that decide, where that turns."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from bench.claims import load_claims, report
from bench.figures import largest_batch, memory
from bench.figures.contrasts import between, contrasts
from bench.figures.data import Data
from bench.figures.frame import records
from bench.figures.index import LATENCY_FIGURES, draw_all
from bench.figures.turning import crossing, crossovers
from bench.results import Run
from bench.tests.synthetic_latency import run_of

MODELS = ("ttt_linear", "ttt_mlp", "transformer", "mamba", "mamba2")


@pytest.fixture(scope="module")
def data() -> Data:
    return Data(run_of("1.3b", "125m"), MODELS, "gpu")


def words(figure: Any) -> str:
    return " ".join(text.get_text().replace("\u00a0", " ") for text in figure.findobj(Text) if text.get_visible())


def drawn(name: str, data: Data) -> Any:
    figure = LATENCY_FIGURES[name].draw(data)
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", LATENCY_FIGURES)
def test_a_figure_lies_on_its_page_apart_and_readable(name: str, data: Data) -> None:
    figure = drawn(name, data)
    page = figure.bbox
    panels = [box for ax in figure.axes if ax.axison and (box := ax.get_tightbbox())]
    blocks = [text.get_window_extent() for text in figure.texts] + [legend.get_window_extent() for legend in figure.legends]
    for box in [*panels, *blocks]:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    everything = [box.padded(-1) for box in [*panels, *blocks]]
    assert not [(a, b) for i, a in enumerate(everything) for b in everything[:i] if a.overlaps(b)]


@pytest.mark.parametrize("name", LATENCY_FIGURES)
def test_a_figure_tells_where_its_rows_are_from_and_says_so_without_rows(name: str, data: Data) -> None:
    text = words(drawn(name, data))
    assert "NVIDIA H100 80GB HBM3" in text and "bfloat16" in text and "random weights" in text
    assert "1.3b, latency, seed 0: partial (max_minutes=25: 1 of 40 cells are left)" in text
    assert "python -m bench experiment=latency" in words(drawn(name, Data((), MODELS, "gpu")))


def test_latency_shows_microseconds_a_token_and_what_has_no_time(data: Data) -> None:
    figure = drawn("latency", data)
    text = words(figure)
    assert "1.3b, prefill, batch 16" in text and "125m, decode, batch 64" in text
    assert "Transformer: OOM" in text and "Not timed: Transformer decode flash_attn compile_graph missing." in text
    assert "Not run: 2 cells, about 3 min." in text
    assert "The card slowed down (share of its readings): sw_power_cap at 12 places, 40% at most." in text
    assert "TTT-Linear triton compile_graph" in text
    ys = [line.get_ydata() for line in figure.axes[0].lines if line.get_color() == "#0072B2" and len(line.get_ydata()) == 6]
    assert all(4.5 < y < 5.9 for y in ys[0])


def test_memory_lies_above_weights_and_state_and_ends_where_it_does_not_suffice(data: Data) -> None:
    figure = drawn("memory", data)
    assert figure.axes[0].get_yscale() == "log" and figure.axes[0].get_xscale() == "log"
    black = [line for line in figure.axes[0].lines if line.get_color() == "#000000" and len(line.get_ydata()) == 5]
    (peak,) = [line.get_ydata() for line in black if line.get_linestyle() == "-"]
    (dotted,) = [line.get_ydata() for line in black if line.get_linestyle() == ":"]
    cache = np.array([1024, 2048, 4096, 8192, 16384]) * 16 * 196_608 / 1e9
    assert np.asarray(dotted, dtype=float) == pytest.approx(2.6 + cache)
    assert np.asarray(peak, dtype=float) == pytest.approx(1.2 * (2.6 + cache))
    text = words(figure)
    assert "1.3b, prefill, batch 16" in text and "Transformer: OOM" in text and "Dotted: weights and state alone." in text
    assert "median" not in text  # what is counted once


def test_a_cpu_counts_no_memory_so_that_no_model_is_missing(data: Data) -> None:
    run = data.runs[0]
    on_cpu = replace(run, config={**run.config, "device": {**run.config["device"], "type": "cpu"}})
    assert memory.expected_of(Data((on_cpu,), MODELS, "smoke")) == ()
    assert memory.expected_of(data) == memory.expected_of(Data((), MODELS, "gpu")) == MODELS


def test_throughput_is_that_of_the_largest_batch_and_says_whether_a_larger_one_may_fit(data: Data) -> None:
    """The Transformer's cache fills 75 GB: at 32k with 16 sequences, where 8 remain; of a step no other batch than 1."""
    found = {(r["size"], r["phase"], r["series"], r["context"]): r for r in records(largest_batch.rows(data))}
    row = found["1.3b", "prefill", "transformer", 32768]
    assert row["batch"] == 8 and not largest_batch.unknown(data, row)  # 16 is out of memory
    row = found["1.3b", "prefill", "ttt_linear", 32768]
    assert row["batch"] == 16 and not largest_batch.unknown(data, row)  # the grid has no more
    row = found["1.3b", "step", "transformer", 1024]
    assert row["batch"] == 64 and largest_batch.unknown(data, row)  # 512 is out of memory, but 128 was not run
    row = found["1.3b", "step", "transformer", 32768]
    assert row["batch"] == 1 and largest_batch.unknown(data, row)
    assert found["1.3b", "step", "mamba", 32768]["batch"] == 512
    ax = drawn("largest_batch", data).axes[1]
    (line,) = (
        one for one in ax.lines if one.get_color() == "#0072B2" and one.get_linestyle() == "-" and len(one.get_xdata()) == 2
    )
    assert np.asarray(line.get_ydata(), dtype=float) == pytest.approx(1e3 * 8 / 26, rel=0.05)  # 26 µs at batch 64
    hollow = [one for one in ax.lines if one.get_color() == "#000000" and one.get_markerfacecolor() == "white"]
    assert [len(one.get_xdata()) for one in hollow] == [6]


def test_batches_stand_beside_their_points_and_not_over_one_another(data: Data) -> None:
    figure = drawn("largest_batch", data)
    for ax in figure.axes:
        boxes = [text.get_window_extent() for text in ax.texts if text.get_text().isdigit()]
        assert len(boxes) >= 10
        assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.padded(-1).overlaps(b.padded(-1))]
    assert largest_batch.apart([0.0, 0.1, 5.0], 1.0) == pytest.approx([-0.45, 0.55, 5.0])


def test_where_no_batch_fits_there_is_a_cross(data: Data) -> None:
    run = data.runs[0]
    kept = tuple(r for r in run.rows if not (r.metric == "token_time" and r.at["batch"] == 1 and r.at["phase"] == "step"))
    text = words(drawn("largest_batch", Data((replace(run, rows=kept),), MODELS, "gpu")))
    assert "Transformer: OOM" in text and "OOM" not in words(drawn("largest_batch", data))
    fitting = tuple(r for r in run.rows if r.metric != "oom")
    assert "OOM" not in words(drawn("largest_batch", Data((replace(run, rows=fitting),), MODELS, "gpu")))


def test_pairs_are_compared_where_they_took_turns(data: Data) -> None:
    found = contrasts(data)
    mine = [c for c in found if (c.size, c.phase, c.batch, c.first) == ("1.3b", "prefill", 16, "ttt_linear")]
    assert [c.context for c in mine if c.second == "mamba"] == [2048, 1024, 4096, 8192, 16384, 32768]
    assert [c.context for c in mine if c.second == "transformer"] == [2048, 1024, 4096, 8192, 16384]  # no memory at 32k
    for c in mine:
        if c.second == "mamba":
            assert c.log_ratio.value == pytest.approx(math.log(5.1 / 7.1), abs=0.005)
            assert c.judgement == "engine-limited"  # 0.7 and 0.45 of their floors
        else:
            assert c.judgement == "different"
    run = data.runs[0]
    later = tuple(replace(r, at={**r.at, "attempt": 2}) if r.at.get("model") == "mamba" else r for r in run.rows)
    apart = contrasts(Data((replace(run, rows=later),), MODELS, "gpu"))
    assert "mamba" not in {c.second for c in apart if c.first != c.second}


def test_what_moves_no_more_state_the_deeper_it_is_takes_the_same_time(data: Data) -> None:
    deeper = [c for c in contrasts(data) if c.first == c.second]
    assert {c.first for c in deeper} == {"ttt_linear", "ttt_mlp", "mamba", "mamba2"}
    assert {(c.first_context, c.context) for c in deeper} == {(32768, 1024)}
    assert {c.judgement for c in deeper} == {"equal"}


def test_a_sign_changes_between_two_lengths() -> None:
    assert crossing([1, 2, 4, 8], [3.0, 1.0, -1.0, -3.0]) == pytest.approx(math.sqrt(8))
    assert crossing([2, 32], [1.0, -3.0]) == pytest.approx(4.0)
    assert crossing([1, 2, 4], [0.0, -1.0, -2.0]) == 1.0
    assert crossing([1, 2], [1.0, 2.0]) is None


def test_the_crossover_is_measured_between_bounds_and_predicted_by_the_floors(data: Data) -> None:
    """5.1 µs against 4.6 (1 + T / 16384): equal at T = 1,781."""
    found = list(crossovers(contrasts(data)))
    one, other = [c for c in found if (c.size, c.phase, c.batch) == ("1.3b", "prefill", 8)]
    assert (one.second, other.second) == ("transformer", "mamba")
    assert one.measured == pytest.approx(1781, rel=0.05)
    assert one.measured is not None and one.low < one.measured < one.high < 1.2 * one.low
    assert one.predicted is not None and one.predicted < one.measured  # the Transformer is nearer to its floor
    assert other.measured is None and other.is_ahead and not other.floors_ahead and other.limited == 6
    told = "1.3b prefill, batch 16, 8, 1, TTT-Linear over Mamba: faster at every length from 1k to 32k; by the floors: slower"
    assert told + " throughout; engine-limited at 6 of 6 lengths." in words(drawn("crossover", data))


def test_decode_is_compared_at_depths_that_only_the_transformer_was_measured_at(data: Data) -> None:
    """At batch 1: 26 µs against 16 (1 + T / 16384), equal at T = 10,240; at batch 64 no cache beyond 4k fits."""
    apart = [c for c in between(data) if (c.size, c.batch) == ("1.3b", 1)]
    assert [c.context for c in apart] == [2048, 4096, 8192, 16384] and {c.first_context for c in apart} == {1024}
    for c in apart:
        assert c.log_ratio.value == pytest.approx(math.log(26 / 16 / (1 + c.context / 16384)), abs=0.05)
        assert c.log_ratio.low < c.log_ratio.value < c.log_ratio.high and c.second == "transformer"
    ends = [c for c in contrasts(data) if c.phase == "step"]
    (turn,) = [c for c in crossovers([*ends, *apart]) if (c.size, c.batch, c.second) == ("1.3b", 1, "transformer")]
    assert turn.measured is not None and turn.low < turn.measured < turn.high
    assert turn.measured == pytest.approx(10_240, rel=0.06)
    text = words(drawn("crossover", data))
    assert "1.3b decode, batch 64, TTT-Linear over Transformer: slower at every depth from 1k to 4k" in text
    assert "over Mamba: faster at 1k and 32k, and neither moves more bytes the deeper it is; by the floors: slower" in text
    assert "At 12 depths TTT-Linear" in text


def test_a_step_that_moves_more_state_the_deeper_it_is_lends_its_time_to_no_other_depth(data: Data) -> None:
    run = data.runs[0]
    grown = tuple(
        replace(r, value=float(r.at["context"])) if r.metric == "state_traffic" and r.at["model"] == "ttt_linear" else r
        for r in run.rows
    )
    assert not list(between(Data((replace(run, rows=grown),), MODELS, "gpu")))


def test_bounds_that_are_not_known_do_not_cross() -> None:
    assert crossing([1, 2, 4], [-math.inf, 1.0, 2.0]) is None
    assert crossing([1, 2, 4], [-math.inf, 1.0, -1.0]) == pytest.approx(math.sqrt(8))


def test_the_saw_tooth_has_its_tooth(data: Data) -> None:
    ax = drawn("saw_tooth", data).axes[0]
    drawn_lines = [line for line in ax.lines if line.get_color() == "#0072B2" and line.get_linestyle() != "None"]  # no caps
    in_phase, spread = (np.asarray(line.get_ydata()) for line in drawn_lines)
    assert in_phase[15] > 2 * in_phase[:15].max() and spread.max() < 1.1 * spread.min()


def test_a_tier_with_latency_draws_these_figures(data: Data, tmp_path: Path) -> None:
    assert draw_all(data.runs, tmp_path, "gpu", MODELS, figures=LATENCY_FIGURES) == 0
    index = json.loads((tmp_path / "index.json").read_text())
    assert {entry["status"] for entry in index["figures"].values()} == {"drawn"}
    assert index["paper"]["12"] == {**index["paper"]["12"], "status": "drawn", "files": ["latency.png", "latency.pdf"]}


def test_bars_are_judged_by_these_rows(data: Data) -> None:
    claims = [claim for claim in load_claims() if claim.experiment == "latency"]
    runs: list[Run] = [data.runs[0]]
    lines = report(claims, runs)[0].splitlines()
    told = {claim.name: line.split("  ")[0] for claim, line in zip(claims, lines, strict=True)}
    assert told["TTT-Linear prefill B16 T4k"] == "holds" and told["TTT-Linear decode B64"] == "holds"
    assert told["Transformer decode B64 at 2k, of its floor"] == "fails"
    assert told["Transformer decode B16 at 8k, of its floor"] == "no rows"
