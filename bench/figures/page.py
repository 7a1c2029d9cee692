"""A page: panels laid out in inches, a title and legend above, room for edge notes, caption and footer below.

The height of a page follows from what is written on it, so nothing is cut off or overlaps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures.lines import Line
from bench.figures.style import ALARM, FONT_PT, INK, LEGEND_PT, QUIET, Look, width_in

WIDTH_IN, LEFT_IN, RIGHT_IN = 8.0, 0.72, 0.22
MARGIN_IN = LEFT_IN / 2
TITLE_IN, LEGEND_ROW_IN, TEXT_ROW_IN, PANEL_TITLE_IN = 0.38, 0.2, 0.145, 0.22
LEGEND_SIGN_IN = 0.6
LEGEND_STYLE: dict[str, Any] = {"frameon": False, "borderaxespad": 0, "borderpad": 0}
LEGEND_STYLE |= {"handlelength": 2.6, "columnspacing": 1.6, "labelspacing": 0.35}


@dataclass(frozen=True)
class Layout:
    """Relative widths of columns, number of rows; in inches a panel's height, gaps, room below an axis, the page."""

    columns: tuple[float, ...] = (1.0,)
    rows: int = 1
    height_in: float = 2.9
    gap_in: float = 0.75
    axis_in: float = 0.52
    width_in: float = WIDTH_IN


class Note(NamedTuple):
    """A text above a panel, at ``x`` in data coordinates."""

    x: float
    text: str
    colour: str
    align: str
    gid: str | None = None


class Sheet(Figure):
    """A finished page, with what is written on it before lines are broken, and where its panels and legend lie.

    captions: what was drawn; alarms: what is missing or failed; facts: the footer. body_in: lower and upper edge, inches.
    """

    title = ""
    captions: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    body_in = (0.0, 0.0)


class Page:
    """``axes``: the panels, row after row. Draw into them, note what lies beyond an edge with ``above``, then ``finish``."""

    def __init__(self, title: str, layout: Layout | None = None) -> None:
        """An empty page."""
        self.title, self.layout = title, layout or Layout()
        self.figure = Sheet(figsize=(self.layout.width_in, self.layout.height_in))
        count = self.layout.rows * len(self.layout.columns)
        self.axes = [self.figure.add_axes((0, 0, 1, 1), label=f"panel {i}") for i in range(count)]
        self._above: dict[Axes, dict[str, list[Note]]] = {ax: {} for ax in self.axes}

    def above(self, ax: Axes, row: str, note: Note) -> None:
        """Writes above the panel. Notes with the same ``row`` share a line of text; rows stack upwards."""
        self._above[ax].setdefault(row, []).append(note)

    def panel_width_in(self, ax: Axes) -> float:
        """Width of a panel, inches."""
        columns, gap_in = self.layout.columns, self.layout.gap_in
        free = self.layout.width_in - LEFT_IN - RIGHT_IN - gap_in * (len(columns) - 1)
        return free * columns[self.axes.index(ax) % len(columns)] / sum(columns)

    def finish(self, handles: Sequence[Artist], captions: Iterable[str], alarms: Iterable[str], facts: Iterable[str]) -> Sheet:
        """Lays the page out. captions: what was drawn; alarms: what is missing or failed; facts: the footer."""
        sheet = self.figure
        sheet.title, sheet.captions, sheet.alarms, sheet.facts = self.title, tuple(captions), tuple(alarms), tuple(facts)
        inked = [(sheet.captions, INK), (sheet.alarms, ALARM), (sheet.facts, QUIET)]
        below = [(line, colour) for texts, colour in inked for text in texts for line in self._wrap(text)]
        columns = self._legend_columns(handles)
        head, foot = TITLE_IN + LEGEND_ROW_IN * -(-len(handles) // columns), 0.12 + TEXT_ROW_IN * len(below)
        height, left = self._place(head, foot), MARGIN_IN / self.layout.width_in
        sheet.text(left, 1 - 0.1 / height, self.title, fontsize=FONT_PT + 3, weight="bold", va="top")
        if handles:
            spot = (left, 1 - (TITLE_IN - 0.06) / height)
            legend = sheet.legend(handles=list(handles), loc="upper left", bbox_to_anchor=spot, ncols=columns, **LEGEND_STYLE)
            for artists in (legend.legend_handles, legend.get_texts()):
                for artist, given in zip(artists, handles, strict=True):
                    if artist is not None:
                        artist.set_gid(given.get_gid())
        for number, (line, colour) in enumerate(below):
            y = (foot - 0.04 - TEXT_ROW_IN * number) / height
            sheet.text(left, y, line, color=colour, fontsize=FONT_PT, va="top")
        sheet.body_in = foot, height - TITLE_IN + 0.1
        return sheet

    def _place(self, head: float, foot: float) -> float:
        """Sets size and positions and writes the notes above; the page's height in inches."""
        layout, width = self.layout, self.layout.width_in
        titled = any(ax.get_title(loc="left") for ax in self.axes)
        roof = 0.12 + TEXT_ROW_IN * max(len(rows) for rows in self._above.values()) + PANEL_TITLE_IN * titled
        pitch = roof + layout.height_in + 0.3
        height = head + roof + layout.height_in + pitch * (layout.rows - 1) + layout.axis_in + foot
        self.figure.set_size_inches(width, height)
        for number, ax in enumerate(self.axes):
            row, column = divmod(number, len(layout.columns))
            left = LEFT_IN + sum(self.panel_width_in(self.axes[i]) + layout.gap_in for i in range(column))
            bottom = foot + layout.axis_in + pitch * (layout.rows - 1 - row)
            ax.set_position((left / width, bottom / height, self.panel_width_in(ax) / width, layout.height_in / height))
            self._write_above(ax)
        return height

    def _write_above(self, ax: Axes) -> None:
        for number, notes in enumerate(self._above[ax].values()):
            y = 1 + (0.08 + TEXT_ROW_IN * number) / self.layout.height_in
            for x, text, colour, align, gid in notes:
                ax.text(x, y, text, color=colour, transform=ax.get_xaxis_transform(), ha=align, va="bottom", gid=gid)
        if title := ax.get_title(loc="left"):
            ax.set_title(title, loc="left", pad=72 * (0.08 + TEXT_ROW_IN * len(self._above[ax])))

    def _wrap(self, text: str) -> list[str]:
        """Lines as wide as the page."""
        lines = [""]
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            fits = width_in(longer) <= self.layout.width_in - MARGIN_IN - RIGHT_IN
            lines[-1:] = [longer] if fits else [lines[-1], word]
        return lines

    def _legend_columns(self, handles: Sequence[Artist]) -> int:
        longest = max((width_in(str(one.get_label()), LEGEND_PT) for one in handles), default=1)
        return max(1, min(len(handles), int((self.layout.width_in - 2 * MARGIN_IN) / (longest + LEGEND_SIGN_IN))))


def legend_of(lines: Iterable[Line]) -> list[Line2D]:
    """One handle per line, in the lines' order."""
    return [handle(line.look) for line in lines]


def handle(look: Look) -> Line2D:
    """The legend's entry of a look."""
    return Line2D([], [], label=look.label, **look.kwargs)
