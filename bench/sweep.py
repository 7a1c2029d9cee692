"""Sweeps of ``python -m bench -m …`` and of conf/sweep: their cells, what became of each, and what is told of them.

    results/runs/.multirun/<moment>/multirun.yaml, <config hash>.json: what was swept; how a job of it ended

A cell is a run, known by its configuration and never by its job's number: a sweep that is repeated finds what is done, whatever
launcher runs it. Every cell is measured in a process of its own, so that one that dies costs no other.
"""

import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from bench.compose import compose_runs
from bench.config import CONF, ConfigError, RunConfig, identity
from bench.display import shown
from bench.overrides import check_keys, expand
from bench.pool import Pool
from bench.progress import Board, Job, Message, label_of
from bench.results import CorruptResults, hash_of, write_atomic
from bench.secrets import without_secrets
from bench.standing import BAD, Standing, find_settled, standing
from bench.survey import Cell, causes, cells, sum_of, table
from bench.tracking.process import check

Labelled = list[tuple[str, RunConfig]]
# Launchers of Hydra that run several cells at once on one machine.
SHARING = ("joblib", "submitit_local")


def sweep_names() -> list[str]:
    """The sweeps that conf/ knows."""
    return sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))


def cells_of(name: str, overrides: Sequence[str] = ()) -> Labelled:
    """The cells of conf/sweep/``name``, ``overrides`` added, each with the words that tell it from the others.

    Raises:
        ConfigError: a choice or a value is not possible.
    """
    check_keys(overrides)
    told = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())
    return _labelled(told["hydra"]["sweeper"]["params"], [f"sweep={name}", *overrides])


def cells_in(folder: Path) -> Labelled:
    """The cells of a sweep by its folder."""
    hydra = yaml.safe_load((folder / "multirun.yaml").read_text())["hydra"]
    return _labelled(hydra["sweeper"]["params"] or {}, hydra["overrides"]["task"])


def _labelled(params: Mapping[str, Any], overrides: Sequence[str]) -> Labelled:
    jobs = expand([*(f"{key}={value}" for key, value in params.items()), *overrides])
    same = set.intersection(*(set(job) for job in jobs))
    runs = compose_runs(jobs)
    words = [" ".join(word for word in job if word not in same) for job in jobs]
    return [(told or label_of(run), run) for told, run in zip(words, runs, strict=True)]


@dataclass(frozen=True)
class Ended:
    """How a job of a sweep ended; status: a manifest's, or blocked, busy or skipped. when: seconds since the epoch."""

    status: str
    cause: str = ""
    when: float = 0.0

    def write(self, folder: Path, run: RunConfig) -> None:
        """Leaves it in the sweep's folder."""
        write_atomic(_file(folder, run), json.dumps({"status": self.status, "cause": without_secrets(self.cause)}) + "\n")


def ended(folder: Path, run: RunConfig) -> Ended | None:
    """How the run's job ended, if it has."""
    path = _file(folder, run)
    return Ended(**json.loads(path.read_text()), when=path.stat().st_mtime) if path.exists() else None


def _file(folder: Path, run: RunConfig) -> Path:
    return folder / f"{hash_of(identity(run))}.json"


def as_they_stand(labelled: Labelled, folder: Path, timed: bool = True) -> list[Cell]:
    """Cells of the sweep in ``folder``; where how its job ended is the latest news, that is told. timed: as for ``cells``."""
    by_label = dict(labelled)
    return [replace(cell, standing=_overlaid(cell.standing, by_label[cell.label], folder)) for cell in cells(labelled, timed)]


def _overlaid(one: Standing, run: RunConfig, folder: Path) -> Standing:
    """What raised before there was a run to record it in is known from its job alone."""
    end, manifest = ended(folder, run), Path(run.results) / one.name / "run.json"
    if end is None or end.status not in BAD or one.status == "running":
        return one
    is_later = not manifest.exists() or manifest.stat().st_mtime <= end.when
    return replace(one, status=end.status, cause=end.cause) if is_later else one


