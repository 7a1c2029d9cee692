"""Which places are measured, and in which order: the most important first, so that a run may be cut anywhere. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["trial", "grid", "cycle"]


@dataclass(frozen=True)
class Cell:
    """Models that take turns, each at a context.

    part: trial, every engine of each model, of which the fastest goes on; grid; cycle, every step of a TTT mini-batch apart.
    """

    part: Part
    phase: str
    batch: int
    places: tuple[tuple[str, int], ...]

    @property
    def label(self) -> str:
        """For people."""
        contexts = ", ".join(f"{context:,}" for context in sorted({context for _, context in self.places}))
        return f"{self.part} {self.phase} B{self.batch} at {contexts}"


def cells(
    models: Sequence[str],
    growing: Sequence[str],
    cyclic: Sequence[str],
    grid: Sequence[tuple[str, int]],
    contexts: Sequence[int],
) -> list[Cell]:
    """Cells in their order.

    grid: phase and batch, in order; the first of a phase also has its trial, at the first context. A prefill is measured at
    every context. A step, whose time depends on its depth in ``growing`` models only, is measured at both ends in one cell,
    where equality shows, and of these models at all depths between; of ``cyclic`` ones slot by slot after the first batch.
    """
    found: list[Cell] = []
    ends = sorted({min(contexts), max(contexts)})
    for phase, batch in grid:
        is_first = phase not in {cell.phase for cell in found}
        if is_first:
            found.append(Cell("trial", phase, batch, tuple((name, contexts[0]) for name in models)))
        if phase == "prefill":
            found += [Cell("grid", phase, batch, tuple((name, context) for name in models)) for context in contexts]
            continue
        found.append(Cell("grid", phase, batch, tuple((name, context) for context in ends for name in models)))
        between = [context for context in contexts if context not in ends]
        found += [Cell("grid", phase, batch, tuple((name, context) for name in growing)) for context in between if growing]
        if is_first and cyclic:
            found.append(Cell("cycle", phase, batch, tuple((name, ends[0]) for name in cyclic)))
    return found
