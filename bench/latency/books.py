"""What cells cost, in FLOPs and bytes, and how long they will take."""

from dataclasses import dataclass
from functools import cached_property

import torch

from bench.ceilings import ceiling
from bench.lab import Lab
from bench.latency.about import About
from bench.latency.grid import Cell, cells
from bench.latency.session import CYCLE
from models.cost import Cost, Phase

# What a trial takes: enough to tell engines apart.
TRIAL = {"least": 5, "most": 10, "seconds": 1.0}
# Guesses of the forecast until cells have told: a call over its floor; seconds to set a session up, and to compile a model.
OVER_FLOOR = 2.5
SETUP_S = {"cuda": 1.5, "cpu": 0.05}
COMPILE_S = {"cuda": 20.0, "cpu": 60.0}


@dataclass
class Books:
    """What cells cost and how long they will take: from the floors of their calls, and from how long cells took so far."""

    about: About
    dtype: torch.dtype
    lab: Lab | None = None
    taken_s: float = 0.0
    expected_s: float = 0.0

    def __post_init__(self) -> None:
        self.costs: dict[tuple[str, str, int], Cost] = {}
        with torch.device("meta"):
            built = {n: self.about.models[n].build(self.about.sized, self.about.vocab, "reference") for n in self.about.names}
        self.sketches = {name: lm.cast(self.dtype) for name, lm in built.items()}
        self.parameters = {name: sum(p.numel() for p in lm.parameters()) for name, lm in built.items()}

    @cached_property
    def cells(self) -> list[Cell]:
        """All of them, in their order."""
        names = self.about.names
        growing = [n for n in names if self.cost(n, "step", 2).state_bytes > self.cost(n, "step", 1).state_bytes]
        cyclic = [name for name in names if self.about.models[name].mini_batch > 1]
        found = cells(names, growing, cyclic, [(phase, batch) for phase, batch in self.about.grid], self.about.contexts)
        return [cell for cell in found if cell.part != "trial" or self._is_tried(cell)]

    def _is_tried(self, cell: Cell) -> bool:
        """Whether a model has several engines here."""
        kinds = [self.lab.device.type] if self.lab is not None else list(self.about.execs)
        return any(len(self.about.ways(kind, cell.phase, name)) > 1 for kind in kinds for name, _ in cell.places)

    def cost(self, name: str, phase: str, context: int) -> Cost:
        """Of the reference: what others hold differs little."""
        key = (name, phase, context)
        if key not in self.costs:
            self.costs[key] = self.sketches[name].cost(phase_of(phase), context, "causal")
        return self.costs[key]

    def seconds(self, cell: Cell) -> float:
        """Forecast of a cell."""
        pace = self.taken_s / self.expected_s if self.expected_s > 20 else 1.0
        return pace * self._guess(cell)

    def took(self, cell: Cell, seconds: float) -> None:
        """What a cell that was measured now says of the others."""
        if seconds > 0.01:  # else it was done before
            self.taken_s, self.expected_s = self.taken_s + seconds, self.expected_s + self._guess(cell)

    def _guess(self, cell: Cell) -> float:
        assert self.lab is not None
        kind, total = self.lab.device.type, 0.0
        limits = {"least": 5, "most": 20, "seconds": 3.0, **self.about.sampling, **(TRIAL if cell.part == "trial" else {})}
        for name, context in cell.places:
            call = OVER_FLOOR * floor_s(self.lab, self.cost(name, cell.phase, context), cell.batch)
            call *= calls_of(cell)
            once = SETUP_S[kind] + max(limits["least"], min(limits["most"], limits["seconds"] / call)) * call
            ways = self.about.ways(kind, cell.phase, name) if cell.part == "trial" else [("", "")]
            compiled = sum(exec_.startswith("compile") for _, exec_ in ways) if len(ways) > 1 else 0
            total += once * (len(ways) if len(ways) > 1 or cell.part != "trial" else 0) + compiled * COMPILE_S[kind]
        return total

    def plan(self) -> str:
        """A line for each cell and its minutes."""
        lines = [f"{self.seconds(cell) / 60:7.2f} min  {cell.label}" for cell in self.cells]
        return "\n".join([*lines, f"{sum(map(self.seconds, self.cells)) / 60:7.2f} min  in all, about"])


def calls_of(cell: Cell) -> int:
    """Calls of a model in one sample."""
    return CYCLE if cell.phase == "step" else 1


def phase_of(phase: str) -> Phase:
    """A word of the grid as models know it."""
    return "prefill" if phase == "prefill" else "step"


def floor_s(lab: Lab, cost: Cost, batch: int) -> float:
    """The least time of a call: its bytes of weights and state as fast as a copy, or its matrix products as a large one."""
    moved = cost.weight_bytes + batch * cost.state_traffic
    return max(moved / ceiling(lab, "copy_rate"), batch * cost.matmul_flops / ceiling(lab, "matmul_rate"))
