"""The inner loss of TTT layers by position: initial weights, before and after each update (paper, figures 4 and 14)."""

from dataclasses import replace

import pandas as pd
from matplotlib.lines import Line2D

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import Curve, Line, lines, loss_curve, windows_of
from bench.figures.page import Layout, Page, Sheet
from bench.figures.style import INK, Dashes, Look, styled

NAME = "inner_loss"
TITLE = "Inner loss of the TTT layers"
EXPERIMENTS = ("train", NAME)
COLUMNS = 4
WEIGHTS: dict[str, tuple[str, Dashes, str]] = {
    "w0": ("initial weights W₀", (0, (1, 1.2)), "v"),
    "before": ("before the update, Wₜ₋₁", (0, (5, 1.5)), "o"),
    "after": ("after the update, Wₜ", "-", "^"),
}


def rows(data: Data) -> pd.DataFrame:
    """Inner losses by layer, weights and position."""
    return data.select(NAME, [NAME])


@styled
def draw(data: Data) -> Sheet:
    """One panel per TTT model and layer; three lines each."""
    table, expected = rows(data), expected_of(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS, expected))
    cells = [(line, layer, part) for line in lines(table) for layer, part in groups(line.rows, "layer")]
    columns = min(COLUMNS, max(cell[0].rows.layer.nunique() for cell in cells))
    places = _places(cells, columns)
    page = Page(
        "Inner loss of the TTT layers", Layout((1.0,) * columns, max(places) // columns + 1, height_in=1.9, gap_in=0.55)
    )
    drawn = [_panel(page, place, cell) for place, cell in zip(places, cells, strict=True)]
    _tidy(page, places, table.unit.iloc[0])
    curves, clipped = [one for each, _ in drawn for one in each], any(cut for _, cut in drawn)
    shade = ", ".join(f"{context:,}" for context in panels.trained_to(table))
    caption = (
        f"Mean inner loss of the tokens of each bucket, {footer.seeds(table)}. Bands: {footer.windows(curves, table.clusters)}."
    )
    caption += f" Shaded: beyond the training context ({shade}), extrapolation."
    captions = [caption, _beside_the_paper(table), *([panels.CLIPPED] if clipped else []), *footer.published(table)]
    return page.finish(_legend(), captions, footer.alarms(data, table, EXPERIMENTS, expected), footer.facts(table))


def expected_of(data: Data) -> list[str]:
    """Only TTT models have an inner loss."""
    return [name for name in data.expected if name.startswith("ttt_")]


def _beside_the_paper(table: pd.DataFrame) -> str:
    """Layers in which what the paper's figures 4 and 14 show is seen here too."""
    counts = []
    for line in lines(table):
        layers = [part for _, part in groups(line.rows[line.rows.position <= line.rows.train_context], "layer")]
        steps = sum(_is_lower(part, ("after", part.position.max()), ("before", part.position.max())) for part in layers)
        falls = sum(_is_lower(part, ("before", part.position.max()), ("before", part.position.min())) for part in layers)
        counts.append(f"{line.look.label} {steps} and {falls} of {len(layers)}")
    return (
        "The paper: an update lowers the loss, and before an update it falls with position, but in middle layers. Here, at the "
        f"end of the training context, each with a 95 % interval below 0: {'; '.join(counts)} layers."
    )


def _is_lower(part: pd.DataFrame, first: tuple[str, int], second: tuple[str, int]) -> bool:
    """By the paired difference of windows; each place: weights and position."""
    one, other = (windows_of(part[(part.weights == weights) & (part.position == at)]) for weights, at in (first, second))
    return one.interval(other).high < 0


def _places(cells: list[tuple[Line, int, pd.DataFrame]], columns: int) -> list[int]:
    """The panel of each cell: every line begins a new row."""
    places: list[int] = []
    for number, (line, _, _) in enumerate(cells):
        new = number > 0 and line is not cells[number - 1][0]
        after = places[-1] + 1 if places else 0
        places.append(-(-after // columns) * columns if new else after)
    return places


def _panel(page: Page, place: int, cell: tuple[Line, int, pd.DataFrame]) -> tuple[list[Curve], bool]:
    line, layer, part = cell
    ax = page.axes[place]
    ax.set_title(f"{line.look.label}, layer {int(layer)}", loc="left", color=line.look.colour, gid=line.look.gid)
    panels.token_axis(page, ax, part.position, "")
    panels.mark_training(page, ax, panels.trained_to(part), named=False)
    curves = []
    for weights in WEIGHTS:
        curves.append(loss_curve(Line(_look(line, weights), part[part.weights == weights]), "position"))
        panels.draw_curve(ax, curves[-1])
    cap = max(panels.trusted_top([one], max(panels.trained_to(part))) for one in curves)
    return curves, panels.clip(page, ax, curves, cap)


def _look(line: Line, weights: str) -> Look:
    """The model's colour, W₀ in black; the weights' own dashes and marker."""
    words, dashes, marker = WEIGHTS[weights]
    colour = INK if weights == "w0" else line.look.colour
    return replace(line.look, label=f"{line.look.label}, {words}", dashes=dashes, marker=marker, colour=colour)


def _tidy(page: Page, places: list[int], unit: str) -> None:
    """Hides the panels that hold nothing; labels the outer ones."""
    for place, ax in enumerate(page.axes):
        ax.set_visible(place in places)
        if place % len(page.layout.columns) == 0:
            ax.set_ylabel("inner loss" if unit == "1" else f"inner loss ({unit})")
        if place + len(page.layout.columns) >= len(page.axes):
            ax.set_xlabel("position (tokens)")


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=INK, linestyle=dashes, marker=marker, label=words) for words, dashes, marker in WEIGHTS.values()
    ]
