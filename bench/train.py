"""The training loop, the same for every model: AdamW, warm-up and cosine, clipping, micro-batches; resumes exactly.

Over several processes too (bench/distributed.py): whatever their number, a batch is the same batch.

Recipe of the paper's table 3 and appendix C ("improved" recipe of the Mamba paper): decay on all parameters but those that
a mixer exempts. Weights, gradients and AdamW are float32 whatever the model computes in. Data order is a function of the step,
so that a checkpoint is all that a resumed run needs.
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench import distributed
from bench.budget import Plan
from bench.checkpoints import Checkpoints, CorruptCheckpoint
from bench.config import OptimConfig, TrainConfig
from bench.data.batches import TrainBatches
from bench.graphs import Backward, Replayed
from bench.hardware import begin_peak, peak_bytes
from bench.progress import Unfinished
from bench.sharding import apart, clip_gradients
from models.checkpoints.config import CheckpointError
from models.checkpoints.files import read_saved
from models.lm import LM

Curve = list[tuple[int, float]]
"""Tokens seen and mean training loss (nat/token) of a step."""


# Intervals in which a training is timed, at most so many.
INTERVALS = 100


@dataclass
class Log:
    """What a training tells of itself, over all its attempts.

    rates: tokens/s of each interval, but the first of an attempt, which warms up. first_step_s: seconds of the first step,
    compiling included. seconds: of all steps together. peak_bytes: largest memory allocated on a GPU, 0 on a CPU.
    """

    curve: Curve = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    first_step_s: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Log":
        """The inverse of ``asdict``, from what ``load`` gives."""
        return cls(**{**state, "curve": [(tokens, loss) for tokens, loss in state["curve"]]})


class Meter:
    """The clock of one attempt: ``step`` is called at the end of each step, and writes to ``log``."""

    def __init__(self, log: Log, interval: int, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.log, self.interval, self.device, self.clock = log, interval, device, clock
        self.steps, self.tokens, self.last, self.start = 0, 0, clock(), 0.0
        begin_peak(device)

    def step(self, tokens: int) -> None:
        """One more step of so many tokens."""
        now = self.clock()
        self.log.first_step_s = self.log.first_step_s or now - self.last
        self.log.seconds += now - self.last
        self.steps, self.tokens, self.last = self.steps + 1, self.tokens + tokens, now
        if self.steps % self.interval == 0:
            if self.steps > self.interval:
                self.log.rates.append(self.tokens / (now - self.start))
            self.tokens, self.start = 0, now
        self.log.peak_bytes = max(self.log.peak_bytes, peak_bytes(self.device))

    def resume(self) -> None:
        """The clock goes on from here: what was done since the step is not timed."""
        pause = self.clock() - self.last
        self.last, self.start = self.last + pause, self.start + pause


class Diverged(RuntimeError):
    """The loss is not finite; ``step``: at which step of a training, counted from 0, if it was one."""

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Linear from 0 to ``lr`` over the warm-up, then cosine to ``final_lr`` at the last step."""
    warmup = warmup_steps(optim, steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return optim.final_lr + (optim.lr - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def warmup_steps(optim: OptimConfig, steps: int) -> int:
    """At least one."""
    return max(1, round(optim.warmup * steps))


def make_optimizer(lm: LM, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW with two groups, decayed and what mixers exempt from decay; of each, what is spread over processes is one apart."""
    exempt = {id(p) for mixer in lm.mixers for p in mixer.undecayed()}
    decayed = [p for p in lm.parameters() if id(p) not in exempt], optim.weight_decay
    others = [p for p in lm.parameters() if id(p) in exempt], 0.0
    groups = [{"params": part, "weight_decay": decay} for kept, decay in (decayed, others) for part in apart(kept)]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=1e-8, fused=True)


def train(
    lm: LM,
    plan: Plan,
    batches: TrainBatches,
    optim: OptimConfig,
    checkpoints: Path,
    *,
    how: TrainConfig | None = None,
    of: str = "",
    save_every_s: float = 10.0,
    until: float = math.inf,
    progress: Callable[[float, Log], None] = lambda fraction, log: None,
) -> Log:
    """Trains ``lm`` in place, from the last of ``checkpoints`` on where there is one. It computes as ``lm.train_in`` left it.

    of, save_every_s: see ``Checkpoints``. until: the moment, of time.monotonic, after which no further step is begun.
    ``progress`` is called after each step, with the share that is done and the log so far; its time is not the training's.

    Raises:
        Diverged: the loss is not finite; the weights are those before that step.
        Unfinished: ``until`` came; a checkpoint is left.
        CorruptCheckpoint: the checkpoint cannot be read, or is another training's.
        Uneven: the processes cannot share a batch.
    """
    distributed.check_shares(plan.rows)
    optimizer, how = make_optimizer(lm, optim), how or TrainConfig()
    backward = make_backward(lm, how, batches.unscored)
    kept = Checkpoints(checkpoints, of, how, save_every_s)
    found = kept.resume(lm, optimizer)
    first, log = (0, Log()) if found is None else (found[0], Log.of(found[1]))
    lm.train()
    device = lm.embedding.weight.device
    meter = Meter(log, math.ceil(plan.steps / INTERVALS), device)
    for step in range(first, plan.steps):
        rows, length = plan.shape(step)
        mine = distributed.share(rows)
        tokens = torch.from_numpy(batches.batch(step * plan.rows + mine.start, len(mine), length)).to(device)
        set_progress(lm, optimizer, optim, step, plan.steps)
        with _compiling(anew=step == first) if how.compile else nullcontext():
            loss = update(lm, optimizer, tokens, optim.clip, backward, how.micro_batch, rows)
        if not math.isfinite(loss):
            raise Diverged(f"the training loss was {loss} at step {step} of {plan.steps}; lower optim.lr={optim.lr}", step)
        meter.step(rows * length)
        log.curve.append(((log.curve[-1][0] if log.curve else 0) + rows * length, loss))
        progress((step + 1) / plan.steps, log)
        if until < math.inf and step + 1 < plan.steps and distributed.told(lambda: time.monotonic() > until):
            kept.save(lm, optimizer, step + 1, lambda: asdict(log))
            raise Unfinished(f"max_minutes are over after {step + 1} of {plan.steps} steps")
        kept.save_if_due(lm, optimizer, step + 1, lambda: asdict(log))
        meter.resume()
    return log


def _compiling(*, anew: bool) -> AbstractContextManager[None]:
    """Whether what is new may be compiled: the last batch, which is shorter, is not worth the time."""
    return torch.compiler.set_stance("default" if anew else "eager_on_recompile")


def set_progress(lm: LM, optimizer: torch.optim.AdamW, optim: OptimConfig, step: int, steps: int) -> None:
    """Sets what follows a schedule, for a step counted from 0: outer and inner learning rate."""
    for mixer in lm.mixers:
        mixer.set_progress(step, warmup_steps(optim, steps))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(optim, step, steps)


def update(
    lm: LM,
    optimizer: torch.optim.AdamW,
    tokens: Int[Tensor, "B T"],
    clip: float,
    backward: Backward,
    micro_batch: int = 0,
    rows: int | None = None,
) -> float:
    """One step of the optimizer for tokens [B, T + 1]; returns the mean loss, and leaves the weights where it is not finite.

    ``micro_batch`` sequences go through the model together, 0 for all: their gradients add up to the batch's.
    ``rows``: sequences of the whole batch, of which ``tokens`` are this process's share; if not given, they are all.
    """
    optimizer.zero_grad(set_to_none=True)
    losses = [backward(part, weight) for part, weight in distributed.parts(tokens, micro_batch, rows or len(tokens))]
    value = distributed.mean(torch.stack(losses).sum()).item()
    if math.isfinite(value):
        clip_gradients(lm, clip)
        optimizer.step()
    return value


def make_backward(lm: LM, how: TrainConfig | None = None, unscored: int | None = None) -> Backward:
    """That of ``sequence_loss``, as ``how`` says.

    Raises:
        ConfigError: see ``Replayed``.
    """

    def eager(tokens: Tensor, weight: float) -> Tensor:
        loss = sequence_loss(lm, tokens, unscored) * weight
        loss.backward()
        return loss.detach()

    return Replayed(eager, lm, lm.embedding.weight.device) if how is not None and how.graph else eager


def sequence_loss(lm: LM, tokens: Int[Tensor, "B T"], unscored: int | None = None) -> Float[Tensor, ""]:
    """Mean over sequences of the mean nll (nat) of their targets; ``unscored``, BOS as in the paper's code, is none."""
    targets = tokens[:, 1:]
    nll = lm.nll(tokens[:, :-1], targets)
    if unscored is None:
        return nll.mean()
    scored = targets != unscored
    return ((nll * scored).sum(1) / scored.sum(1).clamp(min=1)).mean()


def save(state: dict[str, Any], path: Path) -> None:
    """Writes a file of tensors whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Reads a file of tensors; never runs code from it.

    Raises:
        CorruptCheckpoint: it is missing, truncated or damaged, or not a file of tensors.
    """
    try:
        return read_saved(path)
    except CheckpointError as error:
        cure = f"delete the folder {path.parent}, and its training starts anew"
        raise CorruptCheckpoint(f"{error}; {cure}") from error
