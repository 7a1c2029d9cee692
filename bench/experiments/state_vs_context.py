"""Bytes that a sequence occupies between tokens: a KV cache grows with the context, a recurrent state does not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.build import Prepared
from bench.lab import Lab
from bench.results import Row


@dataclass(frozen=True)
class StateVsContext:
    """Counted on the state that the model allocates, on ``meta``."""

    contexts: Sequence[int]

    def flops(self, prepared: Prepared) -> float:
        """None: nothing is computed."""
        return 0.0

    def measure(self, lab: Lab) -> Iterator[Row]:
        """state (byte) of one sequence at every context."""
        for context in lab.remaining("state", "context", self.contexts):
            yield lab.row("state", lab.prepared.state_bytes(context, lab.dtype), "byte", {"context": context, "batch": 1})
