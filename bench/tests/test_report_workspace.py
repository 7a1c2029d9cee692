"""The form of a report that W&B takes: built and read as JSON without a server."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.config import ConfigError
from bench.report.markdown import pictures
from bench.report.spec import Report
from bench.report.workspace import build, publish
from bench.tests.synthetic_report import hard_report, hard_runs
from bench.tracking.names import points

# W&B's own: it uses what pydantic will not have in version 3
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")


@pytest.fixture
def made() -> Report:
    return hard_report()


@pytest.fixture
def spec(made: Report) -> dict[str, Any]:
    model = build(made)._to_model().spec
    return dict(json.loads(model.model_dump_json(by_alias=True, exclude_none=True)))


def words(block: Any) -> str:
    """All text below a block."""
    if isinstance(block, dict):
        return " ".join(words(block[key]) for key in ("children", "text") if key in block)
    return " ".join(map(words, block)) if isinstance(block, list) else str(block)


def test_headings_are_those_of_the_report(made: Report, spec: dict[str, Any]) -> None:
    every = [(block["level"], words(block["children"])) for block in spec["blocks"] if block["type"] == "heading"]
    expected = [(1, "How to read this")]
    for part in made.parts:
        expected += [(1, part.title), *((2, section.title) for section in part.sections)]
    assert [heading for heading in every if heading[0] < 3] == expected


def test_run_sets_are_pinned_to_the_runs_that_a_figure_draws(made: Report, spec: dict[str, Any]) -> None:
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    drawn = pictures(made)
    assert len(grids) == len(drawn) == 8
    for grid, shown in zip(grids, drawn, strict=True):
        images, runs = (one["filters"]["filters"] for one in grid["runSets"])
        for (only,), ids in ((images, [f"figures-{shown.tier}"]), (runs, list(shown.runs))):
            assert (only["key"], only["op"], only["value"]) == ({"section": "run", "name": "name"}, "IN", ids)
        image, live = grid["panelBankSectionConfig"]["panels"]
        assert image["config"]["mediaKeys"] == [f"figures/{shown.name}"]
        assert live["viewType"] == "Run History Line Plot"
    by_name = {
        shown.name: grid["panelBankSectionConfig"]["panels"][1]["config"] for grid, shown in zip(grids, drawn, strict=True)
    }
    assert by_name["perplexity_by_context"]["metricRegex"] == "^perplexity_by_context/nll(/|$)"
    assert (by_name["inner_loss"]["xAxis"], by_name["perplexity_vs_flops"]["xAxis"]) == ("position", "tokens")


def test_text_verdicts_and_sources_are_in_it(made: Report, spec: dict[str, Any]) -> None:
    text = json.dumps(spec, ensure_ascii=False)
    assert "Which model predicts held-out text best?" in text
    assert "SHA-256" in text
    assert all(run.replace("_", "\\\\_") in text for shown in pictures(made) for run in shown.runs)


def test_publishing_wants_a_project_and_a_key(made: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mine' does not name a project; give ENTITY/PROJECT"):
        publish(made, "mine")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="wandb login"):
        publish(made, "me/project")


def test_live_panels_draw_curves_that_were_logged(made: Report, spec: dict[str, Any]) -> None:
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    for grid, shown in zip(grids, pictures(made), strict=True):
        live = grid["panelBankSectionConfig"]["panels"][1]["config"]
        runs = [run for run in hard_runs() if run.manifest.run_id in shown.runs]
        logged = {(one.key, one.axis) for run in runs for one in points(run.manifest.experiment, run.rows)}
        found = {axis for key, axis in logged if re.search(live["metricRegex"], key)}
        assert found == ({live["xAxis"]} if shown.experiment != "train" else set())  # the synthetic trainings have no curves
