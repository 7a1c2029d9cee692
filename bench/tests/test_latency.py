"""Models take turns: what is asked in which order, who is timed, who is not and why; what stops early goes on."""

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bench.compose import compose_run
from bench.config import ConfigError, RunConfig, identity, run_id
from bench.hardware import is_out_of_memory
from bench.latency.grid import Cell, cells
from bench.latency.session import Prefill
from bench.latency.stage import Sample, Stage, take_turns
from bench.latency.telemetry import Reading, medians, reasons_of, throttled
from bench.results import ROOT, Row, Run, read_run, read_runs
from bench.run import describe, execute
from bench.tests.micro import micro_run
from kernels.attention import reference
from models.mixer import Size, copy_row, positions, state_tensors
from models.tests.conftest import build_model

CPU = torch.device("cpu")
NAMES = ["ttt_linear", "ttt_mlp", "transformer", "mamba", "mamba2"]


def result(run: RunConfig) -> Run:
    execute(run)
    return read_run(Path(run.results) / "latency" / describe(run).run_id)


def rows(run: Run, metric: str, **at: Any) -> list[Row]:
    return [row for row in run.rows if row.metric == metric and all(row.at.get(key) == value for key, value in at.items())]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return result(micro_run(tmp_path_factory.mktemp("latency"), "latency"))


# The grid


def test_the_most_important_cells_come_first_and_depth_matters_only_where_state_grows() -> None:
    made = cells(["t", "a"], ["a"], ["t"], [("prefill", 16), ("step", 64), ("prefill", 1), ("step", 1)], [20, 10, 40])
    both = (("t", 10), ("a", 10), ("t", 40), ("a", 40))
    assert made == [
        Cell("trial", "prefill", 16, (("t", 20), ("a", 20))),
        *(Cell("grid", "prefill", 16, (("t", context), ("a", context))) for context in (20, 10, 40)),
        Cell("trial", "step", 64, (("t", 20), ("a", 20))),
        Cell("grid", "step", 64, both),
        Cell("grid", "step", 64, (("a", 20),)),
        Cell("cycle", "step", 64, (("t", 10),)),
        *(Cell("grid", "prefill", 1, (("t", context), ("a", context))) for context in (20, 10, 40)),
        Cell("grid", "step", 1, both),
        Cell("grid", "step", 1, (("a", 20),)),
    ]


# Turns


def test_turns_go_round_until_each_has_enough() -> None:
    """Of 1 s each: a has 3 s after three rounds; b, at 0.25 s, the most that is asked; c fails in its second turn."""
    now, order, told = [0.0], [], []
    lasts = {"a": 1.0, "b": 0.25, "c": 0.5}

    def turn(key: str) -> Sample:
        order.append(key)
        if order.count("c") == 2 and key == "c":
            raise RuntimeError("broke")
        now[0] += lasts[key]
        return (lasts[key],)

    taken = take_turns(
        list("abc"), turn, lambda key, error: told.append((key, str(error))), least=2, most=5, seconds=3.0, clock=lambda: now[0]
    )
    assert "".join(order) == "abcabcabbb"
    assert {key: len(samples) for key, samples in taken.items()} == {"a": 3, "b": 5}
    assert told == [("c", "broke")]


