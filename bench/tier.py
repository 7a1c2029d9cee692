"""A tier: the list of cells that make a set of figures (conf/tier/*.yaml). No torch here.

A cell is a line of overrides in Hydra's grammar, so that one line stands for many runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from bench.compose import compose_runs
from bench.config import CONF, ConfigError, RunConfig, identity
from bench.overrides import check_keys, expand
from bench.results import Run, hash_of, read_runs

# Groups of conf/ whose choice is recorded under its own name.
NAMED = {"model", "size", "budget", "data", "optim", "device", "experiment"}


@dataclass(frozen=True)
class Tier:
    """Its name, what figures must show, its runs in the order in which they are best begun, and what it is in words."""

    name: str
    models: tuple[str, ...]
    runs: tuple[RunConfig, ...]
    title: str = ""
    about: str = ""

    @cached_property
    def config_hashes(self) -> frozenset[str]:
        """Names of all its configurations, on whatever device they were measured."""
        return frozenset(hash_of(identity(run)) for run in self.runs)

    def recorded(self, roots: Iterable[Path]) -> list[Run]:
        """Its runs below ``roots``, as far as they are there."""
        return [run for run in read_runs(roots) if run.manifest.config_hash in self.config_hashes]


def tier_names() -> list[str]:
    """The tiers that conf/ knows."""
    return sorted(path.stem for path in (CONF / "tier").glob("*.yaml"))


def tier_file(name: str) -> dict[str, Any]:
    """What conf/tier says of a tier.

    Raises:
        ConfigError: there is no such tier.
    """
    if name not in tier_names():
        raise ConfigError(f"there is no tier '{name}'; choose from: {', '.join(tier_names())}")
    return dict(yaml.safe_load((CONF / "tier" / f"{name}.yaml").read_text()))


def load_tier(name: str, overrides: Sequence[str] = ()) -> Tier:
    """The tier with every cell expanded and ``overrides`` added to each.

    Raises:
        ConfigError: as ``tier_jobs``, or a cell of it is not possible.
    """
    runs, told = compose_runs(tier_jobs(name, overrides)), tier_file(name)
    return Tier(
        name, tuple(told["models"]), tuple(sorted(runs, key=lambda run: run.experiment.timing)), told["title"], told["about"]
    )


def tier_jobs(name: str, overrides: Sequence[str] = ()) -> list[list[str]]:
    """What ``python -m bench`` would be given for each run of a tier.

    ``seeds=N`` among the overrides stands for seeds 0 .. N - 1, in every cell that does not name its own. The tier's name is
    the group in which tracking shows its runs.

    Raises:
        ConfigError: there is no such tier, or an override is not possible.
    """
    seeds = [word.removeprefix("seeds=") for word in overrides if word.startswith("seeds=")]
    others = [word for word in overrides if not word.startswith("seeds=")]
    if not all(word.isdecimal() and int(word) > 0 for word in seeds):
        raise ConfigError(f"seeds={seeds[0]} is not possible; give a whole number, 1 or more")
    check_keys(others)
    told = tier_file(name)
    common = [f"tracking.group={name}", *told["common"]]
    lines = [[*common, *cell.split(), *_seeded(cell, seeds), *others] for cell in told["cells"]]
    return [job for line in lines for job in expand(line)]


def tiers_of(runs: Sequence[Run]) -> list[Tier]:
    """The tiers that have one of these runs; where its runs have further seeds, a tier has them in every cell."""
    common = {name: tier_file(name)["common"] for name in tier_names()}
    mine = {name: [run.manifest for run in runs if _may_hold(words, run)] for name, words in common.items()}
    asked = [(name, {one.config_hash: one.seed for one in found}) for name, found in mine.items() if found]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # Hydra composes a few runs a second
        tiers = list(pool.map(_seeded_as, *zip(*asked, strict=True))) if asked else []
    have = {run.manifest.config_hash for run in runs}
    return [tier for tier in tiers if have & tier.config_hashes]


def _seeded_as(name: str, seeds: Mapping[str, int]) -> Tier:
    """The tier, with more seeds where those of the given configurations (hash to seed) that it lacks are then in it."""
    tier = load_tier(name)
    lacking = [seed for config_hash, seed in seeds.items() if config_hash not in tier.config_hashes]
    if not any(lacking):
        return tier
    larger = load_tier(name, [f"seeds={1 + max(lacking)}"])
    return larger if len(seeds.keys() & larger.config_hashes) > len(seeds.keys() & tier.config_hashes) else tier


def _may_hold(common: Sequence[str], run: Run) -> bool:
    """Whether a run has the names that all of a tier's cells share: quick to tell, where composing them all takes long."""
    chosen = dict(word.split("=", 1) for word in common)
    return all(run.config.get(group, {}).get("name") == chosen[group] for group in NAMED & set(chosen))


def _seeded(cell: str, seeds: Sequence[str]) -> list[str]:
    return [f"seed=range({seeds[-1]})"] if seeds and " seed=" not in cell else []
