"""What a report is: parts of sections of blocks. Words are plain text; each rendering marks them up and escapes them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bench.figures.page import Sheet

# A word of judgement that a reader should find at a glance.
Sure = Literal["different", "equal", "cannot tell", "no interval", "counted", "holds", "fails", "no rows"]


@dataclass(frozen=True)
class Text:
    """A paragraph. alarm: something is missing, failed or not matched."""

    words: str
    alarm: bool = False


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """An answer to a question, made from rows.

    where: at which size, budget, length …; sure: the evidence behind it; series: models that it speaks of.
    """

    question: str
    where: str
    answer: str
    sure: Sure
    series: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What a part shows, in brief."""

    found: tuple[Finding, ...]


@dataclass(frozen=True)
class Column:
    """numeric: aligned right, and sorted by ``Cell.order``."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """order: what a number is sorted by. sure: the text is a judgement, shown as a badge."""

    text: str
    order: float | None = None
    sure: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table; hidden where a reader hides one of the models ``series`` that it is about."""

    cells: tuple[Cell, ...]
    series: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows under columns; its title is its caption."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @classmethod
    def of(cls, title: str, lines: Iterable[tuple[Sequence[str], Mapping[str, "Cell | str"]]]) -> "Table":
        """From models and cells of each line, by their columns' names. A column that holds an ``order`` is numeric."""
        found = [(tuple(series), {name: _cell(one) for name, one in cells.items()}) for series, cells in lines]
        names = list(found[0][1]) if found else []
        columns = (Column(name, any(cells[name].order is not None for _, cells in found)) for name in names)
        return cls(title, tuple(columns), tuple(Line(tuple(cells.values()), series) for series, cells in found))


def _cell(one: Cell | str) -> Cell:
    return one if isinstance(one, Cell) else Cell(one)


@dataclass(frozen=True)
class Picture:
    """A figure of a tier. alt: what it shows, for who does not see it; runs, experiment, metric: of the rows that it draws."""

    name: str
    tier: str
    sheet: Sheet
    alt: str
    runs: tuple[str, ...]
    experiment: str
    metric: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for."""

    title: str
    blocks: "tuple[Block, ...]"


Block: TypeAlias = Text | Points | Findings | Table | Picture | Fold


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; ``key`` is unique in the report and names it in links."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Part:
    """Sections of one tier, or of what concerns all."""

    key: str
    title: str
    about: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Report:
    """The whole. facts: name and value; reading: how to read it; models: series that a reader may hide, in order."""

    title: str
    about: str
    reading: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    models: tuple[str, ...]
    parts: tuple[Part, ...]
