"""Recall at length: whether what was said at a depth of a context is known at its end (Zoology's MQAR, RULER's needles)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from bench.build import Prepared
from bench.config import ConfigError
from bench.data.mqar import Alphabet
from bench.data.recall import NOISE, TASKS, Example, Source
from bench.lab import Lab
from bench.results import Coordinate, Row
from bench.scoring import score


@dataclass(frozen=True)
class Recall:
    """``examples`` of each task (bench.data.recall.TASKS), context and depth. context: tokens before the first answer.

    haystack: what texts stand in: noise (sentences again and again), or text (the run's held-out documents). pairs, symbols: of
    mqar; a model that was trained on it knows those of its training.
    """

    tasks: Sequence[str]
    contexts: Sequence[int]
    depths: Sequence[float]
    examples: int = 10
    haystack: str = "noise"
    pairs: int = 4
    symbols: int = 16

    def flops(self, prepared: Prepared) -> float:
        """Forward FLOPs of all contexts."""
        each = len(self.tasks) * len(self.depths) * self.examples
        return each * sum(prepared.train_flops(context) for context in self.contexts) / 3

    def measure(self, lab: Lab) -> Iterator[Row]:
        """accuracy at every task, context and depth; a sample is an example: 1 where greedy decoding gives the answer.

        An answer is given exactly if each of its tokens is the likeliest after those before it, so nothing is decoded. Of
        mqar a sample is the share of its pairs.

        Raises:
            ConfigError: no such task or haystack.
            DataError: a context is too short, or there is no text.
        """
        source, lm = self._source(lab), lab.trained_lm()
        places = [(task, context) for context in sorted(self.contexts) for task in self.tasks]
        for number, (task, context) in enumerate(places):
            here: dict[str, Coordinate] = {"task": task, "context": context}
            lab.here = here
            depths = [depth for depth in self.depths if not lab.recorder.has("accuracy", **here, depth=depth)]
            made = [self._example(source, task, context, depth, n) for depth in depths for n in range(self.examples)]
            scores = score(lm, [(one.context, one.answer) for one in made], max(1, lab.run.device.tokens_at_once // context))
            right = [one.share(found.likeliest) for one, found in zip(made, scores, strict=True)]
            for place, depth in enumerate(depths):
                samples = right[place * self.examples : (place + 1) * self.examples]
                yield lab.row("accuracy", float(np.mean(samples)), "1", {**here, "depth": depth}, samples)
            lab.progress((number + 1) / len(places))

    def _source(self, lab: Lab) -> Source:
        if wrong := [task for task in self.tasks if task not in TASKS]:
            raise ConfigError(f"there is no recall task {', '.join(wrong)}; choose from: {', '.join(TASKS)}")
        if self.haystack not in ("noise", "text"):
            raise ConfigError(f"haystack={self.haystack} is not possible; choose from: noise, text")
        tokenizer = lab.corpus.tokenizer
        is_text = self.haystack == "text"
        hay = [document.tokens for document in lab.documents("heldout")] if is_text else [tokenizer.encode(NOISE)]
        return Source(tokenizer, np.concatenate(hay), Alphabet(self.pairs, self.symbols))

    def _example(self, source: Source, task: str, context: int, depth: float, number: int) -> Example:
        """The same for every model and seed of training."""
        rng = np.random.default_rng([crc32(task.encode()), context, round(1e6 * depth), number])
        return TASKS[task](source, rng, context, depth)
