"""Compares our TTT models with outputs of the authors' code: ``python -m bench.golden FILE.npz …``.

A reference file holds ``config`` (JSON, keys of models.checkpoints.ttt.CONFIG_KINDS), ``input_ids`` [B, L], ``logits``
[B, L, V] and every parameter as ``param/<official state-dict name>``. Each file gets one row of errors in float64, each of
them max |ours - theirs| over the logits compared, relative to max |theirs| over the file:

    forward   all positions at once
    steps     prefill of P tokens, then single steps; the worst P of 0 (steps alone) ... L - 1
    chunks    prefill of P tokens, then prefill of the other L - P, its last logits; the worst P of 0 (one chunk) ... L - 1

The exit status is 1 where an error is over 1e-5 or not a number, or a file could not be checked.
"""

import argparse
import json
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.checkpoints import assemble, ttt
from models.checkpoints.architecture import Checkpoint
from models.lm import LM
from models.mixer import State, state_tensors

TOLERANCE = 1e-5  # the authors' rotary tables are float32
GROUP = 16  # splits stepped together, as rows of one batch that stand at different positions
PREFIX = "param/"
ROW = "{:<34} {:<7} {:<12} {:>5} {:>9} {:>9} {:>7} {:>9} {:>7}  {}"
HEADER = ROW.format("file", "layer", "backbone", "L", "forward", "steps", "worst P", "chunks", "worst P", "").rstrip()


@dataclass(frozen=True)
class Reference:
    """A reference file; ``params`` by official name."""

    config: dict[str, Any]
    tokens: Int[Tensor, "B L"]
    logits: Float[Tensor, "B L V"]
    params: dict[str, np.ndarray]


@dataclass(frozen=True)
class Errors:
    """Relative errors, with the splits P at which the worst ones occurred."""

    forward: float
    steps: float
    steps_split: int
    chunks: float
    chunks_split: int

    @property
    def ok(self) -> bool:
        """Whether every error is at most TOLERANCE; one that is not a number is not."""
        return all(error <= TOLERANCE for error in (self.forward, self.steps, self.chunks))


def read(path: Path) -> Reference:
    """Reads a reference file; nothing in it is unpickled.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not an .npz file, is damaged, lacks an entry, or its entries contradict one another.
    """
    arrays = _arrays(path)
    if missing := [key for key in ("config", "input_ids", "logits") if key not in arrays]:
        raise ValueError(f"the file lacks {', '.join(missing)}")
    config = _config(arrays["config"])
    tokens, logits = torch.tensor(arrays["input_ids"]).long(), torch.tensor(arrays["logits"]).double()
    if tokens.ndim != 2 or not tokens.numel() or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(f"input_ids {list(tokens.shape)} and logits {list(logits.shape)} are not [B, L] and [B, L, V]")
    if tokens.min() < 0 or tokens.max() >= logits.shape[2]:
        raise ValueError(f"input_ids are not all between 0 and {logits.shape[2] - 1}")
    return Reference(config, tokens, logits, {k.removeprefix(PREFIX): v for k, v in arrays.items() if k.startswith(PREFIX)})


def _config(text: np.ndarray) -> dict[str, Any]:
    config = json.loads(text.item())
    if not isinstance(config, dict):
        raise ValueError("config is not a JSON object")  # noqa: TRY004  of a file, not of an argument
    return config


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as raw:
        if not zipfile.is_zipfile(raw):
            raise ValueError("not an .npz file; numpy.savez makes one")
        raw.seek(0)
        try:
            with np.load(raw, allow_pickle=False) as file:
                return dict(file)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"the .npz file is damaged ({error}); copy it anew") from error


def build(reference: Reference) -> LM:
    """The float64 model that a reference describes, with its parameters.

    Raises:
        ValueError: config, parameters and logits do not fit one another.
    """
    lm = checkpoint(reference).lm.double()
    vocab, logits = lm.head.weight.shape[0], reference.logits.shape[2]
    if vocab != logits:
        raise ValueError(f"vocab_size is {vocab}, but the file has {logits} logits for each token")
    return lm


