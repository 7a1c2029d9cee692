"""From a typed configuration to models: instantiation, matching of sizes, the plan of a training."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import cast

import torch

from bench.budget import BudgetError, Plan, plan, solve_linear
from bench.config import ModelConfig, RunConfig, SizeConfig, first_training
from bench.data.corpus import Corpus, find_corpus
from models.checkpoints.architecture import Architecture
from models.cost import Convention
from models.lm import LM
from models.mixer import Size, state_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def size_of(size: SizeConfig, model: ModelConfig) -> Size:
    """The size with the model's own number of layers."""
    return Size(size.width, size.layers * model.layers_factor, size.heads, size.ffn)


def build_lm(model: ModelConfig, size: Size, vocab: int) -> LM:
    """A language model with random weights, in float32 on torch's current default device."""
    return Architecture(vocab, size, model.layer).build()


def sketch_lm(model: ModelConfig, size: Size, vocab: int) -> LM:
    """The model without memory, on ``meta``, for counting: the same object for the same model, so not to be changed.

    What it costs depends on no implementation: it is that of the references, and none other has to be installed.
    """
    return _sketch(json.dumps(model.layer), size, vocab)


@lru_cache(maxsize=256)
def _sketch(layer: str, size: Size, vocab: int) -> LM:
    with torch.device("meta"):
        return Architecture(vocab, size, json.loads(layer)).build("reference")


