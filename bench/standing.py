"""How a run stands: done, running, failed, oom, diverged, killed or to do, and why. Loads torch only where time is measured."""

import time
from dataclasses import dataclass
from pathlib import Path

from bench.config import RunConfig, identity, run_id
from bench.results import FAILURES, SETTLED, Again, Manifest, hash_of, hash_of_sources, is_held, read_manifest, read_run

# Of a sweep's cell that cannot be measured as its training did not succeed.
BLOCKED = "blocked"
BAD = (*FAILURES, BLOCKED)
ENDED = (*SETTLED, "stale", BLOCKED)


@dataclass(frozen=True)
class Standing:
    """How a run stands. ``is_left``: its next call has work to do.

    status: its manifest's; "to do" without one; "stale": done, by other sources; "running" only while a process is at work on
    it, else "killed". taken_s: seconds that it took so far.
    """

    name: str
    status: str
    is_left: bool
    cause: str = ""
    taken_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """It has not ended."""
        return self.status not in ENDED

    @property
    def plan(self) -> str:
        """The status, as far as the next call leaves it."""
        return "to do again" if self.is_left and not self.is_open else self.status


def identify(run: RunConfig) -> str:
    """Its run_id on this machine.

    Raises:
        NoDevice: it measures time on a device that is not here.
    """
    if not run.experiment.timing:
        return run_id(run, {})
    from bench import distributed  # torch
    from bench.hardware import device_name, versions

    measuring = {name: version for name, version in versions().items() if name in ("torch", "triton")}
    measuring |= {"processes": str(distributed.size())} if distributed.size() > 1 else {}
    return run_id(run, {"device": device_name(run.device.type)} | measuring)


def again(run: RunConfig) -> Again:
    """What the run's call repeats."""
    return Again(run.refresh, run.retry)


def find_settled(run: RunConfig) -> Manifest | None:
    """The manifest of an earlier call of this run that left nothing to do; None where there is work, or it is asked for again.

    Raises:
        CorruptResults: its files were damaged since: they are an error, not a result.
    """
    folder = Path(run.results) / run.experiment.name / identify(run)
    before = read_manifest(folder)
    if before is None or before.status not in SETTLED or again(run).covers(before, hash_of_sources()):
        return None
    return read_run(folder).manifest


def standing(run: RunConfig) -> Standing:
    """Of a run in its results folder; of one that measures time on a device that is not here, the latest so configured."""
    root = Path(run.results) / run.experiment.name
    folder = root / identify(run) if not run.experiment.timing or _has_device(run) else _latest(root, hash_of(identity(run)))
    return standing_of(folder, again(run)) if folder else Standing(f"{run.experiment.name}/?", "to do", is_left=True)


def _has_device(run: RunConfig) -> bool:
    from bench.hardware import NoDevice

    try:
        return bool(identify(run))
    except NoDevice:
        return False


def _latest(root: Path, config_hash: str) -> Path | None:
    found = [(manifest, path.parent) for path in root.glob("*/run.json") if (manifest := read_manifest(path.parent))]
    alike = [(manifest.started, folder) for manifest, folder in found if manifest.config_hash == config_hash]
    return max(alike)[1] if alike else None


def standing_of(folder: Path, repeated: Again | None = None) -> Standing:
    """Of the run in a folder, which need not exist."""
    name, manifest = f"{folder.parent.name}/{folder.name}", read_manifest(folder)
    if manifest is None:
        return Standing(name, "running" if is_held(folder) else "to do", is_left=True)
    if manifest.status == "running":
        return _unended(name, folder, manifest)
    is_left = manifest.status not in SETTLED or (repeated or Again()).covers(manifest, hash_of_sources())
    is_stale = manifest.status == "done" and manifest.sources != hash_of_sources()
    return Standing(name, "stale" if is_stale else manifest.status, is_left, manifest.cause, manifest.seconds)


def _unended(name: str, folder: Path, manifest: Manifest) -> Standing:
    if not is_held(folder):
        latest = read_manifest(folder)  # it may have ended between the two looks
        if latest != manifest:
            return standing_of(folder)
        return Standing(name, "killed", True, "its process died without a word; the next call goes on", manifest.seconds)
    attempt_s = time.time() - (folder / "run.json").stat().st_mtime
    return Standing(name, "running", True, taken_s=manifest.seconds + max(0.0, attempt_s))
