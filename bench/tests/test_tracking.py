"""What W&B gets is what the rows say, value by value; and whatever W&B does, a run has its rows, its status and its time."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.config import RunConfig, TrackingConfig
from bench.results import ROOT, Run, read_run
from bench.run import describe, execute
from bench.tests.micro import micro_run
from bench.tests.synthetic_runs import Bench
from bench.tracking import process
from bench.tracking.names import points, summary, table, tags
from bench.tracking.process import LEFT
from bench.tracking.sync import unsynced, upload
from bench.train import Diverged

KEY = "0123456789abcdef0123456789abcdef01234567"
# A run waits no longer, even where this machine is slow to start Python.
PATIENT = "tracking.limit_s=120"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No environment but the test's; what W&B's failures leave in it ends with the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def nobody() -> str:
    """An address where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def tracked_run(folder: Path, experiment: str, *overrides: str) -> RunConfig:
    return micro_run(folder, experiment, "tracking=wandb", f"tracking.dir={folder}", PATIENT, *overrides)


def result(run: RunConfig) -> Run:
    return read_run(Path(run.results) / run.experiment.name / describe(run).run_id)


def inspect(path: Path) -> list[dict[str, Any]]:
    """The records of a run that W&B keeps, read back by its own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    read = subprocess.run(command, cwd=path, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in read.stdout.splitlines()]


def of(records: Sequence[dict[str, Any]], kind: str) -> list[Any]:
    return [record[kind] for record in records if record["type"] == kind]


def merged(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary as all its updates leave it."""
    return {key: value for update in of(records, "summary") for key, value in update.get("update", {}).items()}


def logged(folder: Path, run: Run) -> list[dict[str, Any]]:
    """The records of the one folder that W&B keeps of a run."""
    (only,) = (folder / "wandb").glob(f"*run-*-{run.manifest.run_id}")
    return inspect(only)


def compare(records: Sequence[dict[str, Any]], run: Run) -> None:
    """All that W&B has of a run against its rows."""
    name = run.manifest.experiment
    items = {item["item"]["_step"]: item["item"] for item in of(records, "history")}
    table_of = items.pop(len(run.rows))
    curves = points(name, run.rows)
    assert [(step, item[p.key], item[p.axis]) for p, (step, item) in zip(curves, items.items(), strict=True)] == [
        (p.step, run.rows[p.step].value, run.rows[p.step].at[p.axis]) for p in curves
    ]
    found = merged(records)
    assert {key: found[key] for key in summary(name, run.rows)} == summary(name, run.rows)
    assert (found["run/status"], found["run/rows"]) == (run.manifest.status, len(run.rows))
    assert table_of["rows.nrows"] == len(run.rows)
    (begun,) = of(records, "run")
    assert (begun["run_id"], begun["job_type"]) == (run.manifest.run_id, name)
    assert {artifact["type"] for artifact in of(records, "artifact")} >= {"run_table", "results"}


def test_an_offline_run_holds_what_the_rows_hold_and_the_rows_are_what_they_are_without_it(tmp_path: Path) -> None:
    run, trains = (tracked_run(tmp_path, name, "tracking.tags=[mine]") for name in ("inner_loss", "train"))
    execute(run)
    plain = replace(run, results=str(tmp_path / "plain"), tracking=TrackingConfig())
    execute(plain)
    assert (result(run).rows, result(run).config) == (result(plain).rows, result(plain).config)
    for each in (run, trains):
        found = result(each)
        records = logged(tmp_path, found)
        compare(records, found)
        (begun,) = of(records, "run")
        assert begun["tags"] == ["model=ttt_linear", "backbone=mamba", "size=tiny", "match=budget", "budget=tiny_1", "mine"]
        assert begun["config"]["update"]["optim"]["lr"] == found.config["optim"]["lr"]
        assert begun["config"]["update"]["run"]["sources"] == found.manifest.sources
    (lines,) = (tmp_path / "wandb").glob(f"*{describe(trains).run_id}/files/media/table/*.json")
    columns, data = table(result(trains).rows)
    assert json.loads(lines.read_text()) == {"columns": columns, "data": data}


