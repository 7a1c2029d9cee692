"""A results folder survives a kill at any moment, and what is damaged is said to be, not mended or overwritten."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.config import run_id
from bench.results import (
    RETRIES,
    ROOT,
    Again,
    Busy,
    CorruptResults,
    Manifest,
    Row,
    hash_of,
    hash_of_sources,
    is_held,
    open_run,
    read_manifest,
    read_run,
    read_runs,
)
from bench.tests.micro import micro_run

MANIFEST = Manifest(
    run_id="mamba-tiny-tiny_1-s0-01234567",
    experiment="train",
    config_hash="89abcdef",
    git_sha="0" * 40,
    dirty=False,
    sources="5a5a0001",
    versions={"torch": "2.13.0"},
    device="Some processor",
    seed=0,
    started="2026-11-20T10:00:00+00:00",
)
CONFIG = {"model": {"name": "mamba"}, "seed": 0}
ROWS = tuple(Row(metric="nll", value=0.1 * n, unit="nat/token", at={"context": n, "model": "mämba"}) for n in range(4))


def write(root: Path, status: str, manifest: Manifest = MANIFEST, rows: tuple[Row, ...] = ROWS) -> Path:
    """A run left in this status; "running" is what a kill leaves."""
    with open_run(root, manifest, CONFIG) as recorder:
        for row in rows:
            recorder.write(row)
        if status != "running":
            recorder.finish(status)
    return recorder.folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    draw = random.Random(0)
    samples = tuple(draw.lognormvariate(0, 30) for _ in range(50))
    row = Row(
        metric="latency", value=samples[0], unit="s", at={"context": 32768, "share": 0.1, "note": 'é"\n'}, samples=samples
    )
    run = read_run(write(tmp_path, "done", rows=(row, *ROWS)))
    assert run.rows == (row, *ROWS)
    assert run.config == CONFIG
    assert not run.published
    assert (run.manifest.status, run.manifest.attempts, run.manifest.run_id) == ("done", 1, MANIFEST.run_id)


def test_a_row_is_on_disk_when_it_is_written(tmp_path: Path) -> None:
    with open_run(tmp_path, MANIFEST, CONFIG) as recorder:
        for n, row in enumerate(ROWS, 1):
            recorder.write(row)
            assert read_run(recorder.folder).rows == ROWS[:n]
        assert recorder.has("nll", context=2, model="mämba")
        assert not recorder.has("nll", context=4)
        assert not recorder.has("latency", context=2)


def test_an_unfinished_run_loses_only_the_line_that_a_kill_cut(tmp_path: Path) -> None:
    path = write(tmp_path, "running") / "rows.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        assert len(read_run(path.parent).rows) == 3  # who reads while it is written sees whole rows
        with open_run(tmp_path, MANIFEST, CONFIG) as recorder:
            assert recorder.rows == list(ROWS[:3])
            recorder.write(ROWS[3])
        assert path.read_bytes() == whole


def test_a_finished_run_that_lost_rows_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path, "done")
    whole = (folder / "rows.jsonl").read_bytes()
    for cut in range(len(whole) - 1):
        (folder / "rows.jsonl").write_bytes(whole[:cut])
        left = contents(folder)
        with pytest.raises(CorruptResults, match=r"rows\.jsonl.*delete the folder .*train/mamba.*run it again"):
            read_runs([tmp_path])
        assert contents(folder) == left
    (folder / "rows.jsonl").unlink()
    with pytest.raises(CorruptResults, match=r"rows\.jsonl"):
        read_runs([tmp_path])


def test_a_damaged_line_amid_the_rows_is_an_error_that_says_which(tmp_path: Path) -> None:
    path = write(tmp_path, "running") / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for damage in ("\0\0\0\n", "{}\n", "3\n", lines[1][:20] + "\n"):
        path.write_text("".join([lines[0], damage, *lines[2:]]))
        with pytest.raises(CorruptResults, match=r"rows\.jsonl, line 2 is not a row.*delete the folder"):
            read_run(path.parent)
        with pytest.raises(CorruptResults, match="line 2"), open_run(tmp_path, MANIFEST, CONFIG):
            pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "x"}'])
def test_a_damaged_manifest_is_an_error_and_nothing_is_overwritten(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, "done")
    (folder / "run.json").write_text(text)
    left = contents(folder)
    with pytest.raises(CorruptResults, match=r"run\.json is not a manifest.*delete the folder"):
        read_run(folder)
    with pytest.raises(CorruptResults, match=r"run\.json is not a manifest"), open_run(tmp_path, MANIFEST, CONFIG):
        pass
    assert contents(folder) == left


def test_a_run_without_its_configuration_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path, "done")
    (folder / "config.yaml").unlink()
    with pytest.raises(CorruptResults, match=r"lacks run\.json or config\.yaml; delete it"):
        read_run(folder)


@pytest.mark.parametrize("status", ["running", "killed"])
def test_what_the_same_sources_left_goes_on(tmp_path: Path, status: str) -> None:
    failure = Row(metric="failure", value=1.0, unit="1", at={})
    folder = write(tmp_path, status, rows=(*ROWS[:2], failure))
    (folder / "checkpoint.pt").write_bytes(b"weights")
    later = replace(MANIFEST, started="2026-11-21T10:00:00+00:00")
    with open_run(tmp_path, later, CONFIG) as recorder:
        assert recorder.rows == list(ROWS[:2])
        assert (recorder.manifest.attempts, recorder.manifest.started) == (2, MANIFEST.started)
        assert (folder / "checkpoint.pt").exists()
        recorder.finish("done")
    run = read_run(folder)
    assert run.rows == ROWS[:2]  # it did not fail in the end
    assert run.manifest.cause == ""


def test_seconds_of_all_attempts_add_up(tmp_path: Path) -> None:
    with open_run(tmp_path, MANIFEST, CONFIG) as recorder:
        recorder.began -= 100
        recorder.finish("killed")
    with open_run(tmp_path, MANIFEST, CONFIG) as recorder:
        recorder.began -= 50
        recorder.finish("done")
    assert 150 <= read_run(recorder.folder).manifest.seconds < 160


def test_seconds_of_an_attempt_that_died_without_a_word_go_to_its_last_sign_of_life(tmp_path: Path) -> None:
    folder, now = write(tmp_path, "running"), time.time()
    os.utime(folder / "run.json", (now - 300, now - 300))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step.pt").touch()
    os.utime(folder / "checkpoints" / "step.pt", (now - 60, now - 60))
    os.utime(folder / "rows.jsonl", (now - 200, now - 200))
    os.utime(folder / "config.yaml", (now - 300, now - 300))
    with open_run(tmp_path, MANIFEST, CONFIG) as recorder:
        recorder.finish("done")
    assert 240 <= read_run(folder).manifest.seconds < 250


@pytest.mark.parametrize(("status", "sources"), [("running", "5a5a0002"), ("killed", "5a5a0002"), ("failed", "5a5a0001")])
def test_what_other_sources_left_unfinished_or_failed_begins_anew(tmp_path: Path, status: str, sources: str) -> None:
    folder = write(tmp_path, status)
    (folder / "checkpoint.pt").write_bytes(b"weights")
    manifest = replace(MANIFEST, sources=sources)
    with open_run(tmp_path, manifest, CONFIG) as recorder:
        assert not recorder.rows
        assert recorder.manifest == manifest
        assert set(contents(folder)) == {".lock", "config.yaml", "run.json"}


@pytest.mark.parametrize("status", ["done", "diverged", "oom"])
@pytest.mark.parametrize("sources", ["5a5a0001", "5a5a0002"])
def test_what_another_process_settled_in_the_meantime_stays(tmp_path: Path, status: str, sources: str) -> None:
    folder = write(tmp_path, status)
    left = contents(folder)
    with open_run(tmp_path, replace(MANIFEST, sources=sources), {}) as recorder:
        assert (recorder.manifest.status, recorder.rows) == (status, list(ROWS))
    assert contents(folder) == left


@pytest.mark.parametrize(("refresh", "sources"), [("all", "5a5a0001"), ("all", "5a5a0002"), ("stale", "5a5a0002")])
def test_a_settled_run_is_repeated_when_asked_for(tmp_path: Path, refresh: str, sources: str) -> None:
    write(tmp_path, "done")
    with open_run(tmp_path, replace(MANIFEST, sources=sources), CONFIG, Again(refresh)) as recorder:
        assert (recorder.manifest.status, recorder.rows) == ("running", [])


@pytest.mark.parametrize(
    ("status", "words"),
    [("failed", ("failed", "oom", "all")), ("oom", ("oom", "all")), ("diverged", ("all",)), ("done", ())],
)
@pytest.mark.parametrize("retry", RETRIES)
def test_what_ended_badly_begins_anew_as_asked(tmp_path: Path, status: str, words: tuple[str, ...], retry: str) -> None:
    write(tmp_path, status)
    with open_run(tmp_path, MANIFEST, CONFIG, Again(retry=retry)) as recorder:
        expected = ("running", []) if retry in words else (status, list(ROWS))
        assert (recorder.manifest.status, recorder.rows) == expected


def test_who_waits_for_a_run_takes_how_it_ended(tmp_path: Path) -> None:
    """Also where its own call would have begun anew what failed: the other's attempt is as good."""
    found = []

    def wait() -> None:
        with open_run(tmp_path, MANIFEST, CONFIG, Again("all", "all"), wait=True) as recorder:
            found.append(recorder.manifest.status)

    with open_run(tmp_path, MANIFEST, CONFIG) as recorder:
        waiter = threading.Thread(target=wait)
        waiter.start()
        waiter.join(0.2)
        assert not found and is_held(tmp_path / MANIFEST.experiment / MANIFEST.run_id)
        recorder.finish("failed")
    waiter.join(10)
    assert found == ["failed"]


