"""One run: done is done, interrupted goes on, and however it ends, it leaves a status, a cause and a row."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.budget import BudgetError
from bench.checkpoints import CorruptCheckpoint
from bench.config import RunConfig
from bench.data import DataError
from bench.progress import Progress
from bench.results import CorruptResults, Run, read_manifest, read_run
from bench.run import NotTrained, describe, execute
from bench.tests.micro import micro_run
from bench.train import Diverged


def folder_of(run: RunConfig) -> Path:
    return Path(run.results) / run.experiment.name / describe(run).run_id


def result(run: RunConfig) -> Run:
    return read_run(folder_of(run))


def edit(run: RunConfig, **fields: Any) -> None:
    """Changes run.json, as an earlier call would have left it."""
    path = folder_of(run) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def interrupt_after(calls: int) -> Progress:
    left = iter(range(calls))

    def progress(fraction: float, note: str = "") -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return progress


def test_a_done_run_is_not_touched_again(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "perplexity_by_context")
    assert execute(run).is_new
    before = {path: path.stat().st_mtime_ns for path in Path(run.results).rglob("*") if path.name != ".lock"}
    assert {path.parent.parent.name for path in before if path.name == "run.json"} == {"train", "perplexity_by_context"}
    assert not execute(run).is_new
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_model_is_not_measured_on_other_data_than_it_was_trained_on(tmp_path: Path) -> None:
    execute(micro_run(tmp_path, "train"))
    text = tmp_path / "corpus" / "train.txt"
    text.write_text(text.read_text()[::-1])
    with pytest.raises(DataError, match=r"content of data=austen is not what the model was trained on; restore it, or delete"):
        execute(micro_run(tmp_path, "perplexity_by_context"))


def test_the_same_run_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    values = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        run = micro_run(tmp_path / name, "train", f"seed={seed}", f"data.path={tmp_path / 'a' / 'corpus'}")
        execute(run)
        values.append([row.value for row in result(run).rows if row.metric in ("nll", "train_nll")])
    assert values[0] == values[1]
    assert values[0] != values[2]


@pytest.mark.parametrize("experiment", ["perplexity_by_context", "decode_latency", "train"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_an_interrupted_run_measures_only_what_is_missing(experiment: str, keep: float, tmp_path: Path) -> None:
    run = micro_run(tmp_path, experiment)
    execute(run)
    whole = result(run)
    path = folder_of(run) / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = int(keep * len(lines))
    path.write_bytes(b"".join(lines[:kept]) + lines[kept][:-5])
    edit(run, status="running", rows=0)
    assert execute(run).is_new
    again = result(run)
    assert again.rows[:kept] == whole.rows[:kept]
    assert [(row.metric, row.at) for row in again.rows] == [(row.metric, row.at) for row in whole.rows]
    if experiment != "decode_latency":
        assert again.rows == whole.rows
    assert (again.manifest.attempts, again.manifest.status) == (2, "done")


def test_an_interrupted_training_leaves_no_failure(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train")
    with pytest.raises(KeyboardInterrupt):
        execute(run, interrupt_after(3))
    left = result(run)
    assert left.manifest.status == "running"
    assert "failure" not in {row.metric for row in left.rows}
    assert execute(run).is_new
    assert result(run).manifest.attempts == 2
    assert {path.name for path in folder_of(run).iterdir()} == {".lock", "config.yaml", "run.json", "rows.jsonl", "weights.pt"}


def test_a_divergence_leaves_a_status_a_cause_and_a_row_and_is_not_repeated(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "optim.lr=1e30")
    with pytest.raises(Diverged):
        execute(run)
    left = result(run)
    assert left.manifest.status == "diverged"
    assert "training loss was" in left.manifest.cause
    assert "lower optim.lr" in left.manifest.cause
    (failure,) = (row for row in left.rows if row.metric == "failure")
    assert (failure.at["model"], failure.at["size"], failure.at["seed"]) == ("ttt_linear", "tiny", 0)
    assert f"at step {failure.at['step']} of" in left.manifest.cause
    outcome = execute(run)
    assert (outcome.is_new, outcome.manifest.status) == (False, "diverged")
    assert result(run) == left
    with pytest.raises(Diverged):
        execute(replace(run, retry="all"))


def test_a_divergence_in_the_last_step_is_one_too(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "optim.lr=1e30", "budget.flops=8.35e6")
    with pytest.raises(Diverged, match=r"heldout loss was nan.*lower optim\.lr"):
        execute(run)
    assert result(run).manifest.status == "diverged"


def test_what_needs_a_model_whose_training_diverged_says_so_and_leaves_the_training_alone(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "perplexity_by_context", "optim.lr=1e30")
    with pytest.raises(Diverged):
        execute(run)  # trains first
    for _ in range(2):
        with pytest.raises(NotTrained, match=r"no model, its training diverged: Diverged.*lower optim\.lr"):
            execute(run)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["budget.flops=1e5"], BudgetError, "too small for one step"),
        (["data.path=/nowhere"], DataError, "there is no corpus '/nowhere'"),
        (["data.heldout=[empty.txt]"], DataError, r"empty\.txt is empty"),
        (["optim.train_context=16384", "optim.batch_tokens=16384", "budget.flops=1e10"], DataError, "fewer than the 16385"),
    ],
)
def test_a_failure_is_recorded_and_the_next_call_begins_anew(
    overrides: list[str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    run = micro_run(tmp_path, "train", *overrides)
    (tmp_path / "corpus" / "empty.txt").touch()
    for _ in range(2):
        with pytest.raises(error, match=message):
            execute(run)
        left = result(run)
        assert (left.manifest.status, left.manifest.attempts) == ("failed", 1)
        assert left.manifest.cause.startswith(f"{error.__name__}: ")
        assert [row.metric for row in left.rows].count("failure") == 1
    assert not execute(replace(run, retry="none")).is_new


def test_a_context_longer_than_every_document_is_an_error(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "perplexity_by_context", "experiment.measure.contexts=[900]")
    with pytest.raises(DataError, match=r"the longest, 'long', has \d+"):
        execute(run)


@pytest.mark.parametrize("refresh", ["all", "stale"])
def test_refresh_repeats_what_it_names_and_only_that(refresh: str, tmp_path: Path) -> None:
    run = micro_run(tmp_path, "perplexity_by_context")
    execute(run)
    trains = micro_run(tmp_path, "train")
    asked = replace(run, refresh=refresh)
    assert execute(asked).is_new == (refresh == "all")
    weights = (folder_of(trains) / "weights.pt").stat().st_mtime_ns
    edit(run, sources="00000000")
    assert execute(run).is_stale
    assert execute(asked).is_new
    assert not execute(run).is_stale
    assert (folder_of(trains) / "weights.pt").stat().st_mtime_ns == weights
    edit(trains, sources="00000000")
    edit(run, sources="00000000")
    assert execute(asked).is_new
    assert execute(trains).is_stale == (refresh == "all")


@pytest.mark.parametrize("status", ["done", "running"])
def test_weights_that_were_damaged_are_an_error_and_stay(status: str, tmp_path: Path) -> None:
    trains, run = micro_run(tmp_path, "train"), micro_run(tmp_path, "perplexity_by_context")
    execute(trains)
    weights = folder_of(trains) / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:-100])
    edit(trains, status=status)
    left = {path: path.read_bytes() for path in folder_of(trains).iterdir() if path.name in ("weights.pt", "rows.jsonl")}
    for _ in range(2):
        with pytest.raises(CorruptCheckpoint, match=r"weights\.pt cannot be read.*delete the folder .*train/ttt_linear"):
            execute(run)
    assert {path: path.read_bytes() for path in left} == left


def test_a_done_run_that_lost_rows_is_an_error_and_stays(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "state_vs_context")
    execute(run)
    path = folder_of(run) / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    left = path.read_bytes()
    with pytest.raises(CorruptResults, match=r"rows\.jsonl.*delete the folder"):
        execute(run)
    assert path.read_bytes() == left


def test_a_manifest_says_what_produced_the_numbers(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "state_vs_context", "seed=4")
    execute(run)
    manifest = read_manifest(folder_of(run))
    assert manifest is not None
    assert (manifest.seed, manifest.experiment, manifest.status) == (4, "state_vs_context", "done")
    assert {"python", "torch", "numpy"} <= set(manifest.versions)
    assert manifest.device
    assert result(run).config["seed"] == 4
    assert result(run).config["size"]["name"] == "tiny"
