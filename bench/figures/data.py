"""What a figure is drawn from: the table of rows, the models that are expected, and the runs that failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from bench.figures.frame import COORDINATES, frame
from bench.figures.style import look_of, series_name
from bench.results import FAILURES, Run


@dataclass(frozen=True)
class Data:
    """Runs of one tier. ``expected``: the models, by their names in conf/model, that every figure should show."""

    runs: tuple[Run, ...]
    expected: tuple[str, ...]
    tier: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every row of every run, see ``frame``."""
        return frame(self.runs)

    def select(self, experiment: str, metrics: Sequence[str], timing: bool = False, **at: str | int) -> pd.DataFrame:
        """Rows of an experiment; of those that agree in every coordinate the latest. timing: the device is a coordinate too."""
        rows = self.table[(self.table.experiment == experiment) & self.table.metric.isin(list(metrics))]
        for key, value in at.items():
            rows = rows[rows[key] == value]
        same = ["metric", *COORDINATES, "published", "lr", *(["device"] if timing else [])]
        return rows.sort_values(["started", "run_id"], kind="stable").drop_duplicates(same, keep="last").sort_index()

    def missing(self, rows: pd.DataFrame, expected: Sequence[str] | None = None) -> list[str]:
        """Expected models without a row, finetuned or not. Published rows count only where no run of one's own was given."""
        if not all(run.published for run in self.runs):
            rows = rows[~rows.published.astype(bool)]
        have = {name.removesuffix("_finetune") for name in rows.series}
        return [name for name in (self.expected if expected is None else expected) if name not in have]

    def troubles(self, experiments: Sequence[str]) -> list[str]:
        """A sentence for every run of these experiments that did not end well."""
        return [_trouble(run) for run in self.runs if run.manifest.experiment in experiments and run.manifest.status != "done"]

    def failures(self, experiment: str, x: str) -> pd.DataFrame:
        """The rows ``failure`` of an experiment whose place ``x`` is known."""
        rows = self.table[(self.table.experiment == experiment) & (self.table.metric == "failure")]
        return rows[rows[x].notna() & rows.status.isin(FAILURES)]


def _trouble(run: Run) -> str:
    config, manifest = run.config, run.manifest
    label = look_of(series_name(config["model"]["name"], config["model"]["backbone"])).label
    experiment = config.get("experiment", {})
    sized = experiment.get("measure", {}).get("size", {}).get("name")
    of = f"{label}, {config['budget']['name']}, " if not experiment.get("modelless") else f"{sized}, " if sized else ""
    what = f"{of}{manifest.experiment}, seed {manifest.seed}"
    if manifest.status == "running":
        return f"{what}: unfinished (interrupted or in progress), drawn as far as it got"
    cause = manifest.cause.strip().splitlines()[0] if manifest.cause.strip() else "no cause recorded"
    return f"{what}: {manifest.status} ({cause if len(cause) <= 140 else cause[:139] + '…'})"