HOLDER = """
import sys, time
from pathlib import Path
from bench.results import open_run
from bench.tests.test_results import CONFIG, MANIFEST, ROWS

with open_run(Path(sys.argv[1]), MANIFEST, CONFIG) as recorder:
    recorder.write(ROWS[0])
    print("held", flush=True)
    while True:
        {act}
"""


@contextmanager
def holder(root: Path, act: str) -> Iterator[subprocess.Popen[str]]:
    """A second process at work on the run."""
    command = [sys.executable, "-c", HOLDER.format(act=act), str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_two_processes_do_not_measure_the_same_and_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    with holder(tmp_path, "time.sleep(60)") as process:
        for _ in range(2):
            with pytest.raises(Busy, match=rf"{MANIFEST.run_id} is being measured by another process"):
                write(tmp_path, "done")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open_run(tmp_path, MANIFEST, CONFIG) as recorder:
        assert recorder.rows == [ROWS[0]]
        assert recorder.manifest.attempts == 2


def test_a_manifest_is_whole_at_every_moment_and_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / MANIFEST.experiment / MANIFEST.run_id
    with holder(tmp_path, "recorder.finish('failed', 'x' * 100_000)") as process:
        until, seen = time.monotonic() + 0.5, set()
        while time.monotonic() < until:
            manifest = read_manifest(folder)
            seen.add(manifest.status if manifest else "none")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {"failed"} <= seen <= {"running", "failed"}
    assert [run.folder for run in read_runs([tmp_path])] == [folder]


def test_a_hash_names_a_value_not_its_order() -> None:
    assert hash_of({"a": 1, "b": [1.5, None]}) == hash_of({"b": [1.5, None], "a": 1})
    values: list[Any] = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.5}, {"a": None}, [], {}]
    assert len({hash_of(value) for value in values}) == len(values)


