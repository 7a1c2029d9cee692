"""The gate: an engine is timed only where its logits agree with the reference's, on a short sequence at the model's own size.

A beginning of a ragged length, then steps over the end of a mini-batch, give the logits that the reference has of the whole
sequence; what the engine is for, one or the other, runs as it is timed (compiled, from a graph). The reference is causal, so
what agrees with it at every one of these places is too. *Truth*: the reference in a wider dtype, with the same rounded weights;
*yardstick*: the reference in the dtype of the engine. An engine may have FACTOR times the yardstick's error, or that of a
kernel in float32 (kernels/check.py).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.latency.engine import Engine
from bench.timing import synchronise
from kernels.check import EXACT, relative_error
from models.lm import LM
from models.mixer import copy_row, state_tensors

FACTOR = 2.0
ROWS, BEGUN, STEPS = 2, 53, 20


@dataclass(frozen=True)
class Examined:
    """Relative error of all logits, and the yardstick's; seconds of the engine's first call."""

    error: float
    yardstick: float
    first_s: float

    @property
    def bound(self) -> float:
        """The most that is allowed."""
        return max(FACTOR * self.yardstick, EXACT)

    @property
    def ok(self) -> bool:
        """The engine may be timed."""
        return self.error <= self.bound


@dataclass(frozen=True)
class Truth:
    """Tokens [ROWS, BEGUN + STEPS], logits of the last STEPS + 1 of them, and the yardstick's error."""

    tokens: Tensor
    logits: Tensor
    yardstick: float


@torch.no_grad()
def truth_of(reference: LM, wide: LM) -> Truth:
    """What engines of a model are held against; ``wide``: the reference with the same weights in a wider dtype."""
    weight = reference.head.weight
    tokens = torch.randint(weight.shape[0], (ROWS, BEGUN + STEPS), device=weight.device)
    logits = wide(tokens)[:, BEGUN - 1 :]
    return Truth(tokens, logits, relative_error(reference(tokens)[:, BEGUN - 1 :], logits))


@torch.no_grad()
def examine(engine: Engine, phase: str, truth: Truth, device: torch.device) -> Examined:
    """Runs an engine for ``phase`` on the truth's tokens."""
    lm, other, tokens = engine.lm, engine.plain, truth.tokens
    beginner, stepper = (lm, other) if phase == "prefill" else (other, lm)
    state, fresh, logits = lm.init_state(ROWS, BEGUN + 2 * STEPS), lm.init_state(1, 1), torch.empty_like(truth.logits[:, 0])
    token = tokens[:, BEGUN].clone()
    found = []

    def begin() -> None:
        logits.copy_(beginner.begin(tokens[:, :BEGUN], state))

    def step() -> None:
        logits.copy_(stepper.step(token, state))

    def renewed(call: Callable[[], object]) -> tuple[Callable[[], object], float]:
        """The call as it is timed, the seconds of its first time, and the state as it was before."""
        held = [tensor.clone() for tensor in state_tensors(state)]
        start = time.perf_counter()
        call()
        synchronise(device)
        first_s = time.perf_counter() - start
        ready = engine.ready(call, device)
        for tensor, before in zip(state_tensors(state), held, strict=True):
            tensor.copy_(before)
        return ready, first_s

    run, first_s = renewed(begin) if phase == "prefill" else (begin, 0.0)
    copy_row(state, fresh)
    run()
    found.append(logits.clone())
    run, first_s = renewed(step) if phase == "step" else (step, first_s)
    for at in range(BEGUN, BEGUN + STEPS):
        token.copy_(tokens[:, at])
        run()
        found.append(logits.clone())
    return Examined(relative_error(torch.stack(found, 1), truth.logits), truth.yardstick, first_s)