@dataclass(frozen=True)
class Prepared:
    """A run with its sizes settled: ``size`` is matched to the reference where that was asked for."""

    run: RunConfig
    size: Size

    @property
    def sketch(self) -> LM:
        """The model on ``meta``, for counting."""
        return sketch_lm(self.run.model, self.size, self.run.data.vocab)

    def state_bytes(self, context: int, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of the state of one sequence that has read ``context`` tokens, as the run's own implementation holds it.

        Raises:
            MissingImplementation: it cannot be imported here.
        """
        with torch.device("meta"):
            lm = build_lm(self.run.model, self.size, self.run.data.vocab)
        return state_bytes(lm.cast(dtype).init_state(1, context))

    def train_flops(self, tokens: int) -> int:
        """Training FLOPs of one sequence."""
        return _train_flops(self.run, self.sketch)(tokens)

    def train_matmul_flops(self, tokens: int) -> int:
        """Those of matrix products alone."""
        return self.sketch.cost("train", tokens, _convention(self.run)).matmul_flops

    @cached_property
    def plan(self) -> Plan:
        """How the budget is spent.

        Raises:
            BudgetError: it cannot be met within match.tolerance, or as ``check``.
        """
        made = self.unchecked_plan
        made.check(self.run.match.tolerance)
        self.check()
        return made

    @cached_property
    def unchecked_plan(self) -> Plan:
        """The same, whatever its mismatch: what a fairness card shows."""
        run, first = self.run, self.first and self.first.unchecked_plan
        tokens, target = _reference_amounts(run)
        by_flops = run.match.method == "budget"
        made = plan(
            self.train_flops,
            target_flops=target - (first.flops if first else 0),
            tokens=None if by_flops else tokens - (first.tokens if first else 0),
            batch_tokens=run.optim.batch_tokens,
            context=run.optim.train_context,
            is_matched=run.match.method != "tokens",
        )
        return made.after(first) if first else made

    @cached_property
    def first(self) -> "Prepared | None":
        """The training whose weights this one starts from; None where they are random.

        Raises:
            BudgetError: match holds equal what two stages cannot share.
        """
        run, stage = self.run, self.run.model.first
        if stage is None:
            return None
        if run.match.method not in ("budget", "tokens"):
            raise BudgetError(
                f"match={run.match.method} knows no training in two stages, as of {run.model.name}; use match=budget or tokens"
            )
        tokens, target = _reference_amounts(run)
        if run.match.method == "tokens":
            part = replace(run.budget, tokens=round(tokens / (1 + stage.more_tokens)), flops=None)
        else:
            short, long = stage.optim.train_context, run.optim.train_context
            mine = prepare(first_training(run, stage, run.budget)).train_flops(short) / short
            more = stage.more_tokens * self.train_flops(long) / long
            part = replace(run.budget, flops=target * mine / (mine + more), tokens=None)
        return prepare(first_training(run, stage, part))

    @property
    def corpus(self) -> Corpus | None:
        """The run's corpus, where it is prepared; a plan makes none."""
        return find_corpus(self.run.data)

    @property
    def epochs(self) -> float | None:
        """How many times the training goes through its text; None where that is not prepared."""
        return None if self.corpus is None else self.unchecked_plan.tokens / self.corpus.train_tokens

    def check(self) -> None:
        """Raises BudgetError where the training has too few steps, or is known to go through its text too often."""
        run, epochs, made = self.run, self.epochs, self.unchecked_plan
        what = f"{run.model.name}, size={run.size.name}, budget={run.budget.name}"
        if made.all_steps < run.budget.min_steps:
            raise BudgetError(
                f"{what}, optim={run.optim.name}: {made.all_steps:,} steps are fewer than "
                f"budget.min_steps={run.budget.min_steps}; choose a larger budget, or a smaller size, optim.batch_tokens or "
                "optim.train_context, or lower budget.min_steps"
            )
        if epochs is not None and epochs > run.data.max_epochs:
            raise BudgetError(
                f"{what}: {made.tokens:,} tokens are "
                f"{epochs:.1f} epochs of data={run.data.name}, more than data.max_epochs={run.data.max_epochs:g}; "
                "choose a smaller budget, add files to data.train, or raise data.max_epochs"
            )

    @property
    def heldout_documents(self) -> int:
        """How many documents are held out; where that is not known yet, how many files."""
        return len(self.run.data.heldout) if self.corpus is None else self.corpus.index.splits["heldout"].documents

    @property
    def parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(p.numel() for p in self.sketch.parameters())


def prepare(run: RunConfig) -> Prepared:
    """Settles the model's size: as configured, or matched to the reference's training FLOPs per token (ffn, depth)."""
    size, reference = size_of(run.size, run.model), run.match.reference
    is_reference = (run.model, run.size) == (reference.model, reference.size)
    if run.match.method not in ("ffn", "depth") or is_reference:
        return Prepared(run, size)
    key = {"ffn": "ffn", "depth": "layers"}[run.match.method]
    context = run.optim.train_context

    def flops(value: int) -> int:
        sized = sketch_lm(run.model, replace(size, **{key: value}), run.data.vocab)
        return _train_flops(run, sized)(context)

    multiple = run.match.multiple if key == "ffn" else 1
    target = _reference_flops(run)(context)
    if flops(2 * multiple) == flops(multiple):
        raise BudgetError(f"match=ffn cannot size '{run.model.name}', which has no feed-forward layer; use match=depth")
    return Prepared(run, replace(size, **{key: solve_linear(flops, target, multiple)}))


def _train_flops(run: RunConfig, sketch: LM) -> Callable[[int], int]:
    return lambda tokens: sketch.cost("train", tokens, _convention(run)).flops


def _convention(run: RunConfig) -> Convention:
    return cast(Convention, run.match.convention)  # checked where the configuration is parsed


def _reference_flops(run: RunConfig) -> Callable[[int], int]:
    reference = run.match.reference
    return _train_flops(run, sketch_lm(reference.model, size_of(reference.size, reference.model), run.data.vocab))


def _reference_amounts(run: RunConfig) -> tuple[float, float]:
    """Tokens that the reference model sees under the budget, and the FLOPs that it spends on them."""
    context = run.optim.train_context
    per_token = _reference_flops(run)(context) / context
    if run.budget.tokens is not None:
        return run.budget.tokens, run.budget.tokens * per_token
    assert run.budget.flops is not None  # one of the two, by bench.config.parse
    return run.budget.flops / per_token, run.budget.flops