def test_the_same_configuration_is_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    def name(*overrides: str) -> str:
        return run_id(micro_run(tmp_path, "perplexity_by_context", *overrides), {})

    assert name() == name() == name("results=elsewhere", "refresh=stale")
    assert len({name(), name("seed=1"), name("experiment.measure.targets=8"), name("model=mamba")}) == 4


def sources_in(root: Path, **changes: str | None) -> str:
    """The hash of a small project; changes are files to write (in the order of FILES), or to leave out where None."""
    for file, text in (FILES | {FILE_OF[key]: text for key, text in changes.items()}).items():
        if text is not None:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)
    return hash_of_sources(root)


FILE_OF = {
    "kernel": "kernels/op.py",
    "model": "models/checkpoints/official.py",
    "harness": "bench/train.py",
    "test": "bench/tests/test_train.py",
    "figure": "bench/figures/lines.py",
    "conf": "conf/model/mamba.yaml",
    "note": "README.md",
}
FILES: dict[str, str | None] = {file: f"{key} = 1\n" for key, file in FILE_OF.items()}


@pytest.mark.parametrize("part", ["kernel", "model", "harness"])
@pytest.mark.parametrize("text", ["other = 2\n", None], ids=["edited", "gone"])
def test_the_sources_hash_changes_with_code_that_measures(tmp_path: Path, part: str, text: str | None) -> None:
    assert sources_in(tmp_path / "a", **{part: text}) != sources_in(tmp_path / "b")


def test_the_sources_hash_does_not_change_with_tests_figures_and_words(tmp_path: Path) -> None:
    same = sources_in(tmp_path / "a")
    for part in ("test", "figure", "conf", "note"):
        assert sources_in(tmp_path / part, **{part: "other = 2\n"}) == same


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    folder = write(tmp_path, "done")
    (folder / ".run.json.99.tmp").write_text('{"run_id": "ha')  # what a kill in the middle of a replacement leaves
    assert [run.manifest.status for run in read_runs([tmp_path])] == ["done"]
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
