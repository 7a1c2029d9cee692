"""Where an interrupted training goes on: folders of torch.distributed.checkpoint, for any number of processes.

    checkpoints/step-000000120/{about.json, .metadata, __0_0.distcp, __1_0.distcp, …}

A checkpoint appears whole or not at all, and its about.json, written last, has the hashes of all that is in it. What it was
saved by, one process or several, makes no difference to who loads it: tensors have their parameter's name. It is untrusted
input like any other: nothing of it is unpickled but the few types of PyTorch's own index.
"""

import hashlib
import json
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.config import TrainConfig
from bench.distributed import gathered, is_first, rank, size, told
from bench.results import write_atomic
from models.lm import LM

FORMAT, VERSION = "ttt-bench training", 1
ABOUT, INDEX = "about.json", ".metadata"
MOMENTS = ("exp_avg", "exp_avg_sq")
# One that takes longer makes the next as much later.
WRITTEN_WITHIN_S = 0.5


class CorruptCheckpoint(ValueError):
    """A checkpoint cannot be read, or is another training's."""


@dataclass
class Checkpoints:
    """Those of one training, which ``of`` names; of several hosts, in a folder that they share.

    how: which to go on from, and how many to keep. every_s: seconds between two, more where they take long.
    """

    folder: Path
    of: str
    how: TrainConfig
    every_s: float

    def __post_init__(self) -> None:
        self.due = time.monotonic() + self.every_s

    def resume(self, lm: LM, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]] | None:
        """Steps done and log of the last checkpoint, which model and optimizer are set to; None where there is none.

        Raises:
            CorruptCheckpoint: it is damaged or another training's; with train.resume=last_intact, where all are.
        """
        found = told(lambda: _find(self.folder, self.of, self.how.resume))
        if found is None:
            return None
        path, about = found
        _read(path, lm, optimizer)
        return about["step"], about["log"]

    def save_if_due(self, lm: LM, optimizer: torch.optim.Optimizer, step: int, log: Callable[[], Any]) -> None:
        """Now and then, ``save``."""
        if told(lambda: time.monotonic() > self.due):
            self.save(lm, optimizer, step, log)

    def save(self, lm: LM, optimizer: torch.optim.Optimizer, step: int, log: Callable[[], Any]) -> None:
        """Writes all that goes on after ``step`` steps. log: makes what JSON holds."""
        began = time.monotonic()
        _write(self.folder / f"step-{step:09d}", lm, optimizer, {"of": self.of, "step": step, "log": log()}, self.how.keep)
        ended = time.monotonic()
        self.due = ended + self.every_s * max(1.0, (ended - began) / WRITTEN_WITHIN_S)


def _write(final: Path, lm: LM, optimizer: torch.optim.Optimizer, about: Mapping[str, Any], keep: int) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    temporary = final.with_name(f".{final.name}.tmp")
    told(lambda: _begin(temporary))
    with _plain(lambda why: RuntimeError(f"the checkpoint {final} cannot be written ({why})")):
        save(_tensors(lm, optimizer), storage_writer=FileSystemWriter(temporary), no_dist=size() == 1)
    own = [*temporary.glob(f"__{rank()}_*"), *([temporary / INDEX] if is_first() else [])]
    files = {name: digest for part in gathered({path.name: _digest(path) for path in own}) for name, digest in part.items()}
    told(lambda: _finish(temporary, final, {"format": FORMAT, "version": VERSION, **about, "files": files}, keep))


def _read(path: Path, lm: LM, optimizer: torch.optim.Optimizer) -> None:
    from torch.distributed.checkpoint.state_dict_loader import load

    _begin_state(optimizer)
    with _plain(lambda why: _refused(path, f"cannot be read ({why})")):
        load(_tensors(lm, optimizer), storage_reader=_reader(path), no_dist=size() == 1)


