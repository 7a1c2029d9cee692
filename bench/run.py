"""One run from configuration to rows: finds what is done, resumes what is not, records how it ended.

Of several processes (bench/distributed.py) all come through here; the first finds, records and tells the others.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from hydra.utils import instantiate

from bench import distributed
from bench.checkpoints import CorruptCheckpoint
from bench.config import RunConfig, TrackingConfig, identity, record, run_id, training
from bench.hardware import OUT_OF_MEMORY, device_name, versions
from bench.lab import Lab, Unfinished
from bench.progress import Progress, silent
from bench.results import (
    FAILURES,
    SETTLED,
    At,
    Coordinate,
    Manifest,
    Recorder,
    Row,
    git_state,
    hash_of,
    hash_of_sources,
    is_asked_for,
    now,
    open_run,
    read_manifest,
    read_run,
)
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
    """The manifest that the run would begin with."""
    device, found = device_name(run.device.type), versions()
    git_sha, dirty = git_state()
    measuring = {"processes": str(distributed.size())} if distributed.size() > 1 else {}
    measuring |= {name: found[name] for name in ("torch", "triton") if name in found}
    return Manifest(
        run_id=run_id(run, {"device": device} | measuring),
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


def find(run: RunConfig) -> Manifest | None:
    """The manifest that an earlier call of this run left, if there is one and ``refresh`` does not ask to repeat it."""
    manifest = describe(run)
    before = read_manifest(_folder(run, manifest))
    return None if before is None or is_asked_for(before, manifest.sources, run.refresh) else before


def execute(run: RunConfig, progress: Progress = silent) -> Outcome:
    """Measures the run, or finds it done; trains its model first where it needs one.

    Raises:
        Busy: another process is at work on it.
        CorruptResults: it is done, and its files were damaged since.
        Anything that the measurement raises, after its status is recorded.
    """
    before = distributed.told(lambda: _settled(run))
    if before is not None:
        return Outcome(before, is_new=False)
    torch.set_num_threads(run.device.threads)
    manifest = describe(run)
    weights = _weights(run, progress)
    with distributed.shared(open_run(Path(run.results), manifest, record(run), run.refresh)) as recorder:
        if recorder.manifest.status in SETTLED:  # another process was faster
            return Outcome(recorder.manifest, is_new=False)
        tracking = run.tracking if distributed.is_first() else TrackingConfig()
        with tracked(recorder.folder, tracking, live=run.experiment.trains):
            _measure(Lab(run, recorder, weights, progress))
        return Outcome(recorder.manifest, is_new=True)


def _settled(run: RunConfig) -> Manifest | None:
    """``find``, where nothing is left to do."""
    before = find(run)
    if before is None or before.status not in SETTLED:
        return None
    read_run(_folder(run, before))  # rows that were damaged since are an error, not a result
    return before


def _weights(run: RunConfig, progress: Progress) -> Path | None:
    """Where the trained model of this run lies or will lie; trains it now where it is needed and is not there yet."""
    if run.experiment.trains:
        return _folder(run, describe(run)) / "weights.pt"
    if not run.experiment.trained:
        return None
    trains = training(run)
    trains.refresh = "stale" if run.refresh == "stale" else "none"
    manifest = execute(trains, lambda fraction, note="": progress(fraction, f"training first, {note}")).manifest
    if manifest.status != "done":
        raise NotTrained(f"{manifest.run_id} has no model to measure, its training {manifest.status}: {manifest.cause}")
    return _folder(trains, manifest) / "weights.pt"


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
    status = "diverged" if isinstance(error, Diverged) else "oom" if isinstance(error, OUT_OF_MEMORY) else "failed"
    cause = f"{type(error).__name__}: {error}"
    if not distributed.is_first():
        distributed.report(status, cause)
        return
    record_failure(lab.recorder, status, cause, lab.run, lab.here)


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
