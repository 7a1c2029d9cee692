"""Operations are checked, then timed; what is wrong or missing has no time and is told; the figure says what the rows say."""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from bench.build import DTYPES
from bench.compose import compose_run
from bench.config import RunConfig, identity, run_id
from bench.experiments.kernel_speed import KernelSpeed, least_bytes, matmul_flops
from bench.figures import __main__ as drawing
from bench.figures.data import Data
from bench.figures.index import KERNEL_FIGURES, draw_all
from bench.results import Manifest, Row, Run, hash_of, read_run
from bench.run import describe, execute
from bench.tests.micro import micro_run
from kernels import ttt_linear
from kernels.attention import reference as attention
from kernels.check import CheckFailed, Trial
from kernels.op import Case
from kernels.ttt import reference


def result(run: RunConfig) -> Run:
    execute(run)
    return read_run(Path(run.results) / run.experiment.name / describe(run).run_id)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return result(micro_run(tmp_path_factory.mktemp("kernels"), "kernel_speed"))


def rows(run: Run, metric: str, **at: Any) -> list[Row]:
    return [row for row in run.rows if row.metric == metric and all(row.at.get(key) == value for key, value in at.items())]


def test_every_case_is_checked_before_it_is_timed(found: Run) -> None:
    assert found.manifest.status == "done"
    places = {(row.at["op"], row.at["pass"], row.at["batch"], row.at["context"]) for row in rows(found, "latency")}
    assert places == {
        *(("ttt_linear", mode, *shape) for mode, shape in (("fwd", (2, 24)), ("fwd_bwd", (2, 24)), ("step", (3, 18)))),
        *(("attention", mode, 2, 24) for mode in ("fwd", "fwd_bwd")),
    }
    order = [(row.metric, row.at.get("op"), row.at.get("pass")) for row in found.rows]
    for _, op, mode in (place for place in order if place[0] == "latency"):
        assert order.index(("relative_error", op, mode)) < order.index(("latency", op, mode))
    errors = rows(found, "relative_error", op="ttt_linear")
    assert {row.at["tensor"] for row in errors} >= {"output", "d_q", "d_tau", "d_weight_1", "state_weight_1", "state_grad_1"}
    assert all(row.value < 1e-5 for row in errors)
    assert {row.value for row in rows(found, "repeats")} == {1.0}


def test_a_place_is_named_once_and_every_sample_kept(found: Run) -> None:
    places = [(row.metric, tuple(sorted(row.at.items()))) for row in found.rows]
    assert len(set(places)) == len(places)
    for row in rows(found, "latency"):
        assert len(row.samples) in (2, 3)
        assert row.value == pytest.approx(np.median(row.samples))
        assert {"model", "size"}.isdisjoint(row.at)


def test_steps_are_timed_over_a_cycle_and_at_both_ends_of_it(found: Run) -> None:
    steps = {(row.at["phases"], row.at["slot"]) for row in rows(found, "latency", op="ttt_linear", **{"pass": "step"})}
    assert steps == {("in_phase", "mean"), ("spread", "mean"), ("in_phase", "first"), ("in_phase", "commit")}


def test_shares_are_of_the_ceilings_of_the_same_run(found: Run) -> None:
    (latency,) = rows(found, "latency", op="ttt_linear", **{"pass": "fwd_bwd"})
    trial = Trial(ttt_linear.OP, Case(2, 24, 2, 8), torch.device("cpu"))
    for metric, ceiling, amount in (
        ("copy_share", "copy_rate", least_bytes(trial, "fwd_bwd")),
        ("matmul_share", "matmul_rate", matmul_flops(trial.op, trial.case, "fwd_bwd")),
    ):
        (share,), (rate,) = rows(found, metric, op="ttt_linear", **{"pass": "fwd_bwd"}), rows(found, ceiling)
        assert share.value == pytest.approx(amount / latency.value / rate.value)


def test_least_bytes_are_those_of_inputs_and_output() -> None:
    """q, k, v and out 2 x 24 x 2 x 8, rho without the last; tau 16; W 8 x 8, b, gamma and beta 8 a head: float32."""
    trial = Trial(ttt_linear.OP, Case(2, 24, 2, 8), torch.device("cpu"))
    assert least_bytes(trial, "fwd") == 4 * (4 * 768 + 96 + 16 + 2 * (64 + 3 * 8))
    assert least_bytes(trial, "fwd_bwd") == 2 * least_bytes(trial, "fwd")


