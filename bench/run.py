"""One run from configuration to rows: finds what is done, resumes what is not, records how it ended.

Of several processes (bench/distributed.py) all come through here; the first finds, records and tells the others.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from hydra.utils import instantiate

from bench import distributed
from bench.build import prepare
from bench.checkpoints import CorruptCheckpoint
from bench.config import RunConfig, TrackingConfig, identity, record, training
from bench.hardware import OUT_OF_MEMORY, device_name, versions
from bench.lab import Lab
from bench.progress import Progress, Unfinished, silent
from bench.results import (
    FAILURES,
    SETTLED,
    Again,
    At,
    Busy,
    Coordinate,
    Manifest,
    Recorder,
    Row,
    git_state,
    hash_of,
    hash_of_sources,
    now,
    open_run,
)
from bench.standing import BLOCKED, again, find_settled, identify
from bench.tracking.process import tracked
from bench.train import Diverged


class NotTrained(RuntimeError):
    """A measurement needs a model whose training did not succeed."""


@dataclass(frozen=True)
class Outcome:
    """How a run stands: its manifest, and whether this call measured anything."""

    manifest: Manifest
    is_new: bool

    @property
    def is_stale(self) -> bool:
        """Made from other sources than those here."""
        return self.manifest.sources != hash_of_sources()


def describe(run: RunConfig) -> Manifest:
    """The manifest that the run would begin with.

    Raises:
        NoDevice: its device is not here.
    """
    device, found = device_name(run.device.type), versions()
    git_sha, dirty = git_state()
    return Manifest(
        run_id=identify(run),
        experiment=run.experiment.name,
        config_hash=hash_of(identity(run)),
        git_sha=git_sha,
        dirty=dirty,
        sources=hash_of_sources(),
        versions=found,
        device=device,
        seed=run.seed,
        started=now(),
    )


def execute(run: RunConfig, progress: Progress = silent, wait: bool = False) -> Outcome:
    """Measures the run, or finds it settled; trains its model first where it needs one.

    wait: for another process that is at work on it. That of its training is waited for anyway.

    Raises:
        Busy: another process is at work on it.
        Unfinished: max_minutes ended in the training that it needs; the next call goes on.
        CorruptResults: it is settled, and its files were damaged since.
        Anything that the measurement raises, after its status is recorded.
    """
    before = distributed.told(lambda: find_settled(run))
    if before is not None:
        return Outcome(before, is_new=False)
    torch.set_num_threads(run.device.threads)
    manifest, start = describe(run), None
    if run.experiment.trains and (first := prepare(run).first) is not None:
        trained, start = _trained(first.run, run, progress)
        manifest = replace(manifest, seconds=trained.seconds)  # the FLOPs of this run are those of both stages
    weights = _weights(run, progress)
    with distributed.shared(open_run(Path(run.results), manifest, record(run), again(run), wait)) as recorder:
        if recorder.manifest.status in SETTLED:  # another process was faster
            return Outcome(recorder.manifest, is_new=False)
        tracking = run.tracking if distributed.is_first() else TrackingConfig()
        with tracked(recorder.folder, tracking, live=run.experiment.trains):
            _measure(Lab(run, recorder, weights, progress, start))
        return Outcome(recorder.manifest, is_new=True)


def _weights(run: RunConfig, progress: Progress) -> Path | None:
    """Where the trained model of this run lies or will lie; trains it now where it is needed and is not there yet."""
    if run.experiment.trains:
        return _folder(run, describe(run)) / "weights.pt"
    if not run.experiment.trained:
        return None
    return _trained(training(run), run, progress)[1]


def _trained(trains: RunConfig, asked_by: RunConfig, progress: Progress) -> tuple[Manifest, Path]:
    """How a training that another run needs went, and its weights; it is done now where it is not yet."""
    trains.refresh, began = "stale" if asked_by.refresh == "stale" else "none", time.monotonic()
    manifest = execute(trains, lambda fraction, note="": progress(fraction, f"training first, {note}"), wait=True).manifest
    if asked_by.max_minutes is not None:
        asked_by.max_minutes -= (time.monotonic() - began) / 60
    if manifest.status == "partial":
        raise Unfinished(f"{manifest.run_id}, which it needs, is not trained to the end: {manifest.cause}")
    if manifest.status != "done":
        raise NotTrained(f"{manifest.run_id} has no model, its training {manifest.status}: {manifest.cause}")
    return manifest, _folder(trains, manifest) / "weights.pt"


def _folder(run: RunConfig, manifest: Manifest) -> Path:
    return Path(run.results) / manifest.experiment / manifest.run_id


def _measure(lab: Lab) -> None:
    try:
        experiment = instantiate(lab.run.experiment.measure)
        lab.recorder.manifest = replace(lab.recorder.manifest, flops=float(experiment.flops(lab.prepared)))
        if lab.run.experiment.spread or distributed.is_first():
            with distributed.watched(lambda status, cause: record_failure(lab.recorder, status, cause, lab.run, {})):
                for row in experiment.measure(lab):
                    lab.recorder.write(row)
    except (CorruptCheckpoint, distributed.Uneven):
        raise  # a damaged file, or the number of processes, says nothing of the run, which stays as it was
    except Unfinished as stop:
        lab.recorder.finish("partial", str(stop))
        return
    except Exception as error:
        if not distributed.is_loss(error):  # which says nothing of the run either
            _fail(lab, error)
        raise
    lab.recorder.finish("done")


def _fail(lab: Lab, error: Exception) -> None:
    status = status_of(error)
    cause = f"{type(error).__name__}: {error}"
    if not distributed.is_first():
        distributed.report(status, cause)
        return
    record_failure(lab.recorder, status, cause, lab.run, lab.here)


def status_of(error: Exception) -> str:
    """How a call of ``execute`` that raised this ended."""
    named = {Diverged: "diverged", NotTrained: BLOCKED, Busy: "busy", Unfinished: "partial"} | dict.fromkeys(
        OUT_OF_MEMORY, "oom"
    )
    return next((status for kind, status in named.items() if isinstance(error, kind)), "failed")


def record_failure(recorder: Recorder, status: str, cause: str, run: RunConfig, here: At) -> None:
    """Leaves the status and a row, at the coordinates ``here`` where they are known, that figures show: never a silent gap."""
    assert status in FAILURES
    at: dict[str, Coordinate] = {
        "model": run.model.name,
        "backbone": run.model.backbone,
        "size": run.size.name,
        "seed": run.seed,
    }
    recorder.write(Row(metric="failure", value=1.0, unit="1", at={**at, **here}))
    recorder.finish(status, cause)


def record_killed(run: RunConfig, cause: str) -> None:
    """What ``record_failure`` leaves, of a run whose process died."""
    with open_run(Path(run.results), describe(run), record(run), Again(retry="none")) as recorder:
        if recorder.manifest.status not in SETTLED:  # it may have died when all was done
            attempts = max(1, recorder.manifest.attempts - 1)  # to record a death is no attempt
            recorder.manifest = replace(recorder.manifest, attempts=attempts)
            record_failure(recorder, "killed", cause, run, {})
