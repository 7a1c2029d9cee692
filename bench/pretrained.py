"""A trained model from where it lies: the folder of a training run, results/runs/train/RUN_ID, or a checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.build import prepare
from bench.config import from_record
from bench.data import DataError
from bench.data.corpus import TRAINED
from bench.data.tokenizer import Tokenizer, get_tokenizer
from bench.results import CorruptResults, read_run
from bench.train import load
from models.checkpoints import assemble, ours, read
from models.checkpoints.architecture import Architecture, Checkpoint
from models.checkpoints.config import CheckpointError
from models.lm import LM

# What a tokenizer's file is called beside foreign weights.
TOKENIZER_FILES = (TRAINED, "tokenizer.model")


@dataclass(frozen=True)
class Pretrained:
    """A model in eval mode, the tokenizer of its text, and the context that it was trained at, tokens."""

    name: str
    lm: LM
    tokenizer: Tokenizer
    train_context: int


def load_pretrained(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    *,
    tokenizer: str | None = None,
    impl: str | None = None,
) -> Pretrained:
    """The model in ``folder``, cast to ``dtype``, on ``device``.

    tokenizer: name or file, instead of what the folder says. impl: of the layers; if not given, on a CPU the reference, which
    alone runs there, elsewhere what the run was trained with.

    Raises:
        CorruptResults: it is the folder of a run that is not a training, or is not done.
        CorruptCheckpoint, CheckpointError: there are no weights, or they cannot be read, or their training context is not said.
        DataError: there is no such tokenizer, or the folder says none, or it is not the model's.
    """
    held = read_model(folder, "reference" if impl is None and device == "cpu" else impl)
    if held.train_context is None:
        cure = f"convert it: python -m bench.convert {folder} DST --train-context TOKENS"
        raise CheckpointError(f"{folder} does not say at which context it was trained; {cure}")
    name = tokenizer or str(tokenizer_file(folder, held.tokenizer) or held.tokenizer or "")
    if not name:
        known = f"{folder} does not say its tokenizer, only that it knows {held.architecture.vocab:,} tokens"
        raise DataError(f"{known}; name one or its file: --tokenizer NAME|FILE, or tokenizer=…")
    found = fitting_tokenizer(name, held)
    return Pretrained(folder.resolve().name, held.lm.to(device).cast(dtype).unite(), found, held.train_context)


def read_model(path: Path, impl: str | None = None) -> Checkpoint:
    """A training run's model, or that of a checkpoint of any origin: its ``tokenizer`` is a name, or that of a file beside it.

    Raises: see ``load_pretrained``.
    """
    if (path / "run.json").exists():
        return _of_run(path, impl)
    held = read(path, impl)
    beside = next((name for name in TOKENIZER_FILES if (path / name).is_file()), None)
    return replace(held, tokenizer=held.tokenizer or beside)


def _of_run(folder: Path, impl: str | None) -> Checkpoint:
    run = read_run(folder)
    if not (folder / "weights.pt").exists():
        raise CorruptResults(f"{folder} has no weights.pt: give a training run that is done, results/runs/train/…")
    config = from_record(run.config)
    about = Architecture(config.data.vocab, prepare(config).size, config.model.layer)
    lm = assemble(about, ours.places, load(folder / "weights.pt")["model"], impl)
    tokenizer = TRAINED if (folder / TRAINED).exists() else config.data.tokenizer
    return Checkpoint(about, lm, "a training run", tokenizer, config.optim.train_context)


def tokenizer_file(path: Path, name: str | None) -> Path | None:
    """The file beside the weights that a tokenizer's name means, if it means one."""
    beside = None if name is None else path / Path(name).name
    return beside if beside is not None and beside.is_file() else None


def fitting_tokenizer(name: str, held: Checkpoint) -> Tokenizer:
    """``get_tokenizer``, for one that has no more tokens than the model (which may have more, as padding).

    Raises:
        DataError: there is none, or it has more.
    """
    found, known = get_tokenizer(name), held.architecture.vocab
    if found.vocab > known:
        raise DataError(f"tokenizer '{name}' has {found.vocab} tokens, the model knows {known}: it is another model's")
    return found