def replaced(monkeypatch: pytest.MonkeyPatch, forward: Any, name: str = "ttt_linear.kernel", base: Any = reference) -> None:
    """Makes ``forward`` that of TTT-Linear's implementation triton, or of the one in the module ``name``."""
    module = ModuleType(f"kernels.{name}")
    vars(module).update(vars(base) | {"forward": forward})
    monkeypatch.setitem(sys.modules, f"kernels.{name}", module)


def wrong(*args: Any) -> torch.Tensor:
    return 1.01 * reference.forward(*args)


def broken(*args: Any) -> torch.Tensor:
    raise RuntimeError("out of shared memory")


@pytest.mark.parametrize(
    ("forward", "metric", "cause"), [(wrong, "wrong", "output 1.0"), (broken, "broken", "RuntimeError: out of shared memory")]
)
def test_what_is_wrong_or_breaks_has_no_time_and_fails_the_run_at_its_end(
    forward: Any, metric: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, forward)
    run = micro_run(tmp_path, "kernel_speed", "experiment.measure.impls.ttt_linear=[triton,reference]")
    with pytest.raises(CheckFailed, match="ttt_linear triton fwd 2 24 2 8"):
        execute(run)
    ended = read_run(Path(run.results) / "kernel_speed" / describe(run).run_id)
    assert ended.manifest.status == "failed" and cause in ended.manifest.cause
    assert not rows(ended, "latency", impl="triton", **{"pass": "fwd"})
    assert rows(ended, metric, impl="triton", **{"pass": "fwd"})
    assert rows(ended, "latency", impl="reference", **{"pass": "fwd"}) and rows(ended, "latency", op="attention")
    assert f"{metric}: ttt_linear triton fwd" in capsys.readouterr().err


def test_a_baseline_that_is_not_installed_is_told_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)
    monkeypatch.delitem(sys.modules, "kernels.ttt_linear.fla_chunk", raising=False)
    ended = result(micro_run(tmp_path, "kernel_speed", "experiment.measure.impls.ttt_linear=[fla_chunk,reference]"))
    assert ended.manifest.status == "done"
    assert {row.at["pass"] for row in rows(ended, "missing", impl="fla_chunk")} == {"fwd", "fwd_bwd"}
    assert "'fla_chunk' cannot be imported" in (told := capsys.readouterr().err) and "make setup EXTRAS=gpu" in told
    assert rows(ended, "latency", op="ttt_linear", impl="reference")


def test_ours_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kernels.ttt_linear.kernel", None)
    run = micro_run(tmp_path, "kernel_speed", "experiment.measure.impls.ttt_linear=[triton]")
    with pytest.raises(CheckFailed, match="'triton' cannot be imported"):
        execute(run)


def test_what_another_package_gets_wrong_is_told_and_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, lambda *args: 2 * attention.forward(*args), "attention.sdpa_flash", attention)
    run = micro_run(
        tmp_path, "kernel_speed", "experiment.measure.impls.attention=[sdpa_flash]", "experiment.measure.passes=[fwd]"
    )
    execute(run)
    ended = read_run(Path(run.results) / "kernel_speed" / describe(run).run_id)
    assert ended.manifest.status == "done"
    assert rows(ended, "wrong", op="attention") and not rows(ended, "latency", op="attention")


