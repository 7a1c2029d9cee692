"""Perplexity after training under the budget, and what the fairness card says of it (paper, figures 10 and 11)."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bench import distributed
from bench.build import Prepared
from bench.data.batches import TrainBatches, heldout_windows
from bench.evaluate import bits_per_byte, clusters, window_nll
from bench.lab import Lab
from bench.results import At, Row
from bench.sharding import whole_state
from bench.throughput import place, speed_rows
from bench.train import Curve, Diverged, Log, load, save, train


@dataclass(frozen=True)
class Train:
    """Trains, then scores every token of some splits once, in windows of the training context.

    curve_points: rows of the training curve, about, written as it trains. heldout, validation: whether to score them (a search
    of learning rates scores only the latter). evaluate_share: the progress at which scoring begins.
    """

    heldout: bool = True
    validation: bool = False

    curve_points: int = 50
    evaluate_share: float = 0.85

    def flops(self, prepared: Prepared) -> float:
        """Training FLOPs of the plan; scoring documents is not counted."""
        return prepared.unchecked_plan.flops

    def measure(self, lab: Lab) -> Iterator[Row]:
        """Rows of the card, the curve and the held-out log-likelihood; of several processes the first scores."""
        yield from (row for row in card(lab) if not lab.recorder.has(row.metric))
        log = self._trained(lab)
        if not distributed.is_first():
            return
        for step in range(len(log.curve)):
            yield from self._point(lab, log.curve, step)
        at = place(lab.run.train, lab.run.optim.train_context, lab.prepared.plan.rows)
        rows = [
            *speed_rows(lab, at, log.rates, log.first_step_s, [log.peak_bytes]),
            lab.row("train_time", log.seconds, "s", at),
        ]
        if lab.start is not None:
            rows.append(lab.row("first_stage_time", Log.of(load(lab.start)["log"]).seconds, "s", at))
        yield from (row for row in rows if not lab.recorder.has(row.metric))
        for split, is_scored in (("validation", self.validation), ("heldout", self.heldout)):
            if is_scored:
                yield from self._scored(lab, split)

    def _trained(self, lab: Lab) -> Log:
        weights = lab.weights
        assert weights is not None  # conf/experiment/train.yaml: trains
        if (done := distributed.told(lambda: load(weights)["log"] if weights.exists() else None)) is not None:
            return Log.of(done)
        lm, run = lab.lm_to_train(lab.run.train), lab.run
        batches = TrainBatches(lab.corpus.stream, run.optim.train_context, run.seed, lab.corpus.index.bos)
        checkpoints, plan = lab.recorder.folder / "checkpoints", lab.prepared.plan
        try:
            log = train(
                *(lm, plan, batches, run.optim, checkpoints),
                how=run.train,
                of=lab.recorder.manifest.config_hash,
                until=lab.until,
                progress=lambda done, log: self._tell(lab, done, log),
            )
        except Diverged as error:
            lab.here = {} if error.step is None else {"step": error.step}
            raise
        state = whole_state(lm)
        if distributed.is_first():
            lab.corpus.keep_tokenizer(lab.recorder.folder)
            save({"model": state, "log": asdict(log), "content": lab.corpus.index.content}, weights)
            shutil.rmtree(checkpoints, ignore_errors=True)
        return log

    def _tell(self, lab: Lab, done: float, log: Log) -> None:
        """The curve is on disk while it grows."""
        for row in self._point(lab, log.curve, len(log.curve) - 1):
            lab.recorder.write(row)
        speed = f", {log.rates[-1]:,.0f} token/s" if log.rates else ""
        lab.progress(self.evaluate_share * done, f"loss {log.curve[-1][1]:.3f}{speed}")

    def _point(self, lab: Lab, curve: Curve, step: int) -> Iterator[Row]:
        """The row of a step of the curve, where one is due and not there yet: every so many steps, and the last."""
        steps, (tokens, loss) = lab.prepared.plan.steps, curve[step]
        is_due = step % max(1, steps // self.curve_points) == 0 or step == steps - 1
        if is_due and not lab.recorder.has("train_nll", tokens=tokens):
            yield lab.row("train_nll", loss, "nat/token", {"split": "train", "tokens": tokens})

    def _scored(self, lab: Lab, split: str) -> Iterator[Row]:
        context, documents = lab.run.optim.train_context, lab.documents(split)
        windows = heldout_windows(documents, context)
        losses = window_nll(lab.trained_lm(), windows, lab.run.device.tokens_at_once)
        counts = [len(loss) for loss in losses]
        mean = sum(float(loss.sum(dtype="float64")) for loss in losses) / sum(counts)
        if not math.isfinite(mean):
            raise Diverged(f"the {split} loss was {mean}: the last step spoiled the weights; lower optim.lr={lab.run.optim.lr}")
        place = clusters(windows, documents)
        at: At = {"split": split, "context": context, "n_targets": sum(counts), "clusters": place}
        for row in (
            lab.row("targets", sum(counts), "token", at, counts),
            lab.row("bits_per_byte", bits_per_byte(mean, documents), "bit/byte", at),
            lab.row("nll", mean, "nat/token", at, [float(loss.mean(dtype="float64")) for loss in losses]),
        ):
            if not lab.recorder.has(row.metric, split=split):
                yield row


def card(lab: Lab) -> Iterator[Row]:
    """The fairness card: what was held equal, what was not, and what is left of the difference."""
    run, prepared, plan, corpus = lab.run, lab.prepared, lab.prepared.unchecked_plan, lab.corpus
    context = run.optim.train_context
    total = prepared.train_flops(context)
    head = prepared.sketch.head_cost("train", context).flops
    for metric, value, unit in (
        ("parameters", prepared.parameters, "1"),
        ("flops_per_token", plan.flops_per_token, "FLOP/token"),
        ("tokens", plan.tokens, "token"),
        ("steps", plan.all_steps, "1"),
        ("learning_rate", run.optim.lr, "1"),
        ("state", prepared.state_bytes(context), "byte"),
        ("head_share", head / total, "1"),
        ("train_flops", plan.flops, "FLOP"),
        ("mismatch", plan.mismatch, "1"),
    ):
        yield lab.row(metric, value, unit, {"context": context})
    content, overlap = corpus.index.content, list(corpus.index.overlap.values())
    yield lab.row("epochs", plan.tokens / corpus.train_tokens, "1", {"context": context, "content": content})
    yield lab.row("overlap", max(overlap), "1", {"split": "heldout", "content": content}, overlap)
