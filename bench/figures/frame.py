"""Runs as one tidy table: a row per number, a column per coordinate and per fact about its run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.config import source_of_rate
from bench.figures.style import series_name
from bench.results import Coordinate, Row, Run

COORDINATES = (
    *("model", "backbone", "size", "params", "match", "convention", "budget_flops", "train_flops", "tokens", "train_context"),
    *("context", "position", "data", "split", "tokenizer", "n_targets", "batch", "phase", "impl", "exec", "dtype", "seed"),
    *("mini_batch", "layer", "weights", "clusters", "micro_batch", "checkpoint", "step", "gpus"),
    *("op", "pass", "heads", "head_dim", "tensor", "phases", "slot", "part", "reason"),
    *("task", "depth", "shots", "documents", "filter", "per"),
)
MEASURED = ("metric", "value", "unit", "samples", "target_counts", "row")
OF_THE_RUN = (
    *("series", "run_id", "experiment", "status", "config_hash", "sources", "git_sha", "device", "started", "published"),
    *("budget", "lr", "lr_source", "tolerance"),
)
# What a row of target counts need not share with the row it weighs.
_INCIDENTAL = ("n_targets", "clusters")


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Every row of ``runs``; a coordinate that a row lacks is NaN.

    ``samples`` are tuples; ``target_counts`` are the samples of the row ``targets`` at the same coordinates, () where there
    is none; ``row`` is the Row itself; ``series`` names the model with its backbone; ``budget`` is the budget's name.
    """
    table = pd.DataFrame([record for run in runs for record in _records(run)])
    extra = [column for column in table.columns if column not in (*MEASURED, *COORDINATES, *OF_THE_RUN)]
    return table.reindex(columns=[*MEASURED, *COORDINATES, *OF_THE_RUN, *extra])


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries, column → value."""
    return [{str(key): value for key, value in record.items()} for record in rows.to_dict("records")]


def groups(rows: pd.DataFrame, by: str | list[str]) -> list[tuple[Any, pd.DataFrame]]:
    """(value or values of ``by``, rows) in ascending order; NaN is a value like others."""
    return list(rows.groupby(by, dropna=False))


def _records(run: Run) -> Iterator[dict[str, Any]]:
    counts = {_place(row): row.samples for row in run.rows if row.metric == "targets"}
    facts = _facts(run)
    for row in run.rows:
        weights = counts.get(_place(row), ())
        measured = {
            "metric": row.metric,
            "value": row.value,
            "unit": row.unit,
            "samples": row.samples,
            "target_counts": weights,
        }
        yield {
            "seed": run.manifest.seed,
            "budget_flops": run.config["budget"]["flops"],
            **row.at,
            **facts,
            **measured,
            "row": row,
        } | _series_of(row)


def _series_of(row: Row) -> dict[str, str]:
    """Of a run of several models each row names its own."""
    return {"series": series_name(str(row.at["model"]), str(row.at["backbone"]))} if "model" in row.at else {}


def _place(row: Row) -> frozenset[tuple[str, Coordinate]]:
    return frozenset((key, value) for key, value in row.at.items() if key not in _INCIDENTAL)


def _facts(run: Run) -> Mapping[str, Any]:
    names = ("run_id", "experiment", "status", "config_hash", "sources", "git_sha", "device", "started")
    optim = run.config["optim"]
    return {name: getattr(run.manifest, name) for name in names} | {
        "series": series_name(run.config["model"]["name"], run.config["model"]["backbone"]),
        "published": run.published,
        "budget": run.config["budget"]["name"],
        "lr": optim["lr"],
        "lr_source": source_of_rate(optim["lr_source"], optim.get("searched", {}), run.config["model"]["name"]),
        "tolerance": run.config["match"]["tolerance"],
    }