def run_cell(run: RunConfig, folder: Path, is_watched: bool) -> Ended:
    """Measures a cell of the sweep in ``folder``, or finds it settled; tells how it ended, and raises nothing that a run does.

    is_watched: its progress is shown.
    """
    end = _known(run) or _skipped(run, folder) or _measured(run, is_watched)
    if end.status != "busy":  # of a cell that is there twice, what its other job says
        end.write(folder, run)
    cause = f" ({end.cause})" if end.cause else ""
    print(f"{end.status:8} {label_of(run)}: {run.results}/{standing(run).name}{cause}", flush=True)
    return end


def _known(run: RunConfig) -> Ended | None:
    """How it stands where there is nothing to do: told without a process. What measures time is known by its device, in one."""
    if run.experiment.timing:
        return None
    try:
        before = find_settled(run)
    except CorruptResults as error:
        return Ended("failed", f"{type(error).__name__}: {error}")
    if before is None and standing(run).status == "running":
        return Ended("busy", "another process is at work on it")
    return None if before is None else Ended(before.status, before.cause)


def _skipped(run: RunConfig, folder: Path) -> Ended | None:
    ends = [json.loads(path.read_text())["status"] for path in folder.glob("*.json")] if run.fail_fast else []
    failed = [status for status in ends if status in BAD]
    return Ended("skipped", f"fail_fast: {len(failed)} cell{'s' * (len(failed) > 1)} failed") if failed else None


def _measured(run: RunConfig, is_watched: bool) -> Ended:
    last = Message(0)
    with shown(Board([Job(label_of(run))])) if is_watched else nullcontext(_say) as show:
        for last in Pool([run], [None], 1).run():
            if not last.status:
                show(last)
    if last.status == "killed":
        from bench.run import record_killed  # torch

        record_killed(run, last.cause)
    return Ended(last.status, last.cause)


def _say(message: Message) -> None:
    if message.said:
        print(message.said, file=sys.stderr, flush=True)


class Telling(Callback):
    """What Hydra calls where a sweep begins and ends: checks and counts its cells; in the end tells how they stand."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Ends the process where a cell is not possible, or where ``dry`` only asks which there are."""
        with _in_earnest():
            self._start(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Ends the process with 1 where a cell did not end well."""
        with _in_earnest():
            self._end(Path(config.hydra.sweep.dir))

    def _start(self, config: DictConfig) -> None:
        hydra = OmegaConf.to_container(config.hydra, resolve=False)
        assert isinstance(hydra, dict)
        self.labelled = labelled = _labelled(hydra["sweeper"]["params"] or {}, hydra["overrides"]["task"])
        _check(labelled, config.hydra.runtime.choices["hydra/launcher"])
        found = cells(labelled, timed=labelled[0][1].dry)
        if labelled[0][1].dry:
            print(table(found, plan=True))
            print("dry=true: nothing was run")
            sys.exit(0)
        print(f"{sum_of(found, plan=True)}\npython -m bench.status {config.hydra.sweep.dir} tells how they stand", flush=True)

    def _end(self, folder: Path) -> None:
        found = as_they_stand(self.labelled, folder, timed=False)
        print(*causes(found), sum_of(found), sep="\n")
        if any(cell.standing.status in BAD for cell in found):
            sys.exit(1)


@contextmanager
def _in_earnest() -> Iterator[None]:
    """Ends the process by what is raised, of which Hydra would only warn."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        from bench.errors import EXPECTED  # torch

        if not isinstance(error, EXPECTED):
            traceback.print_exc()
        sys.exit(f"error: {error}")


def _check(labelled: Labelled, launcher: str) -> None:
    check(labelled[0][1].tracking)
    timing = sorted({run.experiment.name for _, run in labelled if run.experiment.timing})
    if timing and launcher in SHARING:
        raise ConfigError(f"experiment={timing[0]} measures time, so no cell may run beside it on one machine: launcher=local")
