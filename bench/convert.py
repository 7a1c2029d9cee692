"""``python -m bench.convert SRC DST [--to ours|ttt|mamba|llama]``: weights of any origin, as safetensors with a config.json.

SRC is the folder of a training run or of a checkpoint, a streaming checkpoint of the authors' JAX code, or a reference file
(.npz, see bench/golden.py). DST appears whole or not at all, and only once it was read back and gave the same logits.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench import golden
from bench.errors import EXPECTED
from bench.pretrained import TOKENIZER_FILES, fitting_tokenizer, read_model, tokenizer_file
from models.checkpoints import ORIGINS, write
from models.checkpoints.architecture import Checkpoint
from models.checkpoints.config import CheckpointError
from models.checkpoints.files import CONFIG, WEIGHTS
from models.lm import LM

PROBE = (2, 37)  # sequences and tokens of the forward pass that a conversion is checked with; 37 is no multiple of a mini-batch


def convert(
    source: Path,
    target: Path,
    to: str = "ours",
    *,
    tokenizer: str | None = None,
    train_context: int | None = None,
    reference: Path | None = None,
    overwrite: bool = False,
) -> Iterator[str]:
    """Converts, and yields the lines of its summary; see ``parser`` for the options.

    Raises:
        CheckpointError: the source is not what it claims, or not of the family ``to``; or what was written gives other logits.
        DataError: the tokenizer is not there, or not the model's.
        FileExistsError: ``target`` is there, or holds other files.
    """
    expected = golden.read(reference or source) if reference or source.suffix == ".npz" else None
    held = golden.checkpoint(expected) if expected and source.suffix == ".npz" else read_model(source)
    file = tokenizer_file(source, held.tokenizer) if tokenizer is None else _asked_tokenizer(tokenizer, held)
    held = replace(
        held,
        tokenizer=file.name if file else tokenizer or held.tokenizer,
        train_context=train_context or held.train_context,
    )
    if to == "ours" and held.train_context is None:
        raise CheckpointError(f"{source} does not say at which context it was trained: add --train-context TOKENS")
    yield f"read      {source}: {_about(held)}"
    logits = _probe(held.lm)
    with _replacing(target, overwrite, file) as folder:
        remarks = write(held, folder, to)
        if file:
            shutil.copy(file, folder / file.name)
        back = read_model(folder).lm
        if not torch.equal(_probe(back), logits):
            raise CheckpointError(f"what was written as {to} gives other logits, by {(_probe(back) - logits).abs().max():.1e}")
        compared = _compared(back, expected)
        size = sum(path.stat().st_size for path in folder.iterdir())
    yield f"written   {target}: {to}, {size / 1e6:.1f} MB"
    yield f"verified  read back, it gives the same logits to the last bit ({PROBE[0]} x {PROBE[1]} random tokens), all finite"
    yield from compared
    yield from (f"note      {remark}" for remark in dict.fromkeys((*held.remarks, *remarks)))


def _about(held: Checkpoint) -> str:
    lm, size = held.lm, held.architecture.size
    layer = " + ".join(type(mixer).__name__ for mixer in lm.mixers[: len(lm.mixers) // size.layers])
    count = sum(p.numel() for p in lm.parameters())
    dtype = str(lm.embedding.weight.dtype).removeprefix("torch.")
    shape = f"{size.layers} x ({layer}), width {size.width}, vocabulary {held.architecture.vocab}"
    text = f"tokenizer {held.tokenizer or 'not said'}, training context {held.train_context or 'not said'}"
    return f"{held.origin}, {shape}, {count:,} parameters, {dtype}; {text}"


@torch.no_grad()
def _probe(lm: LM) -> Tensor:
    """Logits of random tokens. Raises CheckpointError where some are not finite."""
    tokens = torch.randint(lm.head.out_features, PROBE, generator=torch.Generator().manual_seed(0))
    logits = lm(tokens)
    if not logits.isfinite().all():
        raise CheckpointError("its logits are not all finite: the weights are damaged, or those of a training that diverged")
    return logits


def _compared(lm: LM, expected: golden.Reference | None) -> list[str]:
    """Raises CheckpointError where the logits are not those of the reference."""
    if expected is None:
        return []
    vocab, logits = lm.head.out_features, expected.logits.shape[2]
    if vocab != logits:
        raise CheckpointError(f"the reference has {logits} logits for each token, the model {vocab}")
    errors = golden.compare(lm.double(), expected)
    worst = f"forward {errors.forward:.1e}, steps {errors.steps:.1e}, chunks {errors.chunks:.1e}"
    if not errors.ok:
        raise CheckpointError(f"its logits are not those of the reference: relative errors {worst}")
    return [f"reference its logits are met, relative errors {worst}"]


def _asked_tokenizer(name: str, held: Checkpoint) -> Path | None:
    """The file that ``--tokenizer`` names, if it is one; it is tried in any case."""
    fitting_tokenizer(name, held)
    return Path(name) if Path(name).is_file() else None


@contextmanager
def _replacing(target: Path, overwrite: bool, tokenizer: Path | None) -> Iterator[Path]:
    """A new folder's path, which takes the place of ``target`` where nothing is raised."""
    ours = {CONFIG, WEIGHTS, *TOKENIZER_FILES, *([tokenizer.name] if tokenizer else [])}
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} is there already: choose another folder, or add --overwrite")
    if target.exists() and (others := sorted(path.name for path in target.iterdir() if path.name not in ours)):
        raise FileExistsError(f"{target} holds other files ({', '.join(others)}): choose another folder")
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{word}") for word in ("tmp", "old"))
    try:
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m bench.convert", description=__doc__)
    made.add_argument("source", type=Path, metavar="SRC")
    made.add_argument("target", type=Path, metavar="DST")
    made.add_argument("--to", choices=ORIGINS, default="ours", help="whose format (default: ours)")
    made.add_argument("--tokenizer", metavar="NAME|FILE", help="of the model's text; a file is copied into DST")
    made.add_argument("--train-context", type=int, metavar="TOKENS", help="it was trained at, where SRC does not say")
    made.add_argument("--reference", type=Path, metavar="FILE.npz", help="logits to compare with (bench/golden.py)")
    made.add_argument("--overwrite", action="store_true", help="replace DST")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    words = vars(parser().parse_args(argv))
    try:
        for line in convert(words.pop("source"), words.pop("target"), **words):
            print(line, flush=True)
    except (*EXPECTED, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
