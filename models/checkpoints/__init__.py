"""Weights in and out, one file per origin: a config.json that the origin claims, and names and layouts of its tensors.

``read`` takes a folder of any of them, or a streaming checkpoint of the authors' JAX code; ``write`` makes a folder.
"""

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints import llama, mamba, ours, ttt, ttt_jax
from models.checkpoints.architecture import Architecture, Checkpoint, Origin
from models.checkpoints.config import CheckpointError, Config, values
from models.checkpoints.files import CONFIG, SUFFIXES, read_json, read_tensors, write_folder
from models.checkpoints.places import Place, export, fill, misfits
from models.lm import LM

ORIGINS: Mapping[str, Origin] = {"ours": ours, "ttt": ttt, "mamba": mamba, "llama": llama}


def read(path: Path, impl: str | None = None) -> Checkpoint:
    """The model at ``path``, on the CPU; ``impl``: see ``Architecture.build``.

    Raises:
        CheckpointError: there is none, or it is damaged, not what it claims, or what our models are not.
        SizeError: its sizes make no model.
    """
    if stream := _stream(path):
        tensors = ttt_jax.read(stream)
        about = ttt.architecture(ttt_jax.config_of(tensors))
        return Checkpoint(about, assemble(about, ttt_jax.NAMES.places, tensors, impl), "ttt (JAX)", remarks=ttt_jax.REMARKS)
    config = read_json(path / CONFIG)
    name = origin_of(config)
    origin = ORIGINS[name]
    about = origin.architecture(config)
    tensors = {key: tensor for key, tensor in read_tensors(path).items() if not key.endswith(origin.IGNORED)}
    return Checkpoint(
        about,
        assemble(about, origin.places, tensors, impl),
        name,
        tokenizer=_said(config, str, "tokenizer"),
        train_context=_said(config, int, "train_context", "max_position_embeddings"),
        remarks=origin.remarks(config),
    )


def _stream(path: Path) -> Path | None:
    """The streaming checkpoint that ``path`` is, or is the folder of; None for the folder of another checkpoint."""
    if not path.exists():
        raise CheckpointError(f"there is no {path}")
    if path.is_file() and path.suffix not in SUFFIXES:
        return path
    if (path / CONFIG).is_file():
        return None
    found = sorted(path.glob(ttt_jax.FILES))
    if len(found) != 1:
        known = f"a folder with {CONFIG} and weights, or one file {ttt_jax.FILES}"
        raise CheckpointError(f"{path} is no checkpoint; that is {known}")
    return found[0]


def _said(config: Config, kind: type, *keys: str) -> Any:
    """The first of ``keys`` that the config has, None if none."""
    said = [key for key in keys if config.get(key) is not None]
    return values(config, {said[0]: kind})[said[0]] if said else None


def origin_of(config: Config) -> str:
    """Whose a config.json is.

    Raises:
        CheckpointError: nobody's.
    """
    for name, origin in ORIGINS.items():
        if origin.claims(config):
            return name
    said = f"model_type '{config['model_type']}'" if "model_type" in config else "no model_type"
    raise CheckpointError(f"{CONFIG} has {said}; checkpoints of {', '.join(ORIGINS)} are read")


def assemble(
    about: Architecture, places: Callable[[LM], Mapping[str, Place]], tensors: Mapping[str, Tensor], impl: str | None = None
) -> LM:
    """The model with these tensors, in eval mode, in float32 or the widest of their dtypes.

    Raises:
        CheckpointError: names that are missing, left over, of another shape, or a tied head of its own: all are named.
    """
    if wrong := misfits(places(about.sketch(tensors)), tensors):
        raise CheckpointError(f"the tensors do not fit the model: {'; '.join(wrong)}")
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()), torch.float32)
    lm = about.build(impl).cast(dtype).eval()
    if untied := fill(places(lm), tensors):
        raise CheckpointError(f"{', '.join(untied)} differs from the embedding, to which the config ties it")
    return lm


def write(held: Checkpoint, folder: Path, to: str) -> tuple[str, ...]:
    """Makes ``folder``, of the origin ``to``; returns what its users should know of it.

    Raises:
        CheckpointError: the model is not of that family.
        FileExistsError: there is such a folder.
    """
    config, tensors = ORIGINS[to].config(held), export(ORIGINS[to].places(held.lm))
    folder.mkdir(parents=True)
    write_folder(folder, config, tensors)
    return ORIGINS[to].remarks(config)