class Room:
    """Sessions of a stage that has memory for two, and for one only that nothing else is beside."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.stage: Stage[str] = Stage(self.make, lambda key: None, self.make_room, lambda key: nullcontext(), CPU)
        self.is_cleared = False

    def make(self, key: str) -> "Room":
        self.log.append(f"make {key}")
        if key == "huge" or (key == "large" and not self.is_cleared) or len(self.stage.held) == 2:
            raise torch.OutOfMemoryError
        return self

    def make_room(self, key: str) -> None:
        self.log.append(f"room for {key}")
        self.is_cleared = True

    def sample(self) -> Sample:
        return (1.0,)


def test_who_finds_no_memory_has_the_others_leave() -> None:
    room = Room()
    for key in ("a", "b", "a", "c"):
        assert room.stage.turn(key) == (1.0,)
    assert room.log == ["make a", "make b", "make c", "room for c", "make c"]
    assert list(room.stage.held) == ["c"]
    with pytest.raises(torch.OutOfMemoryError):
        room.stage.turn("huge")
    assert room.stage.held == {}
    room.is_cleared = False
    assert room.stage.turn("large") == (1.0,)


def test_memory_that_was_missing_within_a_capture_is_known() -> None:
    failed = RuntimeError("capture failed")
    failed.__context__ = torch.OutOfMemoryError()
    assert is_out_of_memory(failed)
    assert not is_out_of_memory(RuntimeError("x")) and is_out_of_memory(MemoryError())


# The card


def test_the_reasons_for_a_slow_clock_are_told_and_idling_is_none() -> None:
    assert reasons_of(0x1 | 0x2 | 0x100) == ()
    assert reasons_of(0x4 | 0x40 | 0x1000) == ("sw_power_cap", "hw_thermal_slowdown", "reason_0x1000")
    readings = [
        Reading(1.98e9, 50, 600, 0),
        Reading(1.7e9, 60, 700, 0x4),
        Reading(1.8e9, 55, 690, 0x24),
        Reading(1.9e9, 54, 640, 1),
    ]
    assert throttled(readings) == {"sw_power_cap": 0.5, "sw_thermal_slowdown": 0.25}
    assert medians(readings) == {"clock_hz": 1.85e9, "temperature_c": 54.5, "power_w": 665}


# The run


def test_every_model_is_timed_beside_the_others_wherever_it_was_asked(found: Run) -> None:
    assert found.manifest.status == "done"
    assert not [row for row in found.rows if row.metric in ("oom", "broken", "wrong", "missing", "not_run")]
    places = Counter((row.at["model"], row.at["phase"], row.at["context"]) for row in rows(found, "latency", part="grid"))
    expected = {(name, "prefill", context) for name in NAMES for context in (12, 20, 28)}
    expected |= {(name, "step", context) for name in NAMES for context in (12, 28)} | {("transformer", "step", 20)}
    assert set(places) == expected and set(places.values()) == {1}
    for row in rows(found, "latency", part="grid"):
        assert len(row.samples) in (2, 3)
        assert (row.at["size"], row.at["exec"], row.at["impl"], row.at["dtype"]) == ("tiny", "eager", "reference", "float32")
        assert row.at.get("filled_rows") == (1 if row.at["phase"] == "step" else None)


def test_a_place_is_named_once(found: Run) -> None:
    places = [(row.metric, tuple(sorted(row.at.items()))) for row in found.rows]
    assert len(set(places)) == len(places)


def test_no_engine_is_timed_before_its_logits_agreed(found: Run) -> None:
    errors = rows(found, "relative_error", part="gate")
    assert {(row.at["model"], row.at["phase"]) for row in errors} == {
        (name, phase) for name in NAMES for phase in ("prefill", "step")
    }
    assert all(row.value < 1e-5 for row in errors)
    order = [(row.metric, row.at.get("part"), row.at.get("model"), row.at.get("phase")) for row in found.rows]
    for name in NAMES:
        assert order.index(("relative_error", "gate", name, "step")) < order.index(("latency", "grid", name, "step"))


def test_a_step_after_a_timed_prefill_is_that_of_a_longer_one(found: Run) -> None:
    errors = rows(found, "step_error")
    assert len(errors) == 15 and all(row.value < 1e-5 for row in errors)


def test_beside_a_time_stands_what_it_is_measured_by(found: Run) -> None:
    copied, multiplied = (rows(found, metric)[0].value for metric in ("copy_rate", "matmul_rate"))
    for taken in rows(found, "latency", part="grid"):
        mine = {row.metric: row for row in found.rows if row.at == taken.at}
        tokens = int(taken.at["batch"]) * (int(taken.at["context"]) if taken.at["phase"] == "prefill" else 1)
        assert mine["token_time"].samples == pytest.approx([seconds / tokens for seconds in taken.samples])
        moved = mine["weight_bytes"].value + mine["state_traffic"].value
        assert mine["floor"].value == pytest.approx(max(moved / copied, mine["matmul_flops"].value / multiplied))
        assert mine["floor_share"].value == pytest.approx(mine["floor"].value / taken.value)
        assert mine["flops"].value > mine["matmul_flops"].value > 0 and mine["state"].value > 0
        assert mine["first_call"].value > 0


def test_every_step_of_a_mini_batch_is_timed_in_phase_and_spread(found: Run) -> None:
    steps = Counter((row.at["model"], row.at["phases"], row.at["slot"]) for row in rows(found, "latency", part="cycle"))
    assert set(steps) == {(n, p, slot) for n in NAMES[:2] for p in ("in_phase", "spread") for slot in range(16)}


def test_a_run_stops_in_time_lists_what_is_left_and_goes_on(
    found: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = micro_run(tmp_path, "latency", "max_minutes=0")
    stopped = result(run)
    assert stopped.manifest.status == "partial" and "max_minutes=0: 6 of 6 cells are left" in stopped.manifest.cause
    left = rows(stopped, "not_run")
    assert len(left) == 15 + 10 + 1 + 2 and all(row.value > 0 and row.unit == "s" for row in left)
    assert "min  grid prefill B2 at 20" in capsys.readouterr().out
    after = result(replace(run, max_minutes=None))
    assert (after.manifest.status, after.manifest.attempts) == ("done", 2)
    assert not rows(after, "not_run") and len(rows(after, "latency")) == len(rows(found, "latency"))


def test_an_interrupted_run_measures_only_what_it_lacks(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "latency", "experiment.measure.only=[mamba,transformer]")
    before = result(run)
    kept = before.rows[: [row.metric for row in before.rows].index("latency") + 1]
    (before.folder / "rows.jsonl").write_text("".join(row.to_json() + "\n" for row in kept))
    stopped = json.loads((before.folder / "run.json").read_text()) | {"status": "running"}
    (before.folder / "run.json").write_text(json.dumps(stopped))
    after = result(run)

    def key(row: Row) -> Any:
        return row.metric, {name: value for name, value in row.at.items() if name != "attempt"}

    assert after.rows[: len(kept)] == kept
    assert sorted(map(str, map(key, after.rows))) == sorted(map(str, map(key, before.rows)))


def test_what_was_measured_or_cannot_be_is_not_left(tmp_path: Path) -> None:
    """A trial is over with an engine that is missing, and a later call has its whole time for other cells."""
    words = ["experiment.measure.only=[transformer]", "experiment.measure.grid=[[step,3]]"]
    run = micro_run(tmp_path, "latency", *words, "+experiment.measure.engines.cpu.step.transformer=[flash_attn,reference]")
    before = result(run)
    assert rows(before, "missing", part="gate") and rows(before, "latency", part="trial")
    places = [(r.at["part"], r.at["context"]) for r in rows(before, "latency")]
    kept = [row for row in before.rows if row.at.get("context") != places[-1][1] or row.at.get("part") != places[-1][0]]
    (before.folder / "rows.jsonl").write_text("".join(row.to_json() + "\n" for row in kept))
    stopped = json.loads((before.folder / "run.json").read_text()) | {"status": "partial"}
    (before.folder / "run.json").write_text(json.dumps(stopped))
    after = result(replace(run, max_minutes=0))
    assert "cells are left" in after.manifest.cause and after.manifest.cause.startswith("max_minutes=0: 1 of ")
    assert {(row.at["part"], row.at["context"]) for row in rows(after, "not_run")} == {places[-1]}


ALONE = ["experiment.measure.only=[transformer]", "experiment.measure.contexts=[20,12]"]


def replaced(monkeypatch: pytest.MonkeyPatch, step: Any) -> None:
    """Makes ``step`` that of attention's implementation flash_attn, which is else the reference."""
    module = ModuleType("kernels.attention.flash_attn")
    vars(module).update(vars(reference) | {"step": step})
    monkeypatch.setitem(sys.modules, "kernels.attention.flash_attn", module)


