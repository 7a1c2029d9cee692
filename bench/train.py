"""The training loop, the same for every model: AdamW, warm-up and cosine, clipping; resumes exactly.

Recipe of the paper's table 3 and appendix C ("improved" recipe of the Mamba paper): decay on all parameters but those that
a mixer exempts. Data order is a function of the step, so that a checkpoint is all that a resumed run needs.
"""

import math
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from bench.budget import Plan
from bench.config import OptimConfig
from bench.data.batches import TrainBatches
from models.lm import LM

Curve = list[tuple[int, float]]
"""Tokens seen and mean training loss (nat/token) of a step."""


class Diverged(RuntimeError):
    """The loss is not finite."""


class CorruptCheckpoint(ValueError):
    """A checkpoint cannot be read."""


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
    """AdamW with two groups: decayed, and what mixers exempt from decay."""
    exempt = {id(p) for mixer in lm.mixers for p in mixer.undecayed()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in lm.parameters() if id(p) not in exempt], "weight_decay": optim.weight_decay},
        {"params": [p for p in lm.parameters() if id(p) in exempt], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=1e-8, fused=True
    )


def train(
    lm: LM,
    plan: Plan,
    batches: TrainBatches,
    optim: OptimConfig,
    checkpoint: Path,
    *,
    save_every_s: float = 10.0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Curve:
    """Trains ``lm`` in place, from ``checkpoint`` on where there is one, and returns the curve of every step.

    Raises:
        Diverged: the loss is not finite; the weights are those before that step.
        CorruptCheckpoint: the checkpoint cannot be read.
    """
    optimizer = make_optimizer(lm, optim)
    first, curve = _resume(lm, optimizer, checkpoint)
    lm.train()
    saved = time.monotonic()
    for step in range(first, plan.steps):
        loss = _train_step(lm, optimizer, plan, batches, optim, step)
        if not math.isfinite(loss):
            raise Diverged(f"the training loss was {loss} at step {step} of {plan.steps}; lower optim.lr={optim.lr}")
        rows, length = plan.shape(step)
        curve.append(((curve[-1][0] if curve else 0) + rows * length, loss))
        progress((step + 1) / plan.steps)
        if time.monotonic() - saved > save_every_s:
            state = {"model": lm.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "curve": curve}
            save(state, checkpoint)
            saved = time.monotonic()
    return curve


def _train_step(
    lm: LM, optimizer: torch.optim.AdamW, plan: Plan, batches: TrainBatches, optim: OptimConfig, step: int
) -> float:
    rows, length = plan.shape(step)
    tokens = torch.from_numpy(batches.batch(step * plan.rows, rows, length)).to(lm.embedding.weight.device)
    for mixer in lm.mixers:
        mixer.set_progress(step, warmup_steps(optim, plan.steps))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(optim, step, plan.steps)
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = lm.nll(tokens[:, :-1], tokens[:, 1:]).mean()
    value = loss.item()
    if math.isfinite(value):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), optim.clip)
        optimizer.step()
    return value


def save(state: dict[str, Any], path: Path) -> None:
    """Writes a file of tensors whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Reads a file of tensors; never runs code from it.

    Raises:
        CorruptCheckpoint: it is missing, truncated or damaged, or not a file of tensors.
    """
    try:
        _compare_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, BadZipFile, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        cure = f"delete the folder {path.parent}, and its training starts anew"
        raise CorruptCheckpoint(f"{path} cannot be read ({error}); {cure}") from error


def _compare_checksums(path: Path) -> None:
    """Raises BadZipFile where a tensor was damaged, which torch.load would not notice."""
    with ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(f"{damaged} in it is damaged")


def _resume(lm: LM, optimizer: torch.optim.AdamW, checkpoint: Path) -> tuple[int, Curve]:
    if not checkpoint.exists():
        return 0, []
    state = load(checkpoint)
    lm.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], [(tokens, loss) for tokens, loss in state["curve"]]