def test_keys_name_what_differs_and_curves_run_along_one_axis(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.everything(("ttt_linear",))
    runs = {run.manifest.experiment: run for run in bench.runs}
    inner, decode = runs["inner_loss"], runs["decode_latency"]
    keys = {point.key for point in points("inner_loss", inner.rows)}
    assert keys == {f"inner_loss/inner_loss/layer_{n}_weights_{w}" for n in (0, 1) for w in ("w0", "before", "after")}
    assert {point.axis for point in points("inner_loss", inner.rows)} == {"position"}
    assert "decode_latency/latency/context_1024" in summary("decode_latency", decode.rows)
    assert len(summary("inner_loss", inner.rows)) == len(inner.rows)
    assert tags({"experiment": {"modelless": True}, "device": {"dtype": "bfloat16"}}) == ["dtype=bfloat16"]


def test_an_interrupted_training_is_resumed_and_leaves_one_whole_folder(tmp_path: Path) -> None:
    def interrupt(fraction: float, note: str = "") -> None:
        if fraction > 0.4:
            raise KeyboardInterrupt

    run = tracked_run(tmp_path, "train")
    with pytest.raises(KeyboardInterrupt):
        execute(run, interrupt)
    execute(run)
    found = result(run)
    assert found.manifest.attempts == 2
    for thread in threading.enumerate():
        if thread.name == LEFT:
            thread.join(60)  # what the first attempt began ends by itself
    compare(logged(tmp_path, found), found)


def test_a_divergence_is_logged_as_one(tmp_path: Path) -> None:
    run = tracked_run(tmp_path, "train", "optim.lr=1e30")
    with pytest.raises(Diverged):
        execute(run)
    records = logged(tmp_path, result(run))
    compare(records, result(run))
    assert [end["exit_code"] for end in of(records, "exit")] == [1]


@pytest.mark.parametrize("is_there", [False, True], ids=["nobody listens", "the server hangs"])
def test_where_wandb_is_away_a_run_ends_in_time_and_whole_with_one_note(
    is_there: bool, silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", silent_server if is_there else nobody())
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "online")
    process._note.cache_clear()  # where both cases take longer than their limit, they have one cause
    runs = [tracked_run(tmp_path, "state_vs_context", "tracking.limit_s=9", f"seed={seed}") for seed in range(2)]
    for run in runs:
        start = time.monotonic()
        execute(run)
        assert time.monotonic() - start < 30  # 9 s, where this machine does nothing else
        assert result(run).manifest.status == "done"
    assert capsys.readouterr().err.count("note: W&B failed") == 1
    assert os.environ["WANDB_MODE"] == "offline"


def test_what_is_broken_in_tracking_breaks_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for broken in (f"tracking.dir={tmp_path / 'file' / 'x'}", "tracking.project=a/b:c"):
        run = tracked_run(tmp_path, "state_vs_context", broken, f"results={tmp_path / broken[9:12]}")
        assert execute(run).manifest.status == "done"
    assert capsys.readouterr().err.count("note: W&B failed") == 2


def test_no_secret_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {name: f"planted{n}secret{n}" for n, name in enumerate(["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"])}
    for name, value in {**planted, "WANDB_API_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    shaped, worded, named = "hf_abcdefghijklmnopqrstuvwxyz", "userandpassword", "onlyitsnamesaysit"
    data = f"data.name=hub-{planted['HF_TOKEN']}-{shaped}"
    run = tracked_run(tmp_path, "state_vs_context", data, f"+experiment.measure.api_key={named}")
    with pytest.raises(Exception, match="api_key"):
        execute(run)
    lost = tracked_run(tmp_path, "train", f"data.path=https://user:{worded}@host/{planted['MY_PASSWORD']}")
    with pytest.raises(Exception, match="there is no corpus"):
        execute(lost)
    secrets = [value.encode() for value in (*planted.values(), KEY, shaped, worded, named)]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "corpus" not in path.parts]
    assert {path.suffix for path in files} >= {".wandb", ".yaml", ".json", ".jsonl", ".log"}
    assert not [(path, secret) for path in files for secret in secrets if secret in path.read_bytes()]
    assert result(run).config["experiment"]["measure"]["api_key"] == "***"
    assert "https://***@host" in result(lost).manifest.cause


def test_a_sweep_is_a_group_and_keeps_no_secret_of_its_command_line(tmp_path: Path) -> None:
    words = ["experiment=state_vs_context", "model=mamba", "size=tiny", "experiment.measure.contexts=[16]", "seed=0,1"]
    words += [f"results={tmp_path / 'runs'}", "tracking=wandb", f"tracking.dir={tmp_path}", PATIENT]
    command = [sys.executable, "-m", "bench", "-m", *words, "+hydra.job.env_set.MY_TOKEN=plantedsecret"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (sweep,) = (tmp_path / "runs" / ".multirun").iterdir()
    begun = [of(inspect(folder), "run")[0] for folder in (tmp_path / "wandb").glob("*run-*")]
    assert [run["run_group"] for run in begun] == [sweep.name] * 2
    assert "seed=0,1" in (sweep / "multirun.yaml").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"plantedsecret" in path.read_bytes()]


def test_runs_that_there_are_can_be_logged_without_torch(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs")
    runs = [bench.write("train", "mamba", bench.train("mamba", "nano_3", 0)), bench.write("decode_latency", "mamba", [])]
    code = "import sys; sys.modules['torch'] = None; from bench.tracking.__main__ import main; sys.exit(main())"
    words = [str(tmp_path / "runs"), f"tracking.dir={tmp_path}", "tracking.group=old", PATIENT]
    ended = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for run in runs:
        (begun,) = of(logged(tmp_path, run), "run")
        assert (begun["run_id"], begun["run_group"]) == (run.manifest.run_id, "old")


def test_a_folder_without_runs_and_a_missing_wandb_say_what_helps(tmp_path: Path) -> None:
    without = "import sys; sys.modules['wandb'] = None; import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__')"
    for words, message in (
        (["bench.tracking", "smoke"], "make setup EXTRAS=reports"),
        (["bench", "tracking=wandb"], "make setup EXTRAS=reports"),
        (["bench.tracking", str(tmp_path)], "neither a tier nor a folder with runs"),
    ):
        command = [sys.executable, "-c", without, *words]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode != 0
        assert message in ended.stderr and "Traceback" not in ended.stderr


def test_an_upload_without_a_key_or_an_answer_ends_and_says_so(
    silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(tracked_run(tmp_path, "state_vs_context"))
    (file,) = unsynced(tmp_path)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    assert "wandb login" in upload([file], limit_s=60)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert upload([file], limit_s=3) == "W&B did not answer within 3 s"
    assert unsynced(tmp_path) == [file]
    file.with_suffix(".wandb.synced").touch()
    assert unsynced(tmp_path) == []


def test_a_process_that_a_run_left_ends_by_itself(silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE")
    run = micro_run(tmp_path, "state_vs_context")
    execute(run)
    tracking = json.dumps({"name": "wandb", "dir": str(tmp_path), "limit_s": 1.5})
    words = [str(Path(run.results) / "state_vs_context" / describe(run).run_id), tracking]
    with subprocess.Popen([sys.executable, "-m", "bench.tracking.log", *words], cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        assert process.wait(60) == -signal.SIGALRM