def slow(*inputs: Any) -> torch.Tensor:
    time.sleep(0.002)
    return reference.step(*inputs)


def test_the_fastest_engine_of_the_trial_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, slow)
    words = ["experiment.measure.grid=[[step,3]]", "+experiment.measure.engines.cpu.step.transformer=[flash_attn,reference]"]
    ended = result(micro_run(tmp_path, "latency", *ALONE, *words))
    tried = {row.at["impl"]: row.value for row in rows(ended, "latency", part="trial")}
    assert tried["flash_attn"] > 0.002 and tried["flash_attn"] > tried["reference"]
    assert {row.at["impl"] for row in rows(ended, "latency", part="grid")} == {"reference"}


def test_what_computes_something_else_has_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, lambda *inputs: 1.01 * reference.step(*inputs))
    ended = result(micro_run(tmp_path, "latency", *ALONE, "+experiment.measure.engines.cpu.step.transformer=[flash_attn]"))
    assert ended.manifest.status == "done"
    assert rows(ended, "wrong", part="gate", phase="step") and not rows(ended, "latency", phase="step")
    assert rows(ended, "latency", phase="prefill")
    assert "wrong: gate transformer tiny step flash_attn eager: CheckFailed: logits are off by" in capsys.readouterr().err


def test_out_of_memory_is_a_row_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Prefill):
        def _prepare(self) -> None:
            if self.engine.entrant.name == "mamba" and self.spot.context > 12:
                raise torch.OutOfMemoryError
            super()._prepare()

    monkeypatch.setattr("bench.latency.match.Prefill", Full)
    run = micro_run(tmp_path, "latency", "experiment.measure.only=[mamba,transformer]", "experiment.measure.grid=[[prefill,2]]")
    ended = result(run)
    assert [(row.at["model"], row.at["context"]) for row in rows(ended, "oom")] == [("mamba", 20), ("mamba", 28)]
    timed = {(row.at["model"], row.at["context"]) for row in rows(ended, "latency")}
    assert timed == {("mamba", 12), *(("transformer", context) for context in (12, 20, 28))}


