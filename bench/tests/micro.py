"""Runs small enough to be measured in a second, on a corpus of a few thousand bytes; no torch here."""

import random
from pathlib import Path

from bench.compose import compose_run
from bench.config import CONF, RunConfig

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
# Of models: those that measure operations are not tried with each of them.
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml") if "modelless" not in path.read_text())

# A hundred tokens of Mamba-2, the dearest: within the tolerance.
BUDGET = 1e8

FOUR = "experiment.measure.windows_per_document=4"

# What makes an experiment of conf/ as small as the corpus; one that is not here is run as it is.
SMALL = {
    "perplexity_by_context": ["experiment.measure.contexts=[16,48,96]", "experiment.measure.targets=16", FOUR],
    "perplexity_by_position": ["experiment.measure.context=96", "+experiment.measure.first_edge=16", FOUR],
    "inner_loss": ["experiment.measure.context=64", "+experiment.measure.bucket=16", FOUR],
    "state_vs_context": ["experiment.measure.contexts=[16,32]"],
    "prefill_latency": ["experiment.measure.contexts=[16,40]", "experiment.measure.sampling={least:3,most:4,seconds:0.01}"],
    "kernel_speed": [
        "experiment.measure.ops=[ttt_linear,attention]",
        "experiment.measure.impls.ttt_linear=[reference]",
        "experiment.measure.impls.attention=[reference]",
        "experiment.measure.shapes=[[2,24,2,8]]",
        "experiment.measure.step_shapes=[[3,18,2,8]]",
        "experiment.measure.sampling={least:2,most:3,seconds:0.01}",
    ],
    "latency": [
        "experiment.measure.vocab=32",
        "experiment.measure.contexts=[20,12,28]",
        "experiment.measure.grid=[[prefill,2],[step,3]]",
        "experiment.measure.sampling={least:2,most:3,seconds:0.01}",
    ],
    "train_speed": ["experiment.measure.context=24", "experiment.measure.batch=2", "experiment.measure.steps=3"],
    "recall": [
        "experiment.measure.tasks=[mqar,needle]",
        "experiment.measure.contexts=[100,150]",
        "experiment.measure.depths=[0.0,1.0]",
        "experiment.measure.examples=2",
    ],
    "decode_latency": ["experiment.measure.contexts=[16,40]", "experiment.measure.steps=16"],
}


# What makes the first stage of a model that has one as small.
FIRST = ["optim@model.first.optim=tiny", "model.first.optim.batch_tokens=32", "model.first.optim.train_context=16"]


def write_corpus(folder: Path) -> Path:
    """One text to train on and two, of different lengths, held out."""
    words = random.Random(0)
    folder.mkdir()
    for name, length in (("train", 6000), ("long", 700), ("short", 450)):
        text = " ".join(words.choice(["ttt", "mamba", "layer", "of", "a", "state", "reads"]) for _ in range(length // 4))
        (folder / f"{name}.txt").write_text(text[:length])
    return folder


def micro_run(folder: Path, experiment: str, *overrides: str) -> RunConfig:
    """A run of ``experiment`` on the corpus in ``folder``/corpus, with its results in ``folder``/runs."""
    return compose_run(micro_words(folder, experiment, *overrides))


def micro_words(folder: Path, experiment: str, *overrides: str) -> list[str]:
    """What ``python -m bench`` would be given for it."""
    corpus = folder / "corpus"
    if not corpus.exists():
        write_corpus(corpus)
    data = [f"data.path={corpus}", "data.max_epochs=inf", "data.train=[train.txt]", "data.heldout=[long.txt,short.txt]"]
    data.append(f"data.cache={folder / 'cache'}")
    optim = ["optim=tiny", "optim.batch_tokens=64", "optim.train_context=32"]
    budget = ["budget=tiny_1", f"budget.flops={BUDGET}"]
    small = [f"experiment={experiment}", *SMALL.get(experiment, []), "size=tiny", f"results={folder / 'runs'}"]
    first = FIRST if "model=finetune/transformer" in overrides else []
    return [*small, *data, *optim, *budget, *overrides, *first]
