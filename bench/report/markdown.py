"""A report as Markdown, for the repository and for W&B: tables of GitHub's, pictures as files beside it."""

from itertools import groupby

from bench.report.spec import Block, Finding, Findings, Fold, Part, Picture, Points, Report, Section, Table, Text

# Where a picture's file is, below the folder of the report.
PATH = "figures/{tier}/{name}.png"
# Characters that Markdown, or the HTML in it, takes for its own.
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>|#~"})


def markdown(report: Report) -> str:
    """The whole document."""
    facts = " · ".join(f"**{name}** {plain(value)}" for name, value in report.facts)
    head = [f"# {plain(report.title)}", plain(report.about), facts]
    reading = ["## How to read this", block(Points(report.reading))]
    parts = [words for part in report.parts for words in _part(part)]
    return "\n\n".join([*head, *reading, *parts]) + "\n"


def plain(words: str) -> str:
    """Text that stays what it is."""
    return words.translate(_ESCAPED)


def _part(part: Part) -> list[str]:
    return [f"## {plain(part.title)}", plain(part.about), *(words for section in part.sections for words in _section(section))]


def _section(section: Section) -> list[str]:
    return [f"### {plain(section.title)}", *map(block, section.blocks)]


def block(shown: Block) -> str:
    """One block."""
    match shown:
        case Text(words, alarm):
            return f"> **Note:** {plain(words)}" if alarm else plain(words)
        case Points(sentences):
            return "\n".join(f"* {plain(sentence)}" for sentence in sentences)
        case Findings(found):
            return "\n\n".join(
                _answers(question, list(answers)) for question, answers in groupby(found, lambda one: one.question)
            )
        case Fold(title, blocks):
            return f"<details><summary>{plain(title)}</summary>\n\n" + "\n\n".join(map(block, blocks)) + "\n\n</details>"
        case Picture():
            return f"![{plain(shown.alt)}]({PATH.format(tier=shown.tier, name=shown.name)})"
        case Table():
            return _table(shown)


def _answers(question: str, found: list[Finding]) -> str:
    lines = [f"* {plain(one.where)}: {plain(one.answer)} — *{one.sure}*" for one in found]
    return "\n".join([f"**{plain(question)}**", "", *lines])


def _table(table: Table) -> str:
    words = [[plain(cell.text) for cell in line.cells] for line in table.lines]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[plain(column.name) for column in table.columns], rule, *words]
    return "\n".join([f"**{plain(table.title)}**", "", *(f"| {' | '.join(row)} |" for row in rows)])


def pictures(report: Report) -> list[Picture]:
    """Every picture of a report."""
    return [
        shown for part in report.parts for section in part.sections for shown in section.blocks if isinstance(shown, Picture)
    ]
