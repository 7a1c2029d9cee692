"""A tier: the list of cells that make a set of figures (conf/tier/*.yaml). No torch here.

A cell is a line of overrides in Hydra's grammar, so that one line stands for many runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from bench.config import CONF, ConfigError, RunConfig, compose_run, identity
from bench.overrides import check_keys, expand
from bench.results import hash_of


@dataclass(frozen=True)
class Tier:
    """Its name, what figures must show, and its runs in the order in which they are best begun."""

    name: str
    models: tuple[str, ...]
    runs: tuple[RunConfig, ...]

    @property
    def config_hashes(self) -> frozenset[str]:
        """Names of all its configurations, on whatever device they were measured."""
        return frozenset(hash_of(identity(run)) for run in self.runs)


def tier_names() -> list[str]:
    """The tiers that conf/ knows."""
    return sorted(path.stem for path in (CONF / "tier").glob("*.yaml"))


def load_tier(name: str, overrides: Sequence[str] = (), seeds: int = 1) -> Tier:
    """The tier with every cell expanded; ``overrides`` are added to each, ``seeds`` are 0 .. seeds - 1.

    Raises:
        ConfigError: there is no such tier, or a cell of it is not possible.
    """
    if name not in tier_names():
        raise ConfigError(f"there is no tier '{name}'; choose from: {', '.join(tier_names())}")
    if seeds < 1:
        raise ConfigError(f"SEEDS={seeds} is not possible; it must be 1 or more")
    check_keys(overrides)
    told = yaml.safe_load((CONF / "tier" / f"{name}.yaml").read_text())
    seeded = [] if seeds == 1 else [f"seed=range({seeds})"]
    lines = [[*told["common"], *cell.split(), *seeded, *overrides] for cell in told["cells"]]
    runs = [compose_run(job) for line in lines for job in expand(line)]
    return Tier(name, tuple(told["models"]), tuple(sorted(runs, key=_place)))


def _place(run: RunConfig) -> tuple[bool, bool]:
    return run.experiment.timing, run.experiment.trained