@pytest.mark.parametrize(("key", "words"), [("ops", "ttt_linear, ttt_mlp, attention"), ("passes", "fwd, fwd_bwd, step")])
def test_a_wrong_selection_says_what_is_possible(key: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=f"experiment.measure.{key}=bwd is not possible; choose from: {words}"):
        execute(micro_run(tmp_path, "kernel_speed", f"experiment.measure.{key}=[bwd]"))


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "kernel_speed")
    before = result(run)
    lines = (before.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (before.folder / "rows.jsonl").write_text("".join(lines[:20]))
    stopped = json.loads((before.folder / "run.json").read_text()) | {"status": "running"}
    (before.folder / "run.json").write_text(json.dumps(stopped))
    after = result(run)
    key = [(row.metric, row.at) for row in before.rows]
    assert [(row.metric, row.at) for row in after.rows] == key
    assert after.rows[:20] == before.rows[:20]


def test_a_model_is_no_part_of_what_identifies_it() -> None:
    one, other = (compose_run(["experiment=kernel_speed", f"model={model}"]) for model in ("mamba", "ttt_mlp"))
    assert run_id(one, {}) == run_id(other, {})
    assert run_id(one, {}).startswith("float32-s0-")
    assert run_id(one, {}) != run_id(compose_run(["experiment=kernel_speed", "device.dtype=bfloat16"]), {})
    assert "modelless" not in identity(one)["experiment"]  # runs from before that key keep their names


def test_flops_for_the_planner() -> None:
    measure = KernelSpeed({"ttt_linear": ["reference", "triton"]}, [[2, 24, 2, 8]], [[3, 18, 2, 8]], passes=("fwd", "step"))
    run = compose_run(["experiment=kernel_speed"])
    per_token = 2 * (3 * 2 * 8 * 8 + 2 * 16 * 3 * 8)
    assert measure.flops(type("Prepared", (), {"run": run})()) == 2 * per_token * (2 * 24 + 3)
    assert set(DTYPES) >= {run.device.dtype}


# The figure

TIMES = {  # ms, as if on a GPU
    ("ttt_linear", "triton"): 0.4,
    ("ttt_linear", "fla_chunk"): 1.1,
    ("ttt_linear", "fla_fused_chunk"): 1.2,
    ("ttt_mlp", "triton"): 3.0,
    ("attention", "sdpa_flash"): 1.0,
    ("attention", "sdpa_cudnn"): 0.7,
    ("selective_scan", "mamba_ssm"): 2.3,
    ("ssd", "mamba_ssm"): 1.25,
}
STEPS_US = (("ttt_linear", "triton", 80), ("ttt_mlp", "triton", 75), ("selective_scan", "mamba_ssm", 140))
CYCLE = (("in_phase", "mean", 1.0), ("spread", "mean", 1.02), ("in_phase", "first", 0.9), ("in_phase", "commit", 2.4))
SHAPES = ((16, 2048, 32), (1, 32768, 32), (16, 8192, 32), (4, 8192, 32), (4, 32768, 8))


def synthetic(samples: int = 30, without: Sequence[tuple[str, str]] = ()) -> Iterator[Row]:
    """All that a run on a GPU measures; ``without``: implementations that are missing."""
    rng = np.random.default_rng(0)

    def latency(at: dict[str, Any], seconds: float) -> Row:
        taken = seconds * (1 + rng.exponential(0.02, samples))
        return Row(metric="latency", value=float(np.median(taken)), unit="s", at=at, samples=tuple(taken))

    for metric, rate, unit in (("copy_rate", 3e12, "byte/s"), ("matmul_rate", 7.2e14, "FLOP/s")):
        yield Row(metric=metric, value=rate, unit=unit, at={"dtype": "bfloat16", "seed": 0}, samples=(rate,))
    for (op, impl), ms in TIMES.items():
        for (mode, factor), (batch, context, heads) in itertools.product((("fwd", 1.0), ("fwd_bwd", 4.5)), SHAPES):
            at = place_of(op, impl, mode, batch, context, heads)
            if (op, impl) in without:
                yield Row(metric="missing", value=1.0, unit="1", at=at)
            else:
                yield from errors(at)
                yield latency(at, 1e-3 * ms * factor * batch * context / 32768)
    for (op, impl, us), batch in itertools.product(STEPS_US, (512, 64)):
        at = place_of(op, impl, "step", batch, 32, 32)
        for phases, slot, factor in CYCLE if op != "selective_scan" else CYCLE[:1]:
            yield latency({**at, "phases": phases, "slot": slot}, 1e-6 * us * factor)


def place_of(op: str, impl: str, mode: str, batch: int, context: int, heads: int) -> dict[str, Any]:
    shape = {"batch": batch, "context": context, "heads": heads, "head_dim": 64, "mini_batch": 16 * op.startswith("ttt")}
    return {"op": op, "impl": impl, "pass": mode, **shape, "dtype": "bfloat16", "exec": "eager", "seed": 0}


def errors(at: dict[str, Any]) -> Iterator[Row]:
    for tensor, error in (("output", 2.1e-3), ("d_k", 4.2e-3), ("state_weight_1", 1.3e-3)):
        for metric, times in (("relative_error", 1.0), ("yardstick_error", 1.4)):
            yield Row(metric=metric, value=error * times, unit="1", at={**at, "tensor": tensor})


def run_of(found: Sequence[Row], status: str = "done", cause: str = "") -> Run:
    config = asdict(compose_run(["experiment=kernel_speed", "device=h100", "device.dtype=bfloat16"]))
    manifest = Manifest(
        run_id="bfloat16-s0-0123abcd",
        experiment="kernel_speed",
        config_hash=hash_of(config),
        git_sha="0123456789abcdef",
        dirty=False,
        sources="5a5a0001",
        versions={},
        device="NVIDIA H100 80GB HBM3",
        seed=0,
        started="2026-11-24T10:00:00+00:00",
        status=status,
        cause=cause,
    )
    return Run(manifest, config, tuple(found), Path(), published=False)


def drawn(run: Run) -> Any:
    figure = KERNEL_FIGURES["kernel_speed"].draw(Data((run,), (), "kernels"))
    figure.draw_without_rendering()
    return figure


def words(figure: Any) -> str:
    return " ".join(text.get_text().replace("\u00a0", " ") for text in figure.findobj(Text) if text.get_visible())


def test_a_dot_is_the_ratio_of_medians_within_its_interval() -> None:
    found = list(synthetic())
    ax = drawn(run_of(found)).axes[0]
    place = {"op": "ttt_linear", "pass": "fwd", "batch": 16, "context": 2048}
    times = {row.at["impl"]: row.value for row in rows(run_of(found), "latency", **place)}
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    assert dots[0].get_xdata()[0] == pytest.approx(times["fla_chunk"] / times["triton"])
    bars = [line for line in ax.lines if line.get_linewidth() == 2 and line.get_color() == dots[0].get_color()]
    low, high = bars[0].get_xdata()
    assert low < dots[0].get_xdata()[0] < high < 1.2 * low
    assert not [one for one in ax.collections if isinstance(one, PathCollection)]


def test_the_figure_tells_cases_errors_ceilings_and_what_is_missing() -> None:
    text = words(drawn(run_of(list(synthetic(without=[("ttt_linear", "fla_chunk")])))))
    assert "TTT-Linear, triton" in text and "TTT-MLP, triton" in text
    assert "forward, B16 T2k H32: 0.4" in text and "forward and backward, B1 T32k H32" in text
    assert "step, B512: 81" in text and "commit 19" in text and "spread 8" in text
    assert "outputs 0.0021 (0.0029), gradients 0.0042 (0.0059), states 0.0013 (0.0018)" in text
    assert "copy 3e12 byte/s, matmul 7.2e14 FLOP/s" in text
    assert "missing: ttt_linear fla_chunk (forward, B16 T2k" in text
    assert "NVIDIA H100 80GB HBM3" in text and "bfloat16" in text and "0123abcd" in text
    assert "fla fused chunk" in text and "attention, SDPA cuDNN" in text


def test_the_figure_lies_on_its_page_apart_and_readable() -> None:
    figure = drawn(run_of(list(synthetic()), status="failed", cause="CheckFailed: ttt_mlp triton fwd: output 1e-2"))
    page = figure.bbox
    blocks = [text.get_window_extent() for text in figure.texts] + [legend.get_window_extent() for legend in figure.legends]
    everything = [*(ax.get_tightbbox() for ax in figure.axes), *blocks]
    for box in everything:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    apart = [box.padded(-1) for box in everything]
    assert not [(a, b) for i, a in enumerate(apart) for b in apart[:i] if a.overlaps(b)]
    assert "kernel_speed, seed 0: failed (CheckFailed: ttt_mlp triton fwd: output 1e-2)" in words(figure)


def test_no_bars_from_few_samples_and_nothing_from_no_rows() -> None:
    figure = drawn(run_of(list(synthetic(samples=3))))
    assert all(np.isnan(line.get_xdata()).all() for line in figure.axes[0].lines if line.get_linewidth() == 2)
    assert "python -m bench experiment=kernel_speed" in words(drawn(run_of([])))


def test_a_tier_of_kernels_draws_this_figure_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw_all([run_of(list(synthetic()))], tmp_path / "all", "kernels", (), figures=KERNEL_FIGURES) == 0
    index = json.loads((tmp_path / "all" / "index.json").read_text())
    assert index["figures"]["kernel_speed"]["status"] == "drawn"
    monkeypatch.setattr(sys, "argv", ["bench.figures", "kernels", "--published", "--out", str(tmp_path / "out")])
    assert drawing.main() == 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"kernel_speed.png", "contact_sheet.png"}
