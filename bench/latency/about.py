"""What experiment=latency is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.config import ConfigError, SizeConfig
from bench.latency.engine import EXECS, Entrant


@dataclass(frozen=True)
class About:
    """models: files of conf/model, in the order of their turns; only those in ``only`` where it is given.

    engines, execs: of each type of device and phase, the implementations of a model (its own ``impl`` if none is named) and the
    ways to run it that are tried. grid: phase and batch of its parts, the most important first. sampling: least, most and
    seconds of bench.latency.stage.take_turns.

    Raises:
        ConfigError: a model, a phase or an exec is not one of those possible.
    """

    models: Mapping[str, Entrant]
    size: Mapping[str, Any]
    vocab: int
    engines: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
    execs: Mapping[str, Mapping[str, Sequence[str]]]
    grid: Sequence[Sequence[Any]]
    contexts: Sequence[int]
    only: Sequence[str] | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [exec_ for phases in self.execs.values() for words in phases.values() for exec_ in words]
        wanted = (
            ("only", self.only or (), tuple(self.models)),
            ("grid", [phase for phase, _ in self.grid], ("prefill", "step")),
            ("execs", named, EXECS),
        )
        for key, words, possible in wanted:
            if wrong := [word for word in words if word not in possible]:
                raise ConfigError(f"experiment.measure.{key}={wrong[0]} is not possible; choose from: {', '.join(possible)}")

    @property
    def names(self) -> list[str]:
        """Models that take part, in the order of their turns."""
        return [name for name in self.models if self.only is None or name in self.only]

    @property
    def sized(self) -> SizeConfig:
        """The size of all of them."""
        return SizeConfig(**self.size)

    def ways(self, kind: str, phase: str, name: str) -> list[tuple[str, str]]:
        """Implementation and exec of every engine that a model has on a type of device."""
        impls = self.engines.get(kind, {}).get(phase, {}).get(name) or [self.models[name].impl]
        return [(impl, exec_) for impl in impls for exec_ in self.execs[kind][phase]]