def test_an_error_that_costs_the_device_is_of_one_model_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[bool] = []

    def check(device: torch.device) -> None:
        if lost:
            raise RuntimeError("an illegal memory access was encountered")

    class Fatal(Prefill):
        def _prepare(self) -> None:
            lost.extend([True] * (self.engine.entrant.name == "mamba" and self.spot.context == 20))
            check(self.device)
            super()._prepare()

    monkeypatch.setattr("bench.latency.match.synchronise", check)
    monkeypatch.setattr("bench.latency.match.Prefill", Fatal)
    words = ["experiment.measure.only=[mamba,transformer]", "experiment.measure.grid=[[prefill,2]]"]
    run = micro_run(tmp_path, "latency", *words)
    stopped = result(run)
    assert stopped.manifest.status == "partial" and "the same command goes on" in stopped.manifest.cause
    monkeypatch.undo()
    ended = result(run)
    assert ended.manifest.status == "done"
    assert [(row.at["model"], row.at["context"]) for row in rows(ended, "broken")] == [("mamba", 20)]
    assert len(rows(ended, "latency")) == 5


def test_an_implementation_that_is_not_installed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiment.measure.only=[mamba,transformer]", "experiment.measure.grid=[[step,2]]"]
    ended = result(micro_run(tmp_path, "latency", *words, "+experiment.measure.engines.cpu.step.mamba=[mamba_ssm]"))
    assert {row.at["impl"] for row in rows(ended, "missing")} == {"mamba_ssm"}
    assert {row.at["model"] for row in rows(ended, "latency")} == {"transformer"}
    assert "make setup EXTRAS=gpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("only=[rnn]", "experiment.measure.only=rnn is not possible; choose from: ttt_linear, ttt_mlp"),
        ("grid=[[decode,2]]", "experiment.measure.grid=decode is not possible; choose from: prefill, step"),
        ("execs.cpu.step=[fast]", "experiment.measure.execs=fast is not possible; choose from: eager, compile, graph"),
        ("execs.cpu.prefill=[graph]", "exec=graph needs a CUDA device: choose eager or compile, or run it with device=h100"),
    ],
)
def test_what_is_not_possible_says_what_is(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message.replace("[", "\\[")) as caught:
        execute(micro_run(tmp_path, "latency", f"experiment.measure.{word}"))
    assert isinstance(caught.value, ConfigError) or isinstance(caught.value.__cause__, ConfigError)


