"""The figure of a search of learning rates: by validation documents where it has them, else by the end of each training."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.figures import learning_rates
from bench.figures.data import Data
from bench.results import Row
from bench.tests.synthetic_runs import Bench
from bench.tests.test_figures import line_of


def of_search(bench: Bench, rate: float, level: float, validation: float | None = None, budget: str = "nano_3") -> None:
    """Adds a training whose loss was ``level`` and 0.1 more each logged step."""
    at = bench.at("mamba", budget, split="train")
    rows = [Row(metric="train_nll", value=level + 0.1 * n, unit="nat/token", at=at | {"tokens": 100 * n}) for n in range(1, 11)]
    if validation is not None:
        rows.append(Row(metric="nll", value=validation, unit="nat/token", at=at | {"split": "validation", "context": 512}))
    run = bench.write("train", "mamba", rows, budget, seed=int(1e3 * rate))
    bench.runs[-1] = replace(run, config={**run.config, "optim": {**run.config["optim"], "lr": rate}})


def test_a_search_is_drawn_by_the_end_of_each_training(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    of_search(bench, 3e-3, 2.0)
    of_search(bench, 6e-3, 1.5)
    data = Data(tuple(bench.runs), (), "search")
    found = learning_rates.rows(data).sort_values("lr")
    assert found.value.tolist() == pytest.approx([2.0 + 0.9, 1.5 + 0.9])  # of tokens 800, 900 and 1,000
    figure = learning_rates.draw(data)
    assert line_of(figure.axes[0], "mamba", 2) == pytest.approx([2.9, 2.4])


def test_a_search_is_drawn_by_validation_documents_where_all_of_a_panel_have_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for budget, seen in (("nano_2", 2.2), ("nano_3", None)):
        of_search(bench, 3e-3, 2.0, 2.5, budget)
        of_search(bench, 6e-3, 1.5, seen, budget)
    searched, other = learning_rates.draw(Data(tuple(bench.runs), (), "search")).axes
    assert line_of(searched, "mamba", 2).tolist() == [2.5, 2.2] and searched.get_ylabel().startswith("validation loss")
    assert line_of(other, "mamba", 2) == pytest.approx([2.9, 2.4]) and other.get_ylabel().startswith("training loss")
