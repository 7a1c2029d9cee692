"""A report as one HTML page that needs nothing from outside: style, script and figures are in it (page.css, page.js)."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import groupby

from bench.figures.style import look_of
from bench.report.colours import variables
from bench.report.drawing import svg
from bench.report.spec import (
    Block,
    Cell,
    Column,
    Finding,
    Findings,
    Fold,
    Line,
    Part,
    Picture,
    Points,
    Report,
    Section,
    Table,
    Text,
)

# No page on the way can make it load anything.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="description" content="{about}">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{css}
:root{{{colours}}}
</style>
</head>
"""
BODY = """\
<body>
<a class="skip" href="#content">Skip to the results</a>
<header class="top">
<h1>{title}</h1>
<p class="lead">{about}</p>
<dl class="facts">{facts}</dl>
</header>
<div class="controls" hidden>
<div class="models" role="group" aria-label="Models shown">{models}</div>
<button type="button" id="theme">Theme: system</button>
<p id="hidden-models" role="status"></p>
</div>
<div class="columns">
<nav aria-label="Contents"><details open><summary>Contents</summary><ul>{contents}</ul></details></nav>
<main id="content">
<section id="reading"><h2>How to read this</h2><ul>{reading}</ul></section>
{parts}
</main>
</div>
<script>
{script}
</script>
</body>
</html>
"""


def page(report: Report) -> str:
    """The whole document."""
    body = BODY.format(
        title=escape(report.title),
        about=escape(report.about),
        facts="".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts),
        models="".join(map(_model, report.models)),
        contents="".join(map(_contents, report.parts)),
        reading="".join(f"<li>{escape(sentence)}</li>" for sentence in report.reading),
        parts="\n".join(map(_part, report.parts)),
        script=_asset("page.js"),
    )
    title, about = escape(report.title), escape(report.about, quote=True)
    return HEAD.format(policy=POLICY, title=title, about=about, css=_asset("page.css"), colours=variables(body)) + body


def _asset(name: str) -> str:
    return files("bench.report").joinpath(name).read_text(encoding="utf-8").strip()


def _model(series: str) -> str:
    look = look_of(series)
    style = f"--model:var(--c-{look.colour.removeprefix('#').lower()})"
    return (
        f'<button type="button" aria-pressed="true" data-model="{escape(series)}" style="{style}">{escape(look.label)}</button>'
    )


def _contents(part: Part) -> str:
    links = "".join(f'<li><a href="#{section.key}">{escape(section.title)}</a></li>' for section in part.sections)
    return f'<li><a href="#{part.key}">{escape(part.title)}</a><ul>{links}</ul></li>'


def _part(part: Part) -> str:
    sections = "\n".join(map(_section, part.sections))
    return (
        f'<section id="{part.key}" class="part"><h2>{escape(part.title)}</h2><p>{escape(part.about)}</p>\n{sections}</section>'
    )


def _section(section: Section) -> str:
    blocks = "\n".join(_block(block, f"{section.key}-{place}") for place, block in enumerate(section.blocks))
    return f'<section id="{section.key}"><h3>{escape(section.title)}</h3>\n{blocks}</section>'


def _block(block: Block, key: str) -> str:
    """key: unique in the page, for what the block refers to."""
    match block:
        case Text(words, alarm):
            return f'<p class="alarm"><strong>Note:</strong> {escape(words)}</p>' if alarm else f"<p>{escape(words)}</p>"
        case Points(sentences):
            return f'<ul class="points">{"".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)}</ul>'
        case Findings(found):
            return "".join(_answers(question, list(answers)) for question, answers in groupby(found, lambda one: one.question))
        case Fold(title, blocks):
            inside = "".join(_block(block, f"{key}-{place}") for place, block in enumerate(blocks))
            return f"<details><summary>{escape(title)}</summary>{inside}</details>"
        case Picture():
            return _picture(block)
        case Table():
            return _table(block, key)


def _answers(question: str, found: Sequence[Finding]) -> str:
    return f'<div class="finding"><h4>{escape(question)}</h4><ul>{"".join(map(_finding, found))}</ul></div>'


def _finding(one: Finding) -> str:
    words = f'<span class="where">{escape(one.where)}</span> <span class="answer">{escape(one.answer)}</span>'
    return f"<li{_of(one.series)}>{words} {_badge(one.sure)}</li>"


def _picture(picture: Picture) -> str:
    drawn = svg(picture.sheet, f"{picture.tier}-{picture.name}", picture.alt)
    label = escape(f"{picture.sheet.title}, scrolls sideways on narrow screens", quote=True)
    return f'<div class="drawing" role="group" tabindex="0" aria-label="{label}">{drawn}</div>'


def _table(table: Table, key: str) -> str:
    heads = "".join(f'<th scope="col"{_right(column)}>{escape(column.name)}</th>' for column in table.columns)
    lines = "\n".join(_line(line, table.columns) for line in table.lines)
    region = f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{key}">'
    caption = f'<caption id="{key}">{escape(table.title)}</caption>'
    return f"{region}<table>{caption}<thead><tr>{heads}</tr></thead><tbody>\n{lines}\n</tbody></table></div>"


def _line(line: Line, columns: Sequence[Column]) -> str:
    first, *others = (_cell(cell, column) for cell, column in zip(line.cells, columns, strict=True))
    row = first.replace("<td", '<th scope="row"', 1).removesuffix("</td>") + "</th>"
    return f"<tr{_of(line.series)}>{row}{''.join(others)}</tr>"


def _cell(cell: Cell, column: Column) -> str:
    order = "" if cell.order is None or _is_plain(cell) else f' data-order="{cell.order:.6g}"'
    return f"<td{_right(column)}{order}>{_badge(cell.text) if cell.sure else escape(cell.text)}</td>"


def _is_plain(cell: Cell) -> bool:
    """Its text is the number that it is sorted by."""
    try:
        return float(cell.text.replace(",", "")) == cell.order
    except ValueError:
        return False


def _right(column: Column) -> str:
    return ' class="n"' if column.numeric else ""


def _badge(sure: str) -> str:
    return f'<span class="sure {escape(sure).replace(" ", "-")}">{escape(sure)}</span>'


def _of(series: Sequence[str]) -> str:
    return f' data-series="{escape(" ".join(series), quote=True)}"' if series else ""
