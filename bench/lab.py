"""What an experiment may touch: its run, its models, its data, and the recorder of its rows."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from bench.build import DTYPES, Prepared, build_lm, prepare
from bench.config import RunConfig, TrainConfig
from bench.data import DataError
from bench.data.corpus import Corpus
from bench.data.prepare import prepare as prepare_corpus
from bench.data.shards import Document
from bench.progress import Progress, silent
from bench.results import At, Coordinate, Recorder, Row
from bench.sharding import sharded
from bench.train import load
from models.lm import LM


@dataclass
class Lab:
    """One run at work.

    weights: where its trained model lies or will lie; None where its weights are random. here: the coordinates that an
    experiment has come to, for the row of a failure. start: weights that its training begins with; None: random ones.
    until: the moment, of time.monotonic, that max_minutes allow.
    """

    run: RunConfig
    recorder: Recorder
    weights: Path | None
    progress: Progress = silent
    start: Path | None = None
    here: At = field(default_factory=dict)
    until: float = field(init=False)

    def __post_init__(self) -> None:
        limit = self.run.max_minutes
        self.until = math.inf if limit is None else time.monotonic() + 60 * limit

    @cached_property
    def prepared(self) -> Prepared:
        """Size and plan."""
        return prepare(self.run)

    @property
    def device(self) -> torch.device:
        """Where models and data are."""
        return torch.device(self.run.device.type)

    @property
    def dtype(self) -> torch.dtype:
        """What models compute in."""
        return DTYPES[self.run.device.dtype]

    def new_lm(self) -> LM:
        """The model with the random weights that the seed gives, cast to the dtype that it computes in."""
        return self._random_lm().cast(self.dtype).unite()

    def lm_to_train(self, how: TrainConfig) -> LM:
        """The same with weights in float32 at least, which train in that dtype, or those of the first stage.

        They are spread over the processes that train.
        """
        lm = self._random_lm().cast(torch.promote_types(self.dtype, torch.float32))
        if self.start is not None:
            lm.load_state_dict(load(self.start)["model"])
        return sharded(lm.train_in(self.dtype, recompute=how.checkpoint == "block", compiled=how.compile))

    def _random_lm(self) -> LM:
        """Made on the CPU: the same on every device."""
        torch.manual_seed(self.run.seed)
        return build_lm(self.run.model, self.prepared.size, self.run.data.vocab).to(self.device)

    def trained_lm(self) -> LM:
        """The model as training left it, cast to the dtype that it computed in."""
        assert self.weights is not None  # conf/experiment: trained
        lm, state = self.new_lm(), load(self.weights)
        content = self.corpus.index.content
        if state.get("content", content) != content:
            cure = f"restore it, or delete {self.weights.parent} and train again"
            raise DataError(f"the content of data={self.run.data.name} is not what the model was trained on; {cure}")
        lm.load_state_dict(state["model"])
        return lm.eval()

    @cached_property
    def corpus(self) -> Corpus:
        """The run's corpus, prepared now where it is not yet."""
        return prepare_corpus(self.run.data)

    def documents(self, split: str) -> list[Document]:
        """Documents of a split: train, validation or heldout."""
        return self.corpus.documents(split)

    @cached_property
    def coordinates(self) -> dict[str, Coordinate]:
        """What every row of the run says of where it stands; of the training only where it is of a trained model."""
        run = self.run
        about: dict[str, Coordinate] = {
            "model": run.model.name,
            "backbone": run.model.backbone,
            "size": run.size.name,
            "params": self.prepared.parameters,
            "mini_batch": run.model.mini_batch,
            "impl": run.model.impl,
            "exec": "eager",
            "dtype": run.device.dtype,
            "convention": run.match.convention,
            "seed": run.seed,
        }
        return about if self.weights is None else about | self._training()

    def _training(self) -> dict[str, Coordinate]:
        run, plan = self.run, self.prepared.unchecked_plan
        return {
            "match": run.match.method,
            "budget_flops": plan.target_flops,
            "train_flops": plan.flops,
            "tokens": plan.tokens,
            "train_context": run.optim.train_context,
            "data": run.data.name,
            "tokenizer": run.data.tokenizer,
        }

    def row(self, metric: str, value: float, unit: str, at: At, samples: Sequence[float] = ()) -> Row:
        """A row of this run, at its own coordinates and ``at``."""
        return Row(metric=metric, value=value, unit=unit, at={**self.coordinates, **at}, samples=tuple(samples))

    def remaining(self, metric: str, key: str, values: Iterable[int]) -> list[int]:
        """Those of ``values`` at which an interrupted attempt has not left a row."""
        return [value for value in values if not self.recorder.has(metric, **{key: value})]