def test_models_size_and_engines_identify_a_run_and_its_minutes_do_not() -> None:
    def name(*words: str) -> str:
        return run_id(compose_run(["experiment=latency", *words]), {})

    assert name() == name("max_minutes=5") == name("model=mamba")
    assert len({name(), name("size=125m"), name("experiment.measure.only=[mamba]"), name("device.dtype=bfloat16")}) == 4
    layers = identity(compose_run(["experiment=latency"]))["experiment"]["measure"]["models"]["ttt_linear"]["layer"]
    assert [layer["_target_"] for layer in layers] == ["models.short_conv.ShortConv", "models.ttt.TTT", "models.layers.SwiGLU"]


# States


@pytest.mark.parametrize("name", NAMES)
def test_a_row_over_a_batch_is_that_row_read_again(name: str) -> None:
    """Rows that were copied, and stepped on, are those of a batch that read the same; a fresh row begins a batch anew."""
    model = build_model(name, Size(16, 1, 2, 24), 11).eval()
    tokens = torch.randint(11, (1, 22), generator=torch.Generator().manual_seed(0))
    row, state = model.init_state(1, 24), model.init_state(3, 24)
    with torch.no_grad():
        model.begin(tokens[:, :20], row)
        copy_row(state, row)
        found = model.step(tokens[0, 20].repeat(3), state)
        torch.testing.assert_close(found, model.step(tokens[:, 20], row).repeat(3, 1))
        copy_row(state, model.init_state(1, 1))
        again = model.begin(tokens.repeat(3, 1), state)
        torch.testing.assert_close(again, model(tokens)[:, -1].repeat(3, 1))
    assert all((place == 22).all() for place in positions(state))
    assert {tensor.dtype for tensor in state_tensors(state)} >= {tensor.dtype for tensor in positions(state)}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # other packages' own
@pytest.mark.parametrize("only", ["ttt_linear", "ttt_mlp", "transformer,mamba,mamba2"])
def test_every_exec_passes_the_gate_on_a_gpu(only: str, tmp_path: Path) -> None:
    """By its command, as checks of shapes do not compile; what is installed is timed, nothing is wrong or broken."""
    shape = ["experiment.measure.contexts=[128,64,256]", "experiment.measure.grid=[[prefill,2],[step,18]]"]
    shape.append(f"experiment.measure.only=[{only}]")
    words = [sys.executable, "-m", "bench", "experiment=latency", "size=5m", "device=h100", f"results={tmp_path}", *shape]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (run,) = read_runs([tmp_path])
    assert not [row for row in run.rows if row.metric in ("wrong", "broken", "oom")], ended.stderr
    model = only.split(",", maxsplit=1)[0]  # the others' engines may not be installed
    execs = {row.at["exec"] for row in rows(run, "latency", part="trial", model=model, phase="step")}
    assert execs == {"eager", "compile", "graph", "compile_graph"}
    (share,) = {row.unit for row in rows(run, "energy_per_token", model=model)} or {"J/token"}
    assert share == "J/token" and rows(run, "peak_memory", model=model) and rows(run, "sm_clock", model=model)
