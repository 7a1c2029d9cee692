"""A report as one of W&B's: text as Markdown, figures as the images that were logged, live panels of the same runs beside them.

Run sets are pinned by run id, so that later runs of a project do not creep in. The runs, and each tier's ``figures-TIER``, are
those that bench.tracking logs, and so are the keys of curves. Only ``publish`` asks a server for anything.
"""

import importlib
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from bench.config import ConfigError
from bench.report import markdown
from bench.report.spec import Block, Fold, Picture, Report

# What a curve runs along, where it is not the context.
AXES = {"train": "tokens", "perplexity_by_position": "position", "inner_loss": "position"}
# The curve of what is measured once a run.
CURVES = {"train": "train_nll"}
WIDE, TALL = 12, 12


def build(report: Report, entity: str = "", project: str = "") -> Any:
    """The report of W&B. Without entity and project, run sets are of the report's own project, and no server is asked.

    Raises:
        ConfigError: W&B is not installed.
    """
    wr = _library("wandb_workspaces.reports.v2")
    facts = " · ".join(f"**{name}** {markdown.plain(value)}" for name, value in report.facts)
    blocks = [wr.MarkdownBlock(facts), wr.TableOfContents(), wr.H1("How to read this")]
    blocks.append(wr.MarkdownBlock("\n".join(f"* {markdown.plain(sentence)}" for sentence in report.reading)))
    for part in report.parts:
        blocks += [wr.H1(part.title), wr.P(part.about)]
        for section in part.sections:
            blocks += [wr.H2(section.title), *(_block(wr, block, entity, project) for block in section.blocks)]
    about = {"title": report.title, "description": report.about, "width": "fluid"}
    return wr.Report(entity=entity, project=project, blocks=blocks, **about)


def publish(report: Report, where: str) -> str:
    """Saves the report to ENTITY/PROJECT and returns its address.

    Raises:
        ConfigError: ``where`` does not name a project, W&B is not installed, no key is there, or it does not take the report.
    """
    wandb = _library("wandb")
    entity, _, project = where.partition("/")
    if not entity or not project:
        raise ConfigError(f"'{where}' does not name a project; give ENTITY/PROJECT")
    try:
        wandb.Api(timeout=30)
        return str(build(report, entity, project).save().url)
    except (wandb.Error, ValueError, OSError) as error:
        raise ConfigError(f"W&B did not take the report: {error}") from error


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed here; run: pip install 'ttt-bench[reports]'") from error


def _block(wr: ModuleType, block: Block, entity: str, project: str) -> Any:
    if isinstance(block, Fold):
        return wr.H3(block.title, collapsed_blocks=[_block(wr, inner, entity, project) for inner in block.blocks])
    if isinstance(block, Picture):
        return _grid(wr, block, {"entity": entity, "project": project})
    return wr.MarkdownBlock(markdown.block(block))


def _grid(wr: ModuleType, picture: Picture, place: dict[str, str]) -> Any:
    """The image as it was logged, and beside it the curves as W&B draws them."""
    images = wr.Runset(name="figures", filters=_only([f"figures-{picture.tier}"]), **place)
    runs = wr.Runset(name="runs", filters=_only(picture.runs), **place)
    left, right = (wr.Layout(x=x, y=0, w=WIDE, h=TALL) for x in (0, WIDE))
    image = wr.MediaBrowser(title=picture.sheet.title, media_keys=[f"figures/{picture.name}"], num_columns=1, layout=left)
    metric = f"{picture.experiment}/{CURVES.get(picture.experiment, picture.metric)}"
    axis = AXES.get(picture.experiment, "context")
    live = wr.LinePlot(title=f"{metric}, live", x=axis, metric_regex=f"^{re.escape(metric)}(/|$)", layout=right)
    return wr.PanelGrid(runsets=[images, runs], panels=[image, live])


def _only(runs: Sequence[str]) -> str:
    """The filter that nothing but these runs passes."""
    return f"Metric('ID') in {list(runs)!r}"
