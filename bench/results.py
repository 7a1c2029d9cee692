"""Rows and the folders that hold them: the only writer of results/. No torch here.

    results/runs/<experiment>/<run_id>/{config.yaml, run.json, rows.jsonl}     published: rows.jsonl.gz where rows are many

A run is identified by the hash of what produced it. It is done when run.json says so; everything else may be resumed.
results/README.md is the schema.
"""

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import IO, Any

import yaml

from bench.secrets import without_secrets

ROOT = Path(__file__).resolve().parent.parent
PACKED = "rows.jsonl.gz"
PUBLISHED = ROOT / "results" / "published"
FAILURES = ("failed", "oom", "diverged", "killed")
# Statuses that a second call does not change by itself, but where ``refresh`` or ``retry`` ask for it.
SETTLED = ("done", "failed", "diverged", "oom")
# What each word of ``retry`` begins anew: a failure may be mended by now; memory would be short, and a loss diverge, again.
RETRIES = {"none": (), "failed": ("failed",), "oom": ("failed", "oom"), "all": ("failed", "oom", "diverged")}
# Statuses from which a second call goes on, and metrics of rows that only say how it stands until then.
UNFINISHED = ("running", "killed", "partial")
PROVISIONAL = ("failure", "not_run")

Coordinate = int | float | str
At = Mapping[str, Coordinate]


class CorruptResults(ValueError):
    """A results folder does not hold what it claims."""


class Busy(RuntimeError):
    """Another process is at work on the same run."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number: ``value`` in ``unit`` at coordinates ``at``, with every raw sample behind it."""

    metric: str
    value: float
    unit: str
    at: At
    samples: tuple[float, ...] = ()

    def to_json(self) -> str:
        """One line."""
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """The inverse of ``to_json``."""
        fields = json.loads(line)
        return cls(**{**fields, "samples": tuple(fields["samples"])})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """run.json: what produced a run, when, and how it ended.

    ``config_hash`` names the configuration; ``run_id`` also covers the device and versions where times are measured.
    ``sources`` is the hash of the code; ``attempts`` counts the times the run was begun; ``seconds`` adds them all up, of one
    that died without a word as far as what it wrote tells; ``flops`` is what the planner counts for it; ``rows`` how many it
    had when it ended.
    """

    run_id: str
    experiment: str
    config_hash: str
    git_sha: str
    dirty: bool
    sources: str
    versions: Mapping[str, str]
    device: str
    seed: int
    started: str
    seconds: float = 0.0
    flops: float = 0.0
    rows: int = 0
    status: str = "running"
    attempts: int = 1
    cause: str = ""


@dataclass(frozen=True)
class Run:
    """A run read back: its manifest, its resolved configuration and its rows."""

    manifest: Manifest
    config: Mapping[str, Any]
    rows: tuple[Row, ...]
    folder: Path
    published: bool


@dataclass
class Recorder:
    """The open folder of one run, locked; made by ``open_run``."""

    folder: Path
    manifest: Manifest
    rows: list[Row] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def write(self, row: Row) -> None:
        """Appends a row, on disk when this returns."""
        with (self.folder / "rows.jsonl").open("a") as file:
            file.write(row.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)

    def has(self, metric: str, **at: Coordinate) -> bool:
        """Whether a row of this metric at these coordinates is there already (of an interrupted attempt, say)."""
        return any(r.metric == metric and all(r.at.get(k) == v for k, v in at.items()) for r in self.rows)

    def finish(self, status: str, cause: str = "") -> None:
        """Sets the final status, in one atomic replacement of run.json."""
        seconds = self.manifest.seconds + time.monotonic() - self.began
        cause = without_secrets(cause)
        self.manifest = replace(self.manifest, status=status, cause=cause, seconds=round(seconds, 3), rows=len(self.rows))
        write_manifest(self.folder, self.manifest)


@dataclass(frozen=True)
class Again:
    """Which runs that ended a call repeats: refresh (none | stale | all), retry (a word of RETRIES)."""

    refresh: str = "none"
    retry: str = "failed"

    def covers(self, before: Manifest, sources: str) -> bool:
        """Whether a run that ended so, made by its own sources, is begun anew by the code of ``sources``."""
        is_refreshed = self.refresh == "all" or (self.refresh == "stale" and before.sources != sources)
        return is_refreshed or before.status in RETRIES[self.retry]


class Follower(Recorder):
    """Of a process that takes part in a run which another one records: it keeps rows to itself."""

    def write(self, row: Row) -> None:
        self.rows.append(row)

    def finish(self, status: str, cause: str = "") -> None:
        self.manifest = replace(self.manifest, status=status, cause=cause)


@contextmanager
def open_run(
    root: Path, manifest: Manifest, config: Mapping[str, Any], again: Again | None = None, wait: bool = False
) -> Iterator[Recorder]:
    """Locks the run's folder and opens it for writing, or goes on where an interrupted attempt of the same code stopped.

    The lock dies with the process, kill -9 included. What other code left unfinished is begun anew. What is settled comes back
    as it is, unless ``again`` covers it and no other process settled it just now. wait: for a process that holds it.

    Raises:
        Busy: another process holds the run.
    """
    folder = root / manifest.experiment / manifest.run_id
    folder.mkdir(parents=True, exist_ok=True)
    known = read_manifest(folder)
    with (folder / ".lock").open("w") as lock:
        _lock(lock, manifest.run_id, wait)
        before = read_manifest(folder)
        is_repeated = before == known and before is not None and (again or Again()).covers(before, manifest.sources)
        if before is not None and before.status in SETTLED and not is_repeated:
            yield Recorder(folder, before, list(_read_rows(folder)))
            return
        recorder = _resume(folder, before, manifest) or _begin(folder, manifest, config)
        write_manifest(folder, recorder.manifest)
        yield recorder


