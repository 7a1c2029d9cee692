"""The process that speaks to W&B: ``python -m bench.tracking.log FOLDER TRACKING``, started and limited by process.py.

It reads the folder of a run, or of a tier's figures, until its standard input ends, and logs what is new. Whenever it begins it
logs all that is there: an offline folder is whole whatever was interrupted, and online W&B drops what it has. TRACKING: the
fields of TrackingConfig, JSON. It ends with AWAY where it logged offline, as W&B did not answer.
"""

import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import UsageError

from bench.config import TrackingConfig
from bench.results import Run, locked, read_run
from bench.tracking.names import Point, configuration, ending, points, summary, table, tags

AWAY = 3
EVERY_S = 5.0
# W&B is not told of the machine, its user, the checkout and the terminal: command lines and addresses of repositories hold
# secrets.
QUIET: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "save_code": False,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def log_run(folder: Path, tracking: TrackingConfig) -> int:
    """Curves while the run is in progress; at its end its summary, table and files."""
    run = read_run(folder)
    is_over, manifest = _is_over(0, tracking), run.manifest
    about: dict[str, Any] = {"job_type": manifest.experiment, "tags": [*tags(run.config), *tracking.tags]}
    about |= {"id": manifest.run_id, "config": configuration(run)}
    about["resume"] = "allow" if manifest.attempts > 1 and not is_over else None
    stream, status = _begin(tracking, about)
    told = -1
    while True:
        told = _log_curves(stream, run, told)
        if is_over:
            break
        is_over = _is_over(EVERY_S, tracking)
        run = read_run(folder)
    _log_end(stream, run, tracking.upload)
    _finish(stream, run.manifest.status)
    return status


def _log_curves(stream: wandb.Run, run: Run, told: int) -> int:
    """Points of rows after number ``told``, each at the number of its row as step: what W&B has already it drops."""
    new = [point for point in points(run.manifest.experiment, run.rows) if point.step > told]
    for point in new:
        _define(stream, point)
        stream.log({point.key: point.value, point.axis: point.x}, step=point.step)
    return new[-1].step if new else told


def _define(stream: wandb.Run, point: Point) -> None:
    stream.define_metric(point.key, step_metric=point.axis, summary="last" if point.axis == "tokens" else "none")


def _log_end(stream: wandb.Run, run: Run, upload: Sequence[str]) -> None:
    """Numbers by their places and how the run stands; where it is not interrupted, its table and files."""
    stream.summary.update({**summary(run.manifest.experiment, run.rows), **ending(run.manifest)})
    if run.manifest.status == "running":
        return
    if "rows" in upload and run.rows:
        columns, lines = table(run.rows)
        stream.log({"rows": wandb.Table(columns=[*columns], data=[*lines])}, step=len(run.rows))
    if "results" in upload:
        _log_files(stream, f"results-{run.manifest.run_id}", "results", [*run.folder.glob("*.*l"), run.folder / "run.json"])
    if "weights" in upload:
        _log_files(stream, f"weights-{run.manifest.run_id}", "model", [*run.folder.glob("weights.pt")])


def log_figures(folder: Path, tracking: TrackingConfig) -> int:
    """The figures of a tier as images, with what they are drawn from as configuration, in one run of their own."""
    if "figures" not in tracking.upload:
        return 0
    index = json.loads((folder / "index.json").read_text())
    name, figures = f"figures-{index['tier']}", index["figures"]
    stream, status = _begin(tracking, {"id": name, "job_type": "figures", "tags": tracking.tags, "config": index})
    files = {"contact_sheet": index["contact_sheet"]} | {key: f"{key}.png" for key in figures}
    stream.log({f"figures/{key}": wandb.Image(str(folder / file), caption=key) for key, file in files.items()})
    _log_files(stream, name, "figures", [path for path in folder.iterdir() if path.is_file()])
    _finish(stream, "done")
    return status


def _finish(stream: wandb.Run, status: str) -> None:
    """Leaves one folder a run, W&B's mark where it arrived, and nothing of an interrupted offline run: it will be whole."""
    folder, is_offline = Path(stream.dir).parent, stream.offline
    stream.finish(exit_code=0 if status == "done" else 1)
    if not is_offline:
        next(folder.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    replaced = [other for other in folder.parent.glob(f"offline-run-*-{stream.id}") if not list(other.glob("*.synced"))]
    for other in replaced:
        if other != folder or status == "running":
            shutil.rmtree(other, ignore_errors=True)


def _log_files(stream: wandb.Run, name: str, kind: str, paths: Sequence[Path]) -> None:
    artifact = wandb.Artifact(name, type=kind)
    for path in paths:
        artifact.add_file(str(path), skip_cache=True, policy="immutable" if kind == "model" else "mutable")
    if paths:
        stream.log_artifact(artifact)


def _begin(tracking: TrackingConfig, about: Mapping[str, Any]) -> tuple[wandb.Run, int]:
    """Online where a key is there and W&B answers, or as WANDB_MODE says; else offline, the reason on stderr."""
    runs = Path(tracking.dir) / "wandb"
    before = set(runs.glob("run-*"))
    try:
        return _init(tracking, about), 0
    except wandb.Error as error:
        wandb.teardown()
        for begun in set(runs.glob(f"run-*-{about['id']}")) - before:
            shutil.rmtree(begun, ignore_errors=True)  # it holds nothing, and would be uploaded over what is whole
        print(str(error).splitlines()[0], file=sys.stderr)
        has_no_key = isinstance(error, UsageError) and "WANDB_MODE" not in os.environ
        return _init(tracking, {**about, "mode": "offline"}), 0 if has_no_key else AWAY


def _init(tracking: TrackingConfig, about: Mapping[str, Any]) -> wandb.Run:
    patience = tracking.limit_s / 3
    settings = wandb.Settings(**QUIET, init_timeout=patience, finish_timeout=patience, finish_timeout_raises=True)
    place: dict[str, Any] = {name: getattr(tracking, name) for name in ("project", "entity", "group", "dir")}
    return wandb.init(**place, name=about["id"], settings=settings, **about)


def _is_over(seconds: float, tracking: TrackingConfig) -> bool:
    """Whether the run ended within so many seconds; from then on this process lives no longer than its limit."""
    is_over = bool(select.select([sys.stdin], [], [], seconds)[0])
    if is_over:
        signal.setitimer(signal.ITIMER_REAL, tracking.limit_s)  # its signal ends the process, wherever it hangs
    return is_over


def main() -> int:
    """The command line."""
    folder, tracking = Path(sys.argv[1]), TrackingConfig(**json.loads(sys.argv[2]))
    os.nice(10)  # what is measured comes first
    local = Path(tracking.dir) / "wandb"
    local.mkdir(parents=True, exist_ok=True)
    with locked(local / f".{folder.name}.lock"):  # what logged an interrupted attempt may not have ended yet
        return log_run(folder, tracking) if (folder / "run.json").exists() else log_figures(folder, tracking)


if __name__ == "__main__":
    sys.exit(main())