def _tensors(lm: LM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of a training by its name, not copied."""
    found = {}
    for name, p in lm.named_parameters():
        found[f"model.{name}"] = p.detach()
        found |= {f"optimizer.{name}.{key}": value for key, value in optimizer.state[p].items()}
    return found


def _begin_state(optimizer: torch.optim.Optimizer) -> None:
    """What AdamW has after its first step, for a checkpoint to fill."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            moments = {key: torch.zeros_like(p) for key in MOMENTS}
            optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}


def _begin(temporary: Path) -> None:
    for left in temporary.parent.glob(".*"):  # of a process that was killed
        shutil.rmtree(left)
    temporary.mkdir(parents=True)


def _finish(temporary: Path, final: Path, about: Mapping[str, Any], keep: int) -> None:
    write_atomic(temporary / ABOUT, json.dumps(about))
    _sync(temporary)
    if final.exists():  # known by its ``about`` to be no better: training came to this step again
        _remove(final)
    temporary.rename(final)
    _sync(final.parent)
    for old in _steps(final.parent)[:-keep]:
        _remove(old)


def _remove(path: Path) -> None:
    """Gone at once: what is half removed must not look like a damaged checkpoint."""
    shutil.rmtree(path.rename(path.with_name(f".{path.name}.old")))


def _sync(folder: Path) -> None:
    """What was made or renamed in a folder is on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _find(folder: Path, of: str, how: str) -> tuple[Path, dict[str, Any]] | None:
    refused: list[Path] = []
    for path in reversed(_steps(folder)):
        try:
            about = _checked(path, of)
        except CorruptCheckpoint:
            if how != "last_intact":
                raise
            refused.append(path)
        else:
            for later in refused:
                later.rename(later.with_name(f"refused-{later.name}"))
            return path, about
    if refused:
        raise CorruptCheckpoint(f"no checkpoint in {folder} is intact; delete that folder, and its training starts anew")
    return None


def _checked(path: Path, of: str) -> dict[str, Any]:
    """The checkpoint's about.json, where all of it is as it was written and it is of the training ``of``."""
    try:
        about = json.loads((path / ABOUT).read_text())
        named = about["format"], about["version"]
        if named != (FORMAT, VERSION):
            raise _refused(path, f"is of format {named}, not {(FORMAT, VERSION)}")
        if about["of"] != of:
            raise _refused(path, f"is another training's ({about['of'] or 'unnamed'}, not {of or 'unnamed'})")
        wrong = sorted(name for name, digest in about["files"].items() if _digest(path / name) != digest)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, CorruptCheckpoint):
            raise
        raise _refused(path, f"cannot be read ({type(error).__name__}: {error})") from error
    if wrong:
        raise _refused(path, f"is damaged: {', '.join(wrong)} is not what was written")
    return about


def _refused(path: Path, why: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"the checkpoint {path} {why}; train.resume=last_intact goes on from the one before it, "
        f"or delete the folder {path.parent}, and its training starts anew"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _plain(error_of: Callable[[str], Exception]) -> Iterator[None]:
    """Errors of PyTorch's checkpoints, which are no Exception, as such; without its remark that there is but one process.

    An interruption, which PyTorch takes for an error, stays one: it is no fault of the training.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
            yield
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            if not isinstance(cause, Exception):
                raise cause from None
        raise error_of(str(error)) from error


def _reader(path: Path) -> Any:
    """PyTorch's reader, but for the index, which it would unpickle whatever it holds."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

    class Reader(FileSystemReader):
        def read_metadata(self, *_args: Any, **_options: Any) -> Metadata:
            with (path / INDEX).open("rb") as file:
                metadata = _Index(file).load()
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(path)


class _Index(pickle.Unpickler):
    """Reads PyTorch's index: its own types of values, and nothing that does anything."""

    known = frozenset(
        {
            *(("torch", name) for name in ("Size", "float32", "float64", "bfloat16", "float16")),
            *(("pathlib", name) for name in ("Path", "PosixPath", "PurePosixPath")),
            ("torch.serialization", "_get_layout"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
                    *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"its index asks for {module}.{name}, code that would run")
        return super().find_class(module, name)
