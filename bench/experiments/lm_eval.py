"""Scores by EleutherAI's lm-eval harness, with standard errors and the score of every document."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.build import Prepared
from bench.config import ConfigError
from bench.data.tokenizer import get_tokenizer
from bench.extras import require
from bench.lab import Lab
from bench.lm_eval.documents import FIELDS, TASKS
from bench.results import At, Coordinate, Row

if TYPE_CHECKING:
    from lm_eval.api.model import LM

# Ours; any other task is lm-eval's own, whose index takes half a minute to read.
OURS = ("heldout", *FIELDS)
UNITS = {"bits_per_byte": "bit/byte"}


@dataclass(frozen=True)
class LmEval:
    """tasks: heldout, lambada, choices (bench/lm_eval/tasks), or names of lm-eval's. lambada, choices: their files.

    limit: documents of each task at most. shots: examples before a question; null: as the task says. max_length: tokens that
    the model reads at most; null: its training context. resamples: of the bootstrap of standard errors that have no formula.
    """

    tasks: Sequence[str]
    lambada: str | None = None
    choices: str | None = None
    limit: int | None = None
    shots: int | None = None
    max_length: int | None = None
    resamples: int = 1000

    def flops(self, prepared: Prepared) -> float:
        """Unknown before the texts are read, so not counted."""
        return 0.0

    def measure(self, lab: Lab) -> Iterator[Row]:
        """Of each task and metric the value, its standard error, and where a document has a number of its own, the samples.

        Raises:
            MissingPackage: lm-eval is not installed.
            ConfigError: no such task.
            DataError: a file that a task reads is missing or is not what it should be.
        """
        require("lm_eval", "eval")
        from bench.lm_eval.model import BenchLM
        from bench.pretrained import Pretrained

        assert lab.weights is not None  # conf/experiment/lm_eval.yaml: trained
        tokenizer, context = get_tokenizer(lab.run.data.tokenizer), lab.run.optim.train_context
        model, length = Pretrained(lab.run.model.name, lab.trained_lm(), tokenizer, context), self.max_length or context
        rows = max(1, lab.run.device.tokens_at_once // length)
        told = {"path": str(lab.weights.parent), "lambada": self.lambada, "choices": self.choices}
        harnessed = BenchLM(model, batch_size=rows, device=lab.run.device.type, max_length=length)
        results = evaluate(harnessed, self.tasks, told, limit=self.limit, shots=self.shots, resamples=self.resamples)
        for number in numbers(results):
            if not lab.recorder.has(number.metric, **number.at):
                yield lab.row(number.metric, number.value, number.unit, {**number.at, "context": length}, number.samples)


@dataclass(frozen=True)
class Number:
    """A number of lm-eval's, as a row wants it: ``at`` names the task, its shots and documents."""

    metric: str
    value: float
    unit: str
    at: At
    samples: tuple[float, ...] = ()


def evaluate(
    model: "LM",
    tasks: Sequence[str],
    told: Mapping[str, Any],
    *,
    limit: int | None = None,
    shots: int | None = None,
    resamples: int = 1000,
) -> Any:
    """lm-eval's results, quietly and in this process alone; errors as of ``LmEval.measure``. ``told``: what tasks are told."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"  # a worker of a tier may have no processes of its own
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        manager = TaskManager(include_path=TASKS, include_defaults=not set(tasks) <= set(OURS), metadata=dict(told))
        unknown = [task for task in tasks if task not in manager.all_tasks]
        if unknown:
            raise ConfigError(f"lm-eval knows no task {', '.join(unknown)}; those on local files are {', '.join(OURS)}")
        return simple_evaluate(
            model, tasks=list(tasks), task_manager=manager, limit=limit, num_fewshot=shots, bootstrap_iters=resamples
        )


def numbers(results: Mapping[str, Any]) -> Iterator[Number]:
    """Every number of lm-eval's results; of a perplexity per word or byte, the words or bytes of each document before it."""
    for task, found in results["results"].items():
        documents = results["samples"].get(task, [])
        for key, value in found.items():
            metric, _, filtered = key.partition(",")
            if filtered and isinstance(value, (int, float)):
                at: dict[str, Coordinate] = {"task": task, "shots": results["n-shot"].get(task, 0)}
                at |= {"documents": found["sample_len"]} | ({} if filtered == "none" else {"filter": filtered})
                values = [document[metric] for document in documents if document["filter"] == filtered and metric in document]
                yield from _numbers(metric, float(value), at, values)


def _numbers(metric: str, value: float, at: At, values: Sequence[Any]) -> Iterator[Number]:
    """lm-eval keeps of a document: a score; a log-likelihood; or that and the number of its words or bytes."""
    unit = UNITS.get(metric, "1")
    if all(isinstance(one, tuple) and len(one) == 2 for one in values) and values:
        per = "word" if metric.startswith("word") else "byte"
        sizes = tuple(float(size) for _, size in values)
        yield Number("targets", sum(sizes), per, {**at, "per": per}, sizes)
        yield Number(metric, value, unit, {**at, "per": per}, tuple(-likelihood / size for likelihood, size in values))
    elif all(isinstance(one, (int, float)) for one in values):
        sign = -1.0 if metric == "perplexity" else 1.0
        yield Number(metric, value, unit, at, tuple(sign * one for one in values))
    else:
        yield Number(metric, value, unit, at)
