"""A tier: the list of cells that make a set of figures (conf/tier/*.yaml). No torch here.

A cell is a line of overrides in Hydra's grammar, so that one line stands for many runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from bench.config import CONF, ConfigError, RunConfig, compose_runs, identity
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


def load_tier(name: str, overrides: Sequence[str] = ()) -> Tier:
    """The tier with every cell expanded and ``overrides`` added to each.

    Raises:
        ConfigError: as ``tier_jobs``, or a cell of it is not possible.
    """
    runs = compose_runs(tier_jobs(name, overrides))
    return Tier(name, tuple(_told(name)["models"]), tuple(sorted(runs, key=_place)))


def tier_jobs(name: str, overrides: Sequence[str] = ()) -> list[list[str]]:
    """What ``python -m bench`` would be given for each run of a tier.

    ``seeds=N`` among the overrides stands for seeds 0 .. N - 1, in every cell that does not name its own.

    Raises:
        ConfigError: there is no such tier, or an override is not possible.
    """
    seeds = [word.removeprefix("seeds=") for word in overrides if word.startswith("seeds=")]
    others = [word for word in overrides if not word.startswith("seeds=")]
    if not all(word.isdecimal() and int(word) > 0 for word in seeds):
        raise ConfigError(f"seeds={seeds[0]} is not possible; give a whole number, 1 or more")
    check_keys(others)
    told = _told(name)
    lines = [_merged([*told["common"], *cell.split(), *_seeded(cell, seeds), *others]) for cell in told["cells"]]
    return [job for line in lines for job in expand(line)]


def _told(name: str) -> dict[str, Any]:
    if name not in tier_names():
        raise ConfigError(f"there is no tier '{name}'; choose from: {', '.join(tier_names())}")
    told: dict[str, Any] = yaml.safe_load((CONF / "tier" / f"{name}.yaml").read_text())
    return told


def _merged(words: Sequence[str]) -> list[str]:
    """Of words with the same key, the last."""
    return list({word.split("=", 1)[0]: word for word in words}.values())


def _seeded(cell: str, seeds: Sequence[str]) -> list[str]:
    return [f"seed=range({seeds[-1]})"] if seeds and " seed=" not in cell else []


def _place(run: RunConfig) -> tuple[bool, bool]:
    return run.experiment.timing, run.experiment.trained
