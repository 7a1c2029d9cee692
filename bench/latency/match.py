"""Runs cells: engines pass the gate, take turns, and are written down, or why they are not."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median

from bench.config import ConfigError
from bench.hardware import is_out_of_memory
from bench.lab import Lab
from bench.latency.about import About
from bench.latency.books import TRIAL, Books, floor_s, phase_of
from bench.latency.engine import Engine, Roster
from bench.latency.gate import Examined, Truth, examine, truth_of
from bench.latency.grid import Cell
from bench.latency.session import Decode, Prefill, Session, Spot
from bench.latency.stage import Sample, Stage, take_turns
from bench.latency.telemetry import Log, Meter, medians, throttled
from bench.progress import Unfinished
from bench.results import At, Coordinate, Row
from bench.timing import synchronise
from kernels.check import CheckFailed
from kernels.op import MissingImplementation

# What ends a place, or the gate of an engine.
ENDS = ("latency", "oom", "broken", "wrong", "missing")


# How much slower a graph may be in a trial and yet go on: at smaller places it is without the launches that others wait for.
TIE = 1.02


def fastest(tried: Sequence[Row]) -> list[Row]:
    """The row of the fastest engine, or of the fastest graph where that is as fast but for TIE; none of none."""
    ranked = sorted(tried, key=lambda row: row.value)
    graphs = [row for row in ranked if str(row.at["exec"]).endswith("graph") and row.value <= TIE * ranked[0].value]
    return (graphs or ranked)[:1]


@dataclass(frozen=True, eq=False)
class Contestant:
    """An engine at a place, and what was seen of it."""

    engine: Engine
    spot: Spot
    at: At
    log: Log = field(default_factory=Log)
    seen: dict[str, float] = field(default_factory=dict)


@dataclass
class Match:
    """Runs cells and makes their rows."""

    about: About
    lab: Lab
    books: Books

    def __post_init__(self) -> None:
        lab, about = self.lab, self.about
        self.roster = Roster(about.models, about.sized, about.vocab, lab.device, lab.dtype, lab.run.seed)
        self.meter = Meter(lab.device) if lab.device.type == "cuda" else None
        self.truths: dict[str, Truth] = {}
        self.admitted: dict[tuple[str, str, str, str], bool] = {}
        self.stage = Stage(self._session, self._fetch, self._make_room, self._watch, lab.device)

    def left(self, cell: Cell) -> list[tuple[str, int]]:
        """Model and context of the places of a cell that have no row yet, whatever it says."""
        about = [(r.at["model"], r.at["context"]) for r in self.lab.recorder.rows if r.metric in ENDS and _is_in(r.at, cell)]
        return [place for place in cell.places if place not in about]

    def rows(self, cell: Cell) -> Iterator[Row]:
        """Of all in a cell that an interrupted attempt has not left: first of the gate, then times, or why there are none."""
        admitted = []
        for name, spot, impl, exec_ in self._contestants(cell):
            yield from self._admit(name, cell.phase, impl, exec_)
            if self.admitted[name, cell.phase, impl, exec_]:
                engine = self.roster.engine(name, impl, exec_)
                admitted.append(Contestant(engine, spot, self._at(name, spot, cell.part, impl, exec_)))
        failures: list[Row] = []

        def failed(contestant: Contestant, error: Exception) -> None:
            self.stage.held.pop(contestant, None)
            failures.append(self._failure(contestant.at, error))
            self._check_device()  # without a device the others would fail as well

        sampling = TRIAL if cell.part == "trial" else self.about.sampling
        try:
            taken = take_turns(admitted, self.stage.turn, failed, **sampling)
        finally:
            yield from failures
        self.stage.clear()
        for contestant, samples in taken.items():
            yield from self._times(contestant, samples)

    def not_run(self, left: Sequence[Cell]) -> Iterator[Row]:
        """Every place that is left, with the seconds that it would take."""
        for cell in left:
            seconds = self.books.seconds(cell) / len(cell.places)
            for name, context in self.left(cell):
                at = {**self._about(name), "part": cell.part, "phase": cell.phase, "batch": cell.batch, "context": context}
                yield Row(metric="not_run", value=seconds, unit="s", at=at)

    def _contestants(self, cell: Cell) -> Iterator[tuple[str, Spot, str, str]]:
        """Model, spot, implementation and exec of all without a row."""
        for name, context in cell.places:
            ways = self.about.ways(self.lab.device.type, cell.phase, name)
            if cell.part == "trial":
                ways = ways if len(ways) > 1 else []
            elif len(ways) > 1:
                ways = self._best(name, cell.phase)
            spots = [Spot(cell.phase, cell.batch, context)]
            if cell.part == "cycle":
                spots = [Spot(cell.phase, cell.batch, context, phases, slots=True) for phases in ("in_phase", "spread")]
            for impl, exec_ in ways:
                for spot in spots:
                    at = {k: v for k, v in self._at(name, spot, cell.part, impl, exec_).items() if k != "attempt"}
                    gate = {**self._about(name), "part": "gate", "phase": cell.phase, "impl": impl, "exec": exec_}
                    if not any(self.lab.recorder.has(m, **at) or self.lab.recorder.has(m, **gate) for m in ENDS):
                        yield name, spot, impl, exec_

    def _best(self, name: str, phase: str) -> list[tuple[str, str]]:
        """The engine that was ``fastest`` in the trial; none where none ended it."""
        tried = [r for r in self.lab.recorder.rows if r.metric == "latency" and r.at["part"] == "trial"]
        mine = [row for row in tried if (row.at["model"], row.at["phase"]) == (name, phase)]
        return [(str(r.at["impl"]), str(r.at["exec"])) for r in fastest(mine)]

    def _admit(self, name: str, phase: str, impl: str, exec_: str) -> Iterator[Row]:
        """The gate, once for every engine; its rows, where an earlier attempt has not left them."""
        key = (name, phase, impl, exec_)
        if key in self.admitted:
            return
        self.admitted[key] = False
        at = {**self._about(name), "part": "gate", "phase": phase, "impl": impl, "exec": exec_}
        self.lab.here = at
        try:
            self.roster.fetch(name)
            if name not in self.truths:
                self.truths[name] = truth_of(self.roster.lm(name, "reference"), self.roster.wide(name))
            found = examine(self.roster.engine(name, impl, exec_), phase, self.truths[name], self.lab.device)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it was, it is recorded and the others go on
            rows = [self._failure(at, error)]
        else:
            rows = list(self._gate_rows(at, found))
            self.admitted[key] = found.ok
            if not found.ok:
                told = f"logits are off by {found.error:.2e}, allowed {found.bound:.2e}"
                rows.append(self._failure(at, CheckFailed(told)))
        for row in rows:
            if not self.lab.recorder.has(row.metric, **row.at):
                yield row
        self._check_device()

    def _gate_rows(self, at: At, found: Examined) -> Iterator[Row]:
        yield Row(metric="relative_error", value=found.error, unit="1", at=at)
        yield Row(metric="yardstick_error", value=found.yardstick, unit="1", at=at)
        yield Row(metric="first_call", value=found.first_s, unit="s", at=at)

    def _failure(self, at: At, error: Exception) -> Row:
        kinds = ((MissingImplementation, "missing"), (CheckFailed, "wrong"))
        found = next((name for kind, name in kinds if isinstance(error, kind)), "broken")
        metric = "oom" if is_out_of_memory(error) else found
        print(f"{metric}: {_label(at)}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if metric == "broken":
            traceback.print_exception(error)
        return Row(metric=metric, value=1.0, unit="1", at=at)

    def _check_device(self) -> None:
        """Raises Unfinished where an error has cost this process its device: other processes have it still."""
        try:
            synchronise(self.lab.device)
        except RuntimeError as error:
            raise Unfinished(f"the device is lost to this process ({error}); the same command goes on") from error

    def _session(self, contestant: Contestant) -> Session:
        kind = Prefill if contestant.spot.phase == "prefill" else Decode
        session = kind(contestant.engine, contestant.spot, self.about.vocab, self.lab.device)
        contestant.seen.setdefault("first_call", session.first_call_s)
        if isinstance(session, Prefill):
            contestant.seen["step_error"] = session.step_error
        contestant.seen["tokens"] = session.tokens
        return session

    def _fetch(self, contestant: Contestant) -> None:
        self.roster.fetch(contestant.engine.entrant.name)

    def _make_room(self, contestant: Contestant) -> None:
        self.roster.clear(contestant.engine.entrant.name)

    def _watch(self, contestant: Contestant) -> AbstractContextManager[object]:
        return nullcontext() if self.meter is None else self.meter.watch(contestant.log)

    def _times(self, contestant: Contestant, samples: Sequence[Sample]) -> Iterator[Row]:
        """Rows of one contestant; its time last, which says that all are there."""
        at, spot = contestant.at, contestant.spot
        if not spot.slots:
            yield from self._beside(contestant, [sample for (sample,) in samples])
            yield from self._card(contestant, len(samples))
        for slot, seconds in enumerate(zip(*samples, strict=True)):
            where = {**at, "slot": slot} if spot.slots else at
            yield Row(metric="latency", value=median(seconds), unit="s", at=where, samples=seconds)
        mean = median(sum(sample) / len(sample) for sample in samples)
        print(f"{1e6 * mean / _tokens(spot):10.3f} µs/token: {_label(at)}", flush=True)

    def _beside(self, contestant: Contestant, seconds: Sequence[float]) -> Iterator[Row]:
        """What a time is measured by: tokens, costs, the model's own floor; the memory that it took."""
        at, spot, tokens = contestant.at, contestant.spot, _tokens(contestant.spot)
        cost = contestant.engine.plain.cost(phase_of(spot.phase), spot.context, "causal")
        least = floor_s(self.lab, cost, spot.batch)
        amounts = {
            ("flops", "FLOP"): spot.batch * cost.flops,
            ("matmul_flops", "FLOP"): spot.batch * cost.matmul_flops,
            ("weight_bytes", "byte"): cost.weight_bytes,
            ("state", "byte"): spot.batch * cost.state_bytes,
            ("state_traffic", "byte"): spot.batch * cost.state_traffic,
            ("floor", "s"): least,
            ("first_call", "s"): contestant.seen["first_call"],
        }
        if "step_error" in contestant.seen:
            amounts["step_error", "1"] = contestant.seen["step_error"]
        if contestant in self.stage.peaks:
            amounts["peak_memory", "byte"] = self.stage.peaks[contestant] + cost.weight_bytes
        for (metric, unit), value in amounts.items():
            yield Row(metric=metric, value=float(value), unit=unit, at=at)
        shares, each = tuple(least / s for s in seconds), tuple(s / tokens for s in seconds)
        yield Row(metric="floor_share", value=least / median(seconds), unit="1", at=at, samples=shares)
        yield Row(metric="token_time", value=median(each), unit="s/token", at=at, samples=each)

    def _card(self, contestant: Contestant, count: int) -> Iterator[Row]:
        """What the card said of itself meanwhile."""
        at, log = contestant.at, contestant.log
        if not log.readings:
            return
        units = {"clock_hz": ("sm_clock", "Hz"), "temperature_c": ("temperature", "°C"), "power_w": ("power", "W")}
        for name, value in medians(log.readings).items():
            metric, unit = units[name]
            yield Row(metric=metric, value=value, unit=unit, at=at)
        if log.energy_j is not None:
            per_token = log.energy_j / (count * contestant.seen["tokens"])
            yield Row(metric="energy_per_token", value=per_token, unit="J/token", at=at)
        for reason, share in throttled(log.readings).items():
            yield Row(metric="throttled", value=share, unit="1", at={**at, "reason": reason})

    def _about(self, name: str) -> dict[str, Coordinate]:
        entrant, run = self.about.models[name], self.lab.run
        return {
            "model": name,
            "backbone": entrant.backbone,
            "size": self.about.sized.name,
            "params": self.books.parameters[name],
            "mini_batch": entrant.mini_batch,
            "dtype": run.device.dtype,
            "convention": "causal",
            "seed": run.seed,
        }

    def _at(self, name: str, spot: Spot, part: str, impl: str, exec_: str) -> dict[str, Coordinate]:
        """All coordinates of a place. filled_rows: rows of the batch that were prefilled, of which the others are copies."""
        at = {**self._about(name), "part": part, "impl": impl, "exec": exec_, "phase": spot.phase, "batch": spot.batch}
        at |= {"context": spot.context, "attempt": self.lab.recorder.manifest.attempts}
        at |= {"phases": spot.phases} if spot.slots else {}
        return at | ({"filled_rows": 1} if spot.phase == "step" else {})


def _is_in(at: At, cell: Cell) -> bool:
    return (at.get("part"), at.get("phase"), at.get("batch")) == (cell.part, cell.phase, cell.batch)


def _label(at: At) -> str:
    """A place in short."""
    keys = ("part", "model", "size", "phase", "impl", "exec", "batch", "context", "phases")
    return " ".join(str(at[key]) for key in keys if key in at)


def _tokens(spot: Spot) -> int:
    """Tokens of a prefill or of a step."""
    return spot.batch * (spot.context if spot.phase == "prefill" else 1)
