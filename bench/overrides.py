"""Overrides of the command line: checked against the schema, so that a wrong key says what is possible, and expanded.

The grammar is Hydra's own.
"""

import itertools
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import distributions
from typing import Any, get_args, get_type_hints

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from bench.compose import conf
from bench.config import ConfigError, RunConfig


def check_keys(overrides: Sequence[str]) -> None:
    """Raises ConfigError where an override's key is not in the schema; the message lists the keys that are."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == "launcher":
            _check_launcher(str(override.value()))
        elif not override.is_add() and not override.key_or_group.startswith(("hydra", "sweep")):
            _check_key(override)


def _check_launcher(name: str) -> None:
    package = {"joblib": "hydra-joblib-launcher"}.get(name, "hydra-submitit-launcher")
    if name != "local" and not list(distributions(name=package)):
        raise ConfigError(f"launcher={name} needs {package}, which is not installed: make setup EXTRAS=launchers")


def _check_key(override: Override) -> None:
    node: Any = RunConfig
    for depth, part in enumerate(override.key_or_group.replace("/", ".").split(".")):
        if not is_dataclass(node):
            return  # the options of a layer or a measurement: its constructor is their schema
        hints = get_type_hints(node)
        if part not in hints:
            known = ", ".join(f.name for f in fields(node))
            raise ConfigError(f"there is no key '{override.key_or_group}': at depth {depth} '{part}' is not one of: {known}")
        inner = [kind for kind in get_args(hints[part]) if is_dataclass(kind)]
        node = inner[0] if inner else hints[part]


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The single jobs of a sweep: ``model=a,b seed=range(3)`` are six; ``glob(*)`` is every choice."""
    with conf():
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        choices: dict[str, list[str]] = {}  # of words with the same key, the last
        for override in parser.parse_overrides(list(overrides)):
            key = override.get_key_element()
            is_swept = override.is_sweep_override()
            values = override.sweep_string_iterator() if is_swept else [override.get_value_element_as_str()]
            choices[key] = [f"{key}={value}" for value in values]
    return [list(job) for job in itertools.product(*choices.values())]
