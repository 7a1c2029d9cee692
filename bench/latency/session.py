"""One model at one place, ready to be timed again and again: a prefill of a batch, or steps from a depth.

Times are what a caller waits for, from the call to the end of all that it launched.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.latency.engine import Engine
from bench.timing import intervals, sample
from kernels.check import FOREIGN, CheckFailed, relative_error
from models.mixer import State, copy_row, positions

# Steps of a sample of a model without mini-batches.
CYCLE = 16


@dataclass(frozen=True)
class Spot:
    """Where a model is timed. phases: rows of the batch in_phase or spread over a mini-batch; slots: each of its steps."""

    phase: str
    batch: int
    context: int
    phases: str = "in_phase"
    slots: bool = False


@dataclass
class Session(ABC):
    """``sample`` may be called any number of times."""

    engine: Engine
    spot: Spot
    vocab: int
    device: torch.device
    first_call_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Makes state and inputs, and runs once what will be timed."""

    @abstractmethod
    def sample(self) -> tuple[float, ...]:
        """Seconds of one prefill or step; with slots, of each step of a mini-batch."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Tokens that the batch reads or makes while a sample is taken."""

    def _first(self, call: Callable[[], object]) -> None:
        """Once before it is captured or timed: whatever is compiled or tuned is then."""
        (self.first_call_s,) = sample(call, self.device, warm_up=0, least=1, most=1)


class Prefill(Session):
    """From token ids to the last token's logits, the greedy token, and a state that is ready for a step."""

    def _prepare(self) -> None:
        lm, spot = self.engine.lm, self.spot
        self.read = torch.randint(self.vocab, (spot.batch, spot.context + 1), device=self.device)
        self.fresh, self.state = lm.init_state(1, 1), lm.init_state(spot.batch, spot.context + 1)
        self.next = torch.zeros(spot.batch, dtype=torch.long, device=self.device)
        self._first(self._call)
        self.step_error = self._step_error()
        self.run = self.engine.ready(self._call, self.device, warm_up=1)

    def _call(self) -> None:
        self.next.copy_(self.engine.lm.begin(self.read[:, :-1], self.state).argmax(-1))

    def _renew(self) -> None:
        copy_row(self.state, self.fresh)

    def sample(self) -> tuple[float, ...]:
        return sample(self.run, self.device, prepare=self._renew, warm_up=0, least=1, most=1)

    @property
    def tokens(self) -> int:
        return self.spot.batch * self.spot.context

    def _step_error(self) -> float:
        """How far the logits of a step after it are off those of a prefill with a token more; of the first row.

        Raises:
            CheckFailed: they are other logits.
        """
        plain = self.engine.plain
        found = plain.step(self.read[:, -1], self.state)[:1]
        error = relative_error(found, plain.begin(self.read[:1], plain.init_state(1, self.spot.context + 1)))
        if not error <= FOREIGN:
            raise CheckFailed(f"a step after it is off by {error:.2e} from a prefill with a token more, allowed {FOREIGN:.2e}")
        return error


class Decode(Session):
    """Greedy steps, chosen on the device. One row is prefilled to the depth and copied over the batch.

    A sample is a whole mini-batch of steps, after which rows go back to where they stood, so that every sample is taken at the
    same depth. Rows ``spread`` have read 0, 1, … further tokens.
    """

    def _prepare(self) -> None:
        lm, spot = self.engine.lm, self.spot
        self.cycle = self.engine.entrant.mini_batch or CYCLE
        length = spot.context + 3 * self.cycle
        row, self.state = lm.init_state(1, length), lm.init_state(spot.batch, length)
        self.read = torch.randint(self.vocab, (1, spot.context), device=self.device)
        token = self.engine.plain.begin(self.read, row).argmax(-1)
        self.start = token.repeat(spot.batch)
        self._fill(row, token)
        self.next = self.start.clone()
        self.places = [(tensor, tensor.clone()) for tensor in positions(self.state)]
        self._first(self._call)
        self.run = self.engine.ready(self._call, self.device)
        self.sample()

    def _fill(self, row: State, token: Tensor) -> None:
        """All rows alike; spread, every one of a mini-batch's slots has a row further on by a token."""
        if self.spot.phases == "in_phase":
            copy_row(self.state, row)
            return
        for slot in range(self.cycle):
            copy_row(self.state, row, at=slice(slot, None, self.cycle))
            self.start[slot :: self.cycle] = token
            token = self.engine.plain.step(token, row).argmax(-1)

    def _call(self) -> None:
        self.next.copy_(self.engine.lm.step(self.next, self.state).argmax(-1))

    def _rewind(self) -> None:
        for tensor, place in self.places:
            tensor.copy_(place)

    def _cycle(self) -> None:
        for _ in range(self.cycle):
            self.run()

    def sample(self) -> tuple[float, ...]:
        if self.spot.slots:
            return intervals(self.run, self.cycle, self.device, self._rewind)
        (seconds,) = sample(self._cycle, self.device, prepare=self._rewind, warm_up=0, least=1, most=1)
        return (seconds / self.cycle,)

    @property
    def tokens(self) -> int:
        return self.spot.batch * self.cycle