def checkpoint(reference: Reference) -> Checkpoint:
    """The same in the dtype of the parameters, for bench.convert."""
    about = ttt.described(reference.config)
    params = {name: torch.tensor(array) for name, array in reference.params.items()}
    return Checkpoint(about, assemble(about, ttt.places, params), "reference file")


@torch.no_grad()
def compare(lm: LM, reference: Reference) -> Errors:
    """Errors of the three ways to run ``lm`` on the reference's tokens."""
    tokens, logits = reference.tokens, reference.logits
    length, scale = tokens.shape[1], logits.abs().max()
    steps, chunks = [], []
    for first in range(0, length, GROUP):
        splits = range(first, min(first + GROUP, length))
        states, prefilled = zip(*(_prefill(lm, reference, split) for split in splits), strict=True)
        steps.append(torch.maximum(torch.stack(prefilled), _steps(lm, reference, splits, states)))
        for split, state in zip(splits, states, strict=True):
            chunks.append((lm.prefill(tokens[:, split:], state) - logits[:, -1]).abs().max())
    forward = (lm(tokens) - logits).abs().max() / scale
    return Errors(forward.item(), *_worst(torch.cat(steps) / scale), *_worst(torch.stack(chunks) / scale))


def _worst(errors: Float[Tensor, " S"]) -> tuple[float, int]:
    """The largest error, or one that is not a number, and its split."""
    worst, split = errors.max(dim=0)
    return worst.item(), int(split)


def _prefill(lm: LM, reference: Reference, split: int) -> tuple[list[State], Tensor]:
    """State after a prefill of ``split`` tokens, and the error of its logits."""
    state = lm.init_state(*reference.tokens.shape)
    if split == 0:
        return state, torch.zeros((), dtype=torch.float64)
    out = lm.prefill(reference.tokens[:, :split], state)
    return state, (out - reference.logits[:, split - 1]).abs().max()


def _steps(lm: LM, reference: Reference, splits: range, states: Sequence[list[State]]) -> Float[Tensor, " S"]:
    """Worst error of the single steps after each split, whose states are copied.

    A row that has reached the end is fed its last token until the others have; those logits are not compared.
    """
    rows, length = reference.tokens.shape
    state = lm.init_state(len(splits) * rows, length)
    for target, *parts in zip(*map(state_tensors, (state, *states)), strict=True):
        target.copy_(torch.cat(parts))
    worst = torch.zeros(len(splits), dtype=torch.float64)
    for n in range(length - splits[0]):
        position = torch.tensor(splits) + n
        is_open, position = position < length, position.clamp_max(length - 1)
        out = lm.step(reference.tokens[:, position].T.flatten(), state).unflatten(0, (len(splits), rows))
        error = (out.transpose(0, 1) - reference.logits[:, position]).abs().amax(dim=(0, 2))
        worst = torch.where(is_open, torch.maximum(worst, error), worst)
    return worst


def row(path: Path) -> tuple[str, bool]:
    """The printed row of one file, and whether it passes."""
    try:
        reference = read(path)
        errors = compare(build(reference), reference)
    except (OSError, ValueError) as error:
        return f"{path}: not checked: {error}", False
    values = (f"{errors.forward:.1e}", f"{errors.steps:.1e}", errors.steps_split, f"{errors.chunks:.1e}", errors.chunks_split)
    names = (path.stem, reference.config["layer"], reference.config["backbone"], reference.tokens.shape[1])
    return ROW.format(*names, *values, "ok" if errors.ok else "FAIL"), errors.ok


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.golden", description="Compares TTT models with reference files.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    files, passed = parser.parse_args(argv).files, True
    print(HEADER)
    for path in files:
        line, ok = row(path)
        print(line, flush=True)
        passed = passed and ok
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
