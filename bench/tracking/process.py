"""One process a run that speaks to W&B (log.py): started beside a training, after anything else, and waited for so long.

Whatever becomes of it, the run goes on: a note on stderr says so, once, and what follows in this process is logged offline.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from bench.config import ConfigError, TrackingConfig
from bench.results import ROOT

# The thread that waits for a process which was left to itself.
LEFT = "left tracking"


def check(tracking: TrackingConfig) -> None:
    """Raises ConfigError where W&B is asked for and not installed."""
    found = None if tracking.name == "none" else find_spec("wandb")
    if tracking.name != "none" and (found is None or found.origin is None):  # without origin: a folder of that name
        raise ConfigError(f"tracking={tracking.name} needs wandb, which is not installed: make setup EXTRAS=reports")


@contextmanager
def tracked(folder: Path, tracking: TrackingConfig, live: bool = False) -> Iterator[None]:
    """Logs the run in ``folder``, which the block measures: from now on where ``live``, else when the block has ended.

    An interrupted block waits for nothing; what was live then ends by itself.
    """
    if tracking.name == "none":
        yield
        return
    process = _start(folder, tracking) if live else None
    try:
        yield
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):
            _finish(process, tracking) if live else track(folder, tracking)
        elif process is not None:
            process.leave()


def track(folder: Path, tracking: TrackingConfig) -> bool:
    """Logs a run that has ended, or a tier's figures; whether it did what is asked for."""
    return tracking.name == "none" or _finish(_start(folder, tracking), tracking)


@dataclass(frozen=True)
class _Process:
    process: subprocess.Popen[bytes]
    stdin: IO[bytes]
    errors: IO[bytes]

    def leave(self) -> None:
        """Tells it that there is no more to come, and goes on."""
        self.stdin.close()
        self.errors.close()
        threading.Thread(
            target=self.process.wait, name=LEFT, daemon=True
        ).start()  # where this process lives on, its end is noticed

    def end(self, limit_s: float) -> str:
        """Tells it that there is no more to come, and waits; what went wrong, empty where it logged as was asked."""
        self.stdin.close()
        with self.errors:
            try:
                status = self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return f"it did not end within {limit_s:g} s"
            self.errors.seek(0)
            told = self.errors.read().decode(errors="replace").strip().splitlines()
        return "" if status == 0 else told[-1].strip(".") if told else f"its process ended with exit code {status}"


def _start(folder: Path, tracking: TrackingConfig) -> _Process | None:
    local = Path(tracking.dir).resolve()
    words = [str(folder.resolve()), json.dumps(asdict(replace(tracking, dir=str(local))))]
    try:
        local.mkdir(parents=True, exist_ok=True)
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process's end
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.tracking.log", *words],
            cwd=ROOT,
            env=_environment(local),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is the run's
        )
    except OSError as error:
        _trouble(str(error))
        return None
    assert process.stdin is not None
    return _Process(process, process.stdin, errors)


def _finish(begun: _Process | None, tracking: TrackingConfig) -> bool:
    if begun is None:
        return False
    trouble = begun.end(tracking.limit_s)
    return not trouble or _trouble(trouble)


def _environment(local: Path) -> dict[str, str]:
    """W&B keeps what it stages beside its runs, not in the user's home, and reports no errors to its makers."""
    ours = {"WANDB_DATA_DIR": local / "wandb", "WANDB_CACHE_DIR": local / "wandb" / "cache", "WANDB_ERROR_REPORTING": "false"}
    return {**{name: str(value) for name, value in ours.items()}, **os.environ}


def _trouble(cause: str) -> bool:
    os.environ["WANDB_MODE"] = "offline"
    _note(f"note: W&B failed: {cause}. Runs are whole without it; make wandb-sync uploads what it kept")
    return False


@cache
def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
