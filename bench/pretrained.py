"""A trained model from a folder: of a training run, results/runs/train/RUN_ID."""

from dataclasses import dataclass
from pathlib import Path

import torch

from bench.build import build_lm, prepare
from bench.config import from_record
from bench.data.corpus import TRAINED
from bench.data.tokenizer import Tokenizer, get_tokenizer
from bench.results import CorruptResults, read_run
from bench.train import load
from models.lm import LM


@dataclass(frozen=True)
class Pretrained:
    """A model in eval mode, the tokenizer of its text, and the context that it was trained at, tokens."""

    name: str
    lm: LM
    tokenizer: Tokenizer
    train_context: int


def load_pretrained(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Pretrained:
    """The model in ``folder``, cast to ``dtype``, on ``device``.

    Raises:
        CorruptResults: it is no folder of a training run that is done.
        CorruptCheckpoint: its weights cannot be read.
    """
    run = read_run(folder)
    if not (folder / "weights.pt").exists():
        raise CorruptResults(f"{folder} has no weights.pt: give a training run that is done, results/runs/train/…")
    config = from_record(run.config)
    lm = build_lm(config.model, prepare(config).size, config.data.vocab).to(device).cast(dtype)
    lm.load_state_dict(load(folder / "weights.pt")["model"])
    tokenizer = get_tokenizer(config.data.tokenizer, folder / TRAINED)
    return Pretrained(run.manifest.run_id, lm.eval(), tokenizer, config.optim.train_context)
