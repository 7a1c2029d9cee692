"""Reading a config.json that others wrote: what it must say, and what it may not ask for."""

import math
from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
"""A config.json."""


class CheckpointError(ValueError):
    """A checkpoint is damaged, is not what it claims, or holds what our models are not; the message says which."""


Kind = type | tuple[object, ...]
_CALLED = {
    int: "a whole number of at least 1",
    float: "a number over 0",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    str: "a string",
}


def values(config: Config, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The values of ``kinds``' keys: an int of at least 1, a float over 0, a bool, a dict, a list, a str, or one of a tuple.

    Raises:
        CheckpointError: some are missing, or are something else; names all.
    """
    if missing := [key for key in kinds if key not in config]:
        raise CheckpointError(f"the config lacks {', '.join(missing)}")
    if wrong := [f"{key} {config[key]!r}{_wanted(kind)}" for key, kind in kinds.items() if not _is(config[key], kind)]:
        raise CheckpointError(f"the config has {'; '.join(wrong)}")
    return {key: float(config[key]) if kind is float else config[key] for key, kind in kinds.items()}


def _is(value: object, kind: Kind) -> bool:
    if isinstance(kind, tuple):
        return any(value == known and type(value) is type(known) for known in kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    return type(value) is kind and (kind is not int or value >= 1)  # type: ignore[operator]


def _wanted(kind: Kind) -> str:
    if isinstance(kind, tuple):
        return f"; supported: {', '.join(map(str, kind))}"
    return f", which must be {_CALLED[kind]}"


def refuse(config: Config, features: Mapping[str, tuple[object, str]]) -> None:
    """``features``: key -> the one value that our models can have, or its absence, and what any other means.

    Raises:
        CheckpointError: the config has others; names all.
    """
    asked = {key: config[key] for key in features if config.get(key) is not None}
    if found := [f"{key}={value!r} ({features[key][1]})" for key, value in asked.items() if value != features[key][0]]:
        raise CheckpointError(f"our models do not have {'; '.join(found)}")
