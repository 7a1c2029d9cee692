"""Tables: as a figure of text, with rules, and as aligned plain text."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures.page import MARGIN_IN, TEXT_ROW_IN, WIDTH_IN, Layout, Page
from bench.figures.style import INK, QUIET, width_in

GAP_IN, ROW_IN = 0.12, 1.6 * TEXT_ROW_IN


@dataclass(frozen=True)
class Table:
    """Rows of words below ``head``. The first ``left`` columns are aligned left; a rule parts rows that differ in ``group``."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int
    group: int

    def text(self) -> list[str]:
        """Aligned lines, the head first."""
        widths = [max(len(row[column]) for row in (self.head, *self.rows)) for column in range(len(self.head))]
        return ["  ".join(self._padded(row, widths)).rstrip() for row in (self.head, *self.rows)]

    def _padded(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        padded = enumerate(zip(row, widths, strict=True))
        return [text.ljust(width) if column < self.left else text.rjust(width) for column, (text, width) in padded]

    def page(self, title: str) -> Page:
        """A page, to be finished, that shows it: as wide as it needs, in inches from where the captions begin."""
        widths = [self._width_in(column) for column in range(len(self.head))]
        wide = MARGIN_IN + sum(widths) + GAP_IN * len(widths)
        page = Page(title, Layout(height_in=ROW_IN * (len(self.rows) + 1), width_in=max(WIDTH_IN, wide), axis_in=0.1))
        self._write(page, widths)
        return page

    def _width_in(self, column: int) -> float:
        return max([width_in(self.head[column], weight="bold"), *(width_in(row[column]) for row in self.rows)])

    def _write(self, page: Page, widths: Sequence[float]) -> None:
        (ax,) = page.axes
        ax.set_axis_off()
        span = page.panel_width_in(ax) + MARGIN_IN
        ax.set_xlim(MARGIN_IN, span)
        ax.set_ylim(len(self.rows) + 1, 0)
        gap = (span - sum(widths)) / (len(widths) - 1)
        for line, row in enumerate((self.head, *self.rows)):
            left = 0.0
            for column, text in enumerate(row):
                x, align = (left, "left") if column < self.left else (left + widths[column], "right")
                ax.text(x, line + 0.5, text, ha=align, va="center", weight="normal" if line else "bold")
                left += widths[column] + gap
            if line == 0 or (line < len(self.rows) and row[self.group] != self.rows[line][self.group]):
                ax.plot([0, span], [line + 1] * 2, color=QUIET if line else INK, linewidth=0.4 if line else 0.8, clip_on=False)
