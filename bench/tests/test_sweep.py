"""Sweeps: a bad cell costs no other, what is done is not repeated, and every launcher finds and leaves the same."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import status
from bench.compose import register
from bench.config import CONF, ConfigError, identity
from bench.overrides import check_keys
from bench.results import ROOT, hash_of, read_manifest, read_run
from bench.run import describe, execute
from bench.sweep import Ended, cells_of, run_cell, sweep_names
from bench.tests.micro import micro_run
from bench.tier import tier_names

ENDING = ["experiment=state_vs_context", "size=tiny", "experiment.measure._target_=bench.tests.endings.Ending"]


def words(folder: Path, how: str) -> list[str]:
    """A sweep of cells that end as ``how`` says until there is ``folder``/flag."""
    told = [f"+experiment.measure.flag={folder / 'flag'}", f"+experiment.measure.how={how}"]
    return [*ENDING, f"results={folder / 'runs'}", *told]


def sweep(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    """``python -m bench -m OVERRIDES`` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "bench" / "__main__.py"), "-m", *overrides])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where a launcher's own processes find bench
    register()
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def of_status(monkeypatch: pytest.MonkeyPatch, *told: str) -> int:
    """``python -m bench.status WORDS``; its exit status."""
    monkeypatch.setattr(sys, "argv", ["bench.status", *told])
    return status.main()


def attempts(folder: Path) -> dict[str, tuple[str, float]]:
    """Status and the moment of the last change of every run, by what it was told."""
    found: dict[str, tuple[str, float]] = {}
    for path in folder.glob("runs/*/*/run.json"):
        run = read_run(path.parent)
        found[run.config["experiment"]["measure"]["how"]] = (run.manifest.status, path.stat().st_mtime_ns)
    return found


def test_bad_cells_cost_no_other_are_all_told_and_begin_again_as_asked_under_every_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = words(tmp_path, "failed,oom,killed")
    assert sweep(monkeypatch, *told, "dry=true") == 0
    assert "3 cells: 3 to do" in capfd.readouterr().out
    assert not (tmp_path / "runs").exists()

    assert sweep(monkeypatch, *told, "launcher=joblib") == 1
    out = capfd.readouterr().out
    first = attempts(tmp_path)
    assert {how: state for how, (state, _) in first.items()} == {how: how for how in ("failed", "oom", "killed")}
    causes = {"failed": "ValueError: told to fail", "oom": "told to have no memory", "killed": "exit code -9"}
    summary = out.splitlines()[-4:]
    assert all(any(how in line and cause in line for line in summary[:3]) for how, cause in causes.items()), out
    assert summary[3].startswith("3 cells: ")

    (folder,) = (tmp_path / "runs" / ".multirun").iterdir()
    assert of_status(monkeypatch, str(folder)) == 1
    assert "3 cells: 1 failed, 1 oom, 1 killed; about" in capfd.readouterr().out

    (tmp_path / "flag").touch()  # from now on all end well
    assert sweep(monkeypatch, *told, "launcher=submitit_local") == 1  # what failed begins anew, what was killed goes on
    second = attempts(tmp_path)
    assert {how: state for how, (state, _) in second.items()} == {"failed": "done", "oom": "oom", "killed": "done"}
    assert second["oom"] == first["oom"]

    capfd.readouterr()
    assert sweep(monkeypatch, *told) == 1  # nothing is left to do, and what is left undone is told
    assert attempts(tmp_path) == second
    out = capfd.readouterr().out
    assert out.splitlines()[0] == "3 cells: 2 done, 1 oom"
    assert out.splitlines()[-2:] == [
        "oom: +experiment.measure.how=oom: OutOfMemoryError: told to have no memory",
        "3 cells: 2 done, 1 oom",
    ]
    assert len(list((tmp_path / "runs" / ".multirun").iterdir())) == 3  # a call never writes to another's folder


def test_of_two_launchers_that_race_for_a_cell_one_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = words(tmp_path, "wait")
    command = [sys.executable, "-m", "bench", "-m", *told]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as other:
        try:
            (folder,) = wait_for(lambda: [p.parent for p in tmp_path.glob("runs/state_vs_context/*/run.json")], 60)
            assert of_status(monkeypatch, str(tmp_path / "runs")) == 1
            assert "1 cell: 1 running" in capfd.readouterr().out
            assert sweep(monkeypatch, *told) == 0  # it is no failure
            assert "another process is at work on it" in capfd.readouterr().out
            (tmp_path / "flag").touch()
            out, errors = other.communicate(timeout=60)
        finally:
            other.kill()
    assert other.returncode == 0, (out, errors)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.status, manifest.attempts) == ("done", 1)