def _lock(lock: IO[str], run_id: str, wait: bool) -> None:
    """Raises Busy where another process holds it for longer than a look of is_held takes."""
    for pause_s in (0.05, None):
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            if pause_s is None:
                raise Busy(f"{run_id} is being measured by another process; wait for it or stop it") from error
            time.sleep(pause_s)
    return None


def is_held(folder: Path) -> bool:
    """Whether a process is at work on a run's folder."""
    path = folder / ".lock"
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _resume(folder: Path, before: Manifest | None, manifest: Manifest) -> Recorder | None:
    if before is None or before.status not in UNFINISHED or before.sources != manifest.sources:
        return None
    seconds = before.seconds + (_lived_s(folder) if before.status == "running" else 0.0)
    rows = [row for row in _read_rows(folder, whole=False) if row.metric not in PROVISIONAL]
    write_atomic(folder / "rows.jsonl", "".join(row.to_json() + "\n" for row in rows))
    kept = replace(manifest, attempts=before.attempts + 1, started=before.started, seconds=round(seconds, 3))
    return Recorder(folder, kept, rows)


def _lived_s(folder: Path) -> float:
    """Of an attempt that died without a word: from its beginning to its last row or checkpoint."""
    written = [path.stat().st_mtime for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return max(written) - (folder / "run.json").stat().st_mtime


def _begin(folder: Path, manifest: Manifest, config: Mapping[str, Any]) -> Recorder:
    for old in folder.iterdir():
        if old.name != ".lock":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    write_atomic(folder / "config.yaml", yaml.safe_dump(without_secrets(config), sort_keys=True))
    return Recorder(folder, manifest)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock file, and holds it; a lock dies with its process, kill -9 included."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """run.json, atomically."""
    write_atomic(folder / "run.json", json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where there is no run.json.

    Raises:
        CorruptResults: run.json is not a manifest.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        return Manifest(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise CorruptResults(f"{path} is not a manifest ({error}); delete the folder {folder} and run it again") from error


def _read_rows(folder: Path, whole: bool = True) -> Iterator[Row]:
    """Rows of a folder; of one that is not ``whole``, without a last line that is being written or that a kill cut short."""
    path = folder / "rows.jsonl"
    text = path.read_text() if path.exists() else _unpacked(folder / PACKED)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n") and not whole:
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            yield Row.from_json(line)
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise CorruptResults(
                f"{path}, line {number} is not a row ({error}): it is damaged; delete the folder {folder} and run it again"
            ) from error


def pack_rows(folder: Path) -> None:
    """Puts rows.jsonl.gz, the same to the byte, in the place of a folder's rows.jsonl."""
    path = folder / "rows.jsonl"
    (folder / PACKED).write_bytes(gzip.compress(path.read_bytes(), mtime=0))  # the same rows, the same file
    path.unlink()


def _unpacked(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode() if path.exists() else ""
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptResults(f"{path} is damaged ({error}); restore it, or delete the folder {path.parent}") from error


def read_run(folder: Path, published: bool = False) -> Run:
    """One run's folder.

    Raises:
        CorruptResults: a file of it is missing, truncated or not what it should be.
    """
    manifest = read_manifest(folder)
    if manifest is None or not (folder / "config.yaml").exists():
        raise CorruptResults(f"{folder} lacks run.json or config.yaml; delete it and run it again")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    has_ended = manifest.status != "running"
    rows = tuple(_read_rows(folder, whole=has_ended))
    if has_ended and len(rows) != manifest.rows:
        raise CorruptResults(
            f"{folder / 'rows.jsonl'} holds {len(rows)} rows of {manifest.rows}: it is damaged; "
            f"delete the folder {folder} and run it again"
        )
    return Run(manifest, config, rows, folder, published)


def read_runs(roots: Iterable[Path]) -> list[Run]:
    """Every run below ``roots``, in the order of their paths."""
    found = []
    for root in roots:
        published = root.resolve() == PUBLISHED
        found += [read_run(path.parent, published) for path in sorted(root.glob("*/*/run.json"))]
    return found


def read_done(roots: Iterable[Path]) -> list[Run]:
    """Every done run below ``roots``, without its rows: quick, and no matter what others write there meanwhile."""
    found = []
    for root in roots:
        for path in sorted(root.glob("*/*/run.json")):
            manifest = read_manifest(path.parent)
            if manifest is not None and manifest.status == "done":
                with suppress(FileNotFoundError):  # it is being begun again
                    config = yaml.safe_load((path.parent / "config.yaml").read_text())
                    found.append(Run(manifest, config, (), path.parent, root.resolve() == PUBLISHED))
    return found


def hash_of(value: Any) -> str:
    """Eight hexadecimal digits that name a JSON-like value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


@cache
def hash_of_sources(root: Path = ROOT) -> str:
    """Names the code that a measurement depends on: kernels/, models/ and bench/, without tests and what only draws."""
    digest = hashlib.sha256()
    for package in ("kernels", "models", "bench"):
        for path in sorted((root / package).rglob("*.py")):
            part = path.relative_to(root)
            if not {"tests", "figures", "report"} & set(part.parts):
                digest.update(f"{part}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


@cache
def git_state(root: Path = ROOT) -> tuple[str, bool]:
    """Commit and whether tracked files differ: as TTT_BENCH_COMMIT says, of a copy say; else git; else ("unknown", True)."""
    if told := os.environ.get("TTT_BENCH_COMMIT"):
        return told, False

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
