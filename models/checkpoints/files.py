"""Files of tensors and of JSON, as untrusted input: no code of theirs ever runs, and no path of theirs leaves their folder.

config.json + model.safetensors | pytorch_model.bin | <one>.safetensors, .bin or .pt
            | model.safetensors.index.json | pytorch_model.bin.index.json    (shards)
"""

import importlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from models.checkpoints.config import CheckpointError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
NAMES = (WEIGHTS, "pytorch_model.bin")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def optional(package: str) -> ModuleType:
    """A package of the extra ``weights``.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise CheckpointError(f"{package} is not installed; `pip install {package}`, or `make setup EXTRAS=weights`") from error


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return found


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's weights, of all shards.

    Raises:
        CheckpointError: there are none, or a file is damaged, or not what its name says.
    """
    for name in NAMES:
        if (folder / name).is_file():
            return read_file(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder / f"{name}.index.json", Path(name).suffix)
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(f"{folder} should hold {NAMES[0]} or {NAMES[1]}, or one file of weights; it holds {listed}")
    return read_file(found[0])


def _read_shards(index: Path, suffix: str) -> dict[str, Tensor]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    if odd := sorted({name for name in where.values() if Path(name).name != name or Path(name).suffix != suffix}):
        raise CheckpointError(f"{index} names {', '.join(map(repr, odd))}; a shard is a {suffix} file beside it")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(where.values())):
        tensors |= read_file(index.with_name(name))
    if absent := sorted(where.keys() - tensors.keys()):
        raise CheckpointError(f"{index} names tensors that its files lack: {', '.join(absent)}")
    return tensors


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one .safetensors file, or of a file of torch.save.

    Raises:
        CheckpointError: it is damaged, or not what its name says, or would run code.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    found = read_saved(path)
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise CheckpointError(f"{path} holds no tensors by name alone; save the model's state_dict() by itself")
    return found


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    library = optional("safetensors")
    try:
        return optional("safetensors.torch").load_file(path)
    except (OSError, library.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error})") from error


def read_saved(path: Path) -> Any:
    """What torch.save wrote, of tensors and plain values only.

    Raises:
        CheckpointError: it is missing, truncated or damaged, or holds anything else, which would run code.
    """
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} cannot be read: more than tensors is in it, code that would run{_said(error)}"
        ) from error
    except (OSError, BadZipFile, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def _check_archive(path: Path) -> None:
    """Raises BadZipFile where a tensor was damaged, which torch.load would not notice, or where torch.save did not write it."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise BadZipFile("no archive of torch.save; a plain pickle is not read, as it may run code")
    with ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(f"{damaged} in it is damaged")


def _said(error: Exception) -> str:
    """The name that torch refuses to look up, without its advice how to have it looked up all the same."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" ({found[1]})" if found else ""


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """config.json and model.safetensors, whose metadata is what Hugging Face's loader asks for."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    optional("safetensors.torch").save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets only its writer read it