def wait_for(look: Callable[[], list[Path]], seconds: float) -> list[Path]:
    """What ``look`` finds, as soon as it finds something."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def test_fail_fast_begins_no_further_cell(tmp_path: Path) -> None:
    one, other = (micro_run(tmp_path, "state_vs_context", f"seed={seed}", "fail_fast=true") for seed in (0, 1))
    Ended("oom").write(tmp_path, one)
    assert run_cell(other, tmp_path, is_watched=False) == Ended("skipped", "fail_fast: 1 cell failed")
    assert not (tmp_path / "runs").exists()
    execute(other)
    assert run_cell(other, tmp_path, is_watched=False) == Ended("done")


def test_a_run_that_nobody_measures_any_more_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = micro_run(tmp_path, "state_vs_context")
    execute(run)
    folder = tmp_path / "runs" / "state_vs_context" / describe(run).run_id
    assert of_status(monkeypatch, str(folder)) == 0
    assert "1 cell: 1 done" in capsys.readouterr().out
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(manifest | {"status": "running", "seconds": 1e9}))
    assert of_status(monkeypatch, str(folder)) == 1
    out = capsys.readouterr().out
    assert "killed: state_vs_context ttt_linear tiny tiny_1 s0: its process died" in out
    assert out.splitlines()[1].startswith("killed          0.00  state_vs_context/ttt_linear-tiny")
    (folder / "run.json").write_text(json.dumps(manifest | {"sources": "00000000"}))
    assert of_status(monkeypatch, str(folder)) == 0
    assert "1 cell: 1 stale" in capsys.readouterr().out


def test_status_says_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert of_status(monkeypatch, "nowhere") == 2
    error = capsys.readouterr().err
    assert "'nowhere' is neither a sweep nor a tier nor a folder with runs" in error
    assert all(name in error for name in ("learning_rate", "smoke"))


@pytest.mark.parametrize("name", sweep_names())
def test_every_sweep_lists_each_cell_once_and_tells_it_apart(name: str) -> None:
    cells = cells_of(name, ["model=ttt_linear"])
    assert len(cells) > 1
    assert len({hash_of(identity(run)) for _, run in cells}) == len({label for label, _ in cells}) == len(cells)
    assert name not in tier_names()


def test_a_sweep_takes_overrides_and_pairs_what_belongs_together() -> None:
    scaling = cells_of("scaling", ["model=mamba", "size=125m,1.3b"])
    pairs = {(run.size.name, run.budget.name, run.optim.name) for _, run in scaling}
    assert pairs == {(size, f"paper_{size}", f"paper_{size}") for size in ("125m", "1.3b")}
    told = [label for label, _ in cells_of("learning_rate", ["optim.lr=0.5", "model=mamba,transformer"])]
    assert told == ["model=mamba", "model=transformer"]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_what_measures_time_shares_no_machine(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["experiment=train,decode_latency", f"launcher={launcher}", f"results={tmp_path / 'runs'}"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "bench" / "__main__.py"), "-m", *told])
    register()
    with pytest.raises(SystemExit, match=r"experiment=decode_latency measures time.*launcher=local"):
        command.main()
    assert not (tmp_path / "runs").exists()


SBATCH = """#!/bin/sh
cat "$1" > "$SEEN" && mv "$SEEN" "$SEEN.sh"
echo Submitted batch job 7
"""


def test_what_is_given_to_slurm_asks_for_what_was_said(tmp_path: Path) -> None:
    """Commands named like Slurm's stand where it would; they write down the script and answer as it would."""
    seen = tmp_path / "seen"
    for name, text in {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "sacct": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    told = [*words(tmp_path, "done"), "seed=0,1", "launcher=slurm", "hydra.launcher.partition=gpu"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(seen)}
    with subprocess.Popen([sys.executable, "-m", "bench", "-m", *told], cwd=ROOT, env=environment) as waiting:
        try:
            (script,) = wait_for(lambda: list(tmp_path.glob("seen.sh")), 60)
        finally:
            waiting.kill()
    lines = script.read_text().splitlines()
    asked = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    wanted = {"partition": "gpu", "gpus-per-node": "1", "time": "1440", "array": "0-1%2", "mem": "64GB", "signal": "USR2@300"}
    assert wanted.items() <= asked.items(), asked
    assert "requeue" in asked
    assert asked["cpus-per-task"] == "1"
    assert asked["output"].startswith(str(tmp_path / "runs" / ".multirun"))
    (run,) = [line for line in lines if line.startswith("srun")]
    assert "submitit.core._submit" in run


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "launcher").glob("*.yaml") if path.stem != "local"))
def test_a_launcher_that_is_not_installed_says_what_brings_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.overrides.distributions", lambda name: ())
    with pytest.raises(ConfigError, match=rf"launcher={name} needs hydra-.*make setup EXTRAS=launchers"):
        check_keys([f"launcher={name}"])
