"""Tiers under kill -9, of the whole and of a worker; what depends on a failure is blocked; what is timed runs alone."""

import fcntl
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bench.config import RunConfig
from bench.pool import Pool
from bench.progress import Message
from bench.reproduce import run_tier, survey
from bench.results import ROOT, Row, Run, read_manifest, read_runs
from bench.run import describe, execute
from bench.tests.micro import micro_run
from bench.tier import Tier

TIER = """
import pickle, sys
from pathlib import Path
from bench.reproduce import run_tier, survey
from bench.tier import Tier

failures = run_tier(survey(Tier("micro", (), pickle.loads(Path(sys.argv[1]).read_bytes()))), 2)
print(*failures.items(), sep="\\n", file=sys.stderr)
sys.exit(1 if failures else 0)
"""
POOL = """
import pickle, sys
from pathlib import Path
from bench.pool import Pool

list(Pool(pickle.loads(Path(sys.argv[1]).read_bytes()), [None], 1).run())
"""
LONG = "budget.flops=1e11"  # minutes of training, if nobody ends it


def folder_of(run: RunConfig) -> Path:
    return Path(run.results) / run.experiment.name / describe(run).run_id


def found(run: RunConfig) -> Run:
    (one,) = (known for known in read_runs([Path(run.results)]) if known.folder == folder_of(run))
    return one


