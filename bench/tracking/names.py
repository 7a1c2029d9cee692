"""What a run is called in W&B: keys of its numbers, points of its curves, tags, configuration. Pure functions of its files.

A key is ``experiment/metric`` and, where rows of the metric differ in a coordinate, ``/coordinate_value``: the curve
``perplexity_by_context/nll`` runs along ``context``, the summary has ``perplexity_by_context/nll/context_1024`` … of it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results import Coordinate, Manifest, Row, Run

# What curves run along; of several in which rows of a metric differ, the first.
AXES = ("tokens", "position", "context")
# Coordinates that follow from others.
DERIVED = ("n_targets", "clusters")


@dataclass(frozen=True)
class Point:
    """A point of a curve: ``value`` under ``key`` where ``axis`` is ``x``; ``step`` is the number of its row in the run."""

    step: int
    key: str
    value: float
    axis: str
    x: Coordinate


def points(experiment: str, rows: Sequence[Row]) -> list[Point]:
    """All curves of a run, in the order of its rows: of each metric and place along which it was measured more than once."""
    curves: dict[str, list[Point]] = defaultdict(list)
    for numbers in _by_metric(rows).values():
        differ = _differ([rows[n] for n in numbers])
        axis = next((axis for axis in AXES if axis in differ), None)
        for n in numbers:
            if axis is not None and axis in rows[n].at:
                key = _key(experiment, rows[n], [name for name in differ if name != axis])
                curves[key].append(Point(n, key, rows[n].value, axis, rows[n].at[axis]))
    long = [curve for curve in curves.values() if len(curve) > 1]
    return sorted((point for curve in long for point in curve), key=lambda point: point.step)


def summary(experiment: str, rows: Sequence[Row]) -> dict[str, float]:
    """Every number of a run but those along its training, by its place."""
    found: dict[str, float] = {}
    for numbers in _by_metric(rows).values():
        differ = _differ([rows[n] for n in numbers])
        found |= {_key(experiment, rows[n], differ): rows[n].value for n in numbers if "tokens" not in differ}
    return found


def ending(manifest: Manifest) -> dict[str, Any]:
    """How a run stands, for its summary."""
    names = ("status", "cause", "attempts", "seconds", "rows")
    return {f"run/{name}": getattr(manifest, name) for name in names}


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Columns and lines: of every row metric, value, unit, its coordinates and its samples."""
    coordinates = sorted({name for row in rows for name in row.at})
    lines = [[row.metric, row.value, row.unit, *(row.at.get(name) for name in coordinates), list(row.samples)] for row in rows]
    return ["metric", "value", "unit", *coordinates, "samples"], lines


def tags(config: Mapping[str, Any]) -> list[str]:
    """As the command line has them: ``model=ttt_linear``; of what measures no model its dtype alone."""
    if config.get("experiment", {}).get("modelless"):
        return [f"dtype={config['device']['dtype']}"]
    model = config["model"]
    return [
        *(f"model={model['name']}", f"backbone={model['backbone']}", f"size={config['size']['name']}"),
        *(f"match={config['match']['method']}", f"budget={config['budget']['name']}"),
    ]


def configuration(run: Run) -> dict[str, Any]:
    """The run's configuration, and under ``run`` what else produced its numbers."""
    names = ("config_hash", "git_sha", "dirty", "sources", "device", "versions", "started")
    return {**run.config, "run": {name: getattr(run.manifest, name) for name in names}}


def _by_metric(rows: Sequence[Row]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for n, row in enumerate(rows):
        found[row.metric].append(n)
    return found


def _differ(rows: Sequence[Row]) -> list[str]:
    """Coordinates in which rows differ, in the order in which they stand there."""
    names = dict.fromkeys(name for row in rows for name in row.at if name not in DERIVED)
    return [name for name in names if len({row.at.get(name) for row in rows}) > 1]


def _key(experiment: str, row: Row, differ: Sequence[str]) -> str:
    place = "_".join(f"{name}_{row.at[name]}" for name in differ if name in row.at)
    return "/".join([experiment, row.metric, *([re.sub(r"\W", "_", place)] if place else [])])