@contextmanager
def started(script: str, runs: Sequence[RunConfig]) -> Iterator[subprocess.Popen[str]]:
    """A process that runs them, and ends with all its children when the test does."""
    file = Path(runs[0].results).with_name("runs.pickle")
    file.write_bytes(pickle.dumps(tuple(runs)))
    command = [sys.executable, "-c", script, str(file)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        group = process.pid
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def wait_for(condition: str, seconds: float, check: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, f"{condition}: not within {seconds} s"
        time.sleep(0.005)


def locks_are_free(root: Path) -> bool:
    for path in root.rglob(".lock"):
        with path.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def is_running(run: RunConfig) -> bool:
    manifest = read_manifest(folder_of(run))
    return manifest is not None and manifest.status == "running"


def rows_on_disk(root: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in root.glob("*/*/rows.jsonl"))


def untimed(run: RunConfig) -> list[Row]:
    """What a second run repeats: all rows but those of the time that a training took."""
    return [row for row in found(run).rows if row.metric not in ("throughput", "first_step", "train_time")]


def test_killed_at_random_moments_a_tier_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    draw, models = random.Random(time.time_ns()), ("ttt_linear", "transformer")
    cells = [("state_vs_context", "mamba"), *((e, m) for e in ("train", "perplexity_by_context") for m in models)]
    runs = [micro_run(tmp_path, experiment, f"model={model}", "budget.flops=3e8") for experiment, model in cells]
    root, done, kills = Path(runs[0].results), dict[Path, bytes](), []
    for attempt in range(3):
        with started(TIER, runs) as process:
            if attempt < 2:
                more, pause = draw.choice([1, 5, 9, 15, 30]), draw.uniform(0, 0.3)
                enough = rows_on_disk(root) + more
                wait_for("rows", 120, lambda: rows_on_disk(root) >= enough or process.poll() is not None)  # noqa: B023
                time.sleep(pause)
                process.kill()
                kills.append((more, pause))
            else:
                out, errors = process.communicate(timeout=180)
                assert process.returncode == 0, (kills, out, errors)
        wait_for("the workers end with their parent", 20, lambda: locks_are_free(root))
        for path in root.glob("*/*/run.json"):
            if (manifest := read_manifest(path.parent)) and manifest.status == "done":
                assert done.setdefault(path, path.read_bytes()) == path.read_bytes(), f"ran twice: {path}, {kills}"
    assert len(done) == len(runs)
    for run in runs:
        elsewhere = replace(run, results=str(tmp_path / "uninterrupted"))
        execute(elsewhere)
        assert untimed(run) == untimed(elsewhere), kills  # bit for bit: floats are written to the last digit


@pytest.mark.parametrize("is_silent", [False, True], ids=["training", "scoring, without a word to the parent"])
def test_workers_end_with_their_parent_and_what_they_did_goes_on(is_silent: bool, tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", *(["data.heldout=[endless.txt]"] if is_silent else [LONG]))
    (tmp_path / "corpus" / "endless.txt").write_text("reads " * 1_000_000)
    with started(POOL, [run]) as process:
        weights = folder_of(run) / "weights.pt"
        wait_for("the work begins", 60, lambda: weights.exists() if is_silent else is_running(run))
        assert not locks_are_free(tmp_path)
        process.kill()
        process.wait()
        wait_for("the worker ends", 3, lambda: locks_are_free(tmp_path))
    assert is_running(run)  # not failed


def test_a_killed_worker_costs_its_cell_one_attempt_and_the_others_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, state = micro_run(tmp_path, "train", LONG), micro_run(tmp_path, "state_vs_context")
    cells = survey(Tier("micro", (), (long, state)))

    def kill() -> None:
        wait_for("the training begins", 60, lambda: is_running(long))
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    failures = run_tier(cells, workers=1)
    killer.join()
    (cause,) = failures.values()
    assert cause.startswith("killed: its process ended with exit code -9")
    killed = found(long)
    assert (killed.manifest.status, killed.manifest.attempts) == ("killed", 1)
    assert [row.metric for row in killed.rows].count("failure") == 1
    assert killed.config["size"]["name"] == "tiny"
    assert found(state).manifest.status == "done"
    assert "killed " in capsys.readouterr().out
    assert [cell.standing.status for cell in survey(Tier("micro", (), (long, state)))] == ["killed", "done"]
    with pytest.raises(InterruptedError):
        execute(long, raise_interrupted)  # the next call goes on with it
    again = read_manifest(folder_of(long))
    assert again is not None and again.attempts == 2


def raise_interrupted(fraction: float, note: str = "") -> None:
    raise InterruptedError


def test_timing_cells_run_alone_and_a_worker_that_died_idle_is_replaced(tmp_path: Path) -> None:
    quick = [micro_run(tmp_path, "state_vs_context"), micro_run(tmp_path, "train", "budget.flops=4e8")]
    timed = [micro_run(tmp_path, "prefill_latency"), micro_run(tmp_path, "decode_latency")]
    pool = Pool([*timed, *quick], [None] * 4, workers=2)
    messages: list[Message] = []
    for message in pool.run():
        messages.append(message)
        if message.job == 2 and message.status:
            (idle, *_) = (worker for worker in pool._crew if worker.cell is None)
            os.kill(idle.process.pid or 0, signal.SIGKILL)
            idle.process.join()
    assert {message.job: message.status for message in messages if message.status} == dict.fromkeys(range(4), "done")
    cells = [message.job for message in messages]
    assert cells[:2] == [2, 3]
    first_timed = cells.index(0)
    assert min(cells[:first_timed]) >= 2
    assert cells[first_timed:] == sorted(cells[first_timed:])  # all of the first, then all of the second
    assert set(cells[first_timed:]) == {0, 1}
    codes = [worker.process.exitcode for worker in pool._crew]
    assert codes.count(-signal.SIGKILL) == 1 and set(codes) == {-signal.SIGKILL, 0}  # who was not killed left by itself


def test_what_needs_a_failed_training_is_blocked_and_says_why(tmp_path: Path) -> None:
    trains = micro_run(tmp_path, "train", "optim.lr=1e30")
    needs = [micro_run(tmp_path, name, "optim.lr=1e30") for name in ("perplexity_by_context", "perplexity_by_position")]
    with started(TIER, [*needs, trains]) as process:
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 1, (out, errors)
    assert errors.count("blocked: its training did not succeed") == 2, errors
    assert "Diverged" in errors and "lower optim.lr" in errors
    assert found(trains).manifest.status == "diverged"
    assert not any(folder_of(run).exists() for run in needs)
    causes = list(run_tier(survey(Tier("micro", (), (*needs, trains))), workers=1).values())  # the next call
    assert sum("no model, its training diverged" in cause for cause in causes) == 2, causes
    assert len(causes) == 3
    assert found(trains).manifest.attempts == 1


def test_a_limit_in_minutes_leaves_what_it_has_no_time_for_and_the_next_call_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The long training is stopped within its steps, what needs it does not begin; without the limit all is as if in one go."""
    cells = [micro_run(tmp_path, name, "model=mamba", "budget.flops=4e9") for name in ("perplexity_by_context", "train")]
    apart = [replace(run, results=str(tmp_path / "apart")) for run in cells]
    limited = [replace(run, max_minutes=0.1) for run in [*cells, micro_run(tmp_path, "train", "model=ttt_linear", LONG)]]
    limited = [limited[2], *limited[:2]]
    assert run_tier(survey(Tier("micro", (), tuple(limited))), 1) == {}
    assert "max_minutes are over: 3 of 3 cells are left; the same command goes on" in capsys.readouterr().out
    long = found(limited[0])
    assert long.manifest.status == "partial" and "max_minutes are over after" in long.manifest.cause
    assert list((long.folder / "checkpoints").glob("step-*"))
    assert not folder_of(cells[1]).exists()
    for runs in (cells, apart):
        assert run_tier(survey(Tier("micro", (), tuple(runs))), 1) == {}
    here, there = ([row for row in found(run).rows if row.metric == "nll"] for run in (cells[0], apart[0]))
    assert here == there and here


def test_each_worker_has_a_gpu_by_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    wanting = replace(micro_run(tmp_path, "train"), device=replace(micro_run(tmp_path, "train").device, type="cuda"))
    for cells, expected in (([wanting], ["3", "5", "3"]), ([micro_run(tmp_path, "train")], ["", "", ""])):
        pool = Pool(cells, [None], 3)
        pool._crew = []
        for _ in expected:
            pool._hire()
        try:
            assert [worker.card for worker in pool._crew] == expected
        finally:
            for worker in pool._crew:
                worker.process.kill()
                worker.process.join()
