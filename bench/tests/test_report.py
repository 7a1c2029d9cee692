"""A report says what the rows say: who is better, how sure, what is missing; and its files are the same every time."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bench.figures.data import Data
from bench.figures.page import Page
from bench.figures.style import look_of
from bench.figures.verdicts import verdicts
from bench.report.build import part_of, report
from bench.report.colours import PAPER, contrast, variables
from bench.report.drawing import MANY, picture, svg
from bench.report.findings import findings
from bench.report.markdown import block, markdown, pictures
from bench.report.numbers import bounds, numbers
from bench.report.page import page
from bench.report.spec import Finding, Fold, Part, Points, Report, Section, Table, Text
from bench.results import PUBLISHED, ROOT, Row, Run, read_runs
from bench.stats import Interval
from bench.tests.synthetic_report import CAUSE, hard_report, hard_runs, nano
from bench.tests.synthetic_runs import MODELS, Bench


@pytest.fixture
def runs() -> tuple[Run, ...]:
    return hard_runs()


@pytest.fixture
def made() -> Report:
    return hard_report()


def section(made: Report, key: str) -> Section:
    return section_of(made.parts[0], key)


def section_of(part: Part, key: str) -> Section:
    (found,) = [section for section in part.sections if section.key == key]
    return found


def folded(shown: Section, title: str) -> Fold:
    (found,) = [one for one in shown.blocks if isinstance(one, Fold) and one.title == title]
    return found


def found(bench: Bench, *figures: str) -> list[Finding]:
    data = Data(tuple(bench.runs), MODELS, "nano")
    return list(findings(data, figures, verdicts(data)))


@pytest.mark.parametrize(
    ("shift", "sure", "answer"), [(-0.2, "different", "Next is"), (0.0, "cannot tell", "has the lowest loss")]
)
def test_the_best_model_is_the_one_that_all_verdicts_name(shift: float, sure: str, answer: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for model in MODELS:
        bench.write("train", model, bench.train(model, "nano_1", 0), "nano_1")
        rows = [
            moved(row, shift * (model == "ttt_mlp") if row.metric == "nll" else 0) for row in bench.train(model, "nano_3", 0)
        ]
        bench.write("train", model, rows)
    (best,) = found(bench)  # of the largest budget alone
    losses = {run.config["model"]["name"]: row.value for run in bench.runs[1::2] for row in run.rows if row.metric == "nll"}
    first, second = sorted(losses, key=lambda name: losses[name])[:2]
    assert (best.series, best.sure) == ((first, second), sure)
    assert best.answer.startswith(look_of(first).label)
    assert answer in best.answer
    assert f"{look_of(second).label}, higher by {losses[second] - losses[first]:.3g} nat/token (95 % interval" in best.answer
    assert "7.4e11 FLOP" in best.where


def moved(row: Row, shift: float) -> Row:
    return replace(row, value=row.value + shift, samples=tuple(x + shift for x in row.samples))


@pytest.mark.parametrize(("shift", "answer", "sure"), [(-0.1, "Yes: its loss falls", "different"), (0.0, "No: equal", "equal")])
def test_whether_context_helps_is_a_verdict_on_the_model_itself(shift: float, answer: str, sure: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rows = list(bench.by_context("mamba"))
    same = [replace(row, value=rows[0].value, samples=rows[0].samples) for row in rows]
    bench.write("perplexity_by_context", "mamba", [moved(row, n * shift) for n, row in enumerate(same)])
    (one,) = found(bench)
    assert (one.question, one.where, one.sure) == ("Does longer context help?", "Mamba at 32k against 1k", sure)
    assert one.answer.startswith(answer)


def prefilled(bench: Bench, seconds: dict[str, tuple[float, ...]]) -> list[Finding]:
    for model, samples in seconds.items():
        at = bench.at(model, context=1024, batch=1, phase="prefill")
        bench.write("prefill_latency", model, [Row(metric="latency", value=samples[0], unit="s", at=at, samples=samples)])
    return found(bench, "prefill_latency")


def test_times_are_compared_by_the_ratio_of_their_medians(tmp_path: Path) -> None:
    near = tuple(0.01 * (1 + 0.0001 * n) for n in range(20))
    (one,) = prefilled(
        Bench(tmp_path / "a"), {"mamba": near, "transformer": tuple(2 * x for x in near), "ttt_mlp": tuple(3 * x for x in near)}
    )
    assert one.answer.startswith("Mamba: 10 ms. Next is Transformer, 2 times that (95 % interval")
    assert one.answer.endswith("; most needs TTT-MLP, 30 ms.")
    assert one.sure == "different"
    assert prefilled(Bench(tmp_path / "b"), {"mamba": near, "transformer": near})[0].sure == "equal"
    (few,) = prefilled(Bench(tmp_path / "c"), {"mamba": near[:3], "transformer": (0.02, 0.02, 0.02)})
    assert few.sure == "cannot tell"
    assert "3 samples are too few for an interval" in few.answer
    (alone,) = prefilled(Bench(tmp_path / "d"), {"mamba": near})
    assert alone.answer == "Mamba: 10 ms. Nothing to compare with."


def test_an_inner_model_that_does_not_learn_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("inner_loss", "ttt_linear", bench.inner("ttt_linear"))
    same = [replace(row, samples=tuple(4.0 + 0.01 * n for n in range(16)), value=4.075) for row in bench.inner("ttt_mlp")]
    bench.write("inner_loss", "ttt_mlp", same)
    said = {(one.where.split(",")[0], one.answer.split(":")[0], one.sure) for one in found(bench, "inner_loss")}
    assert said == {("TTT-Linear", "Yes", "different"), ("TTT-MLP", "No", "equal")}


def test_what_failed_is_missing_or_was_not_run_is_said(made: Report) -> None:
    missing = section(made, "nano-missing")
    words = [one.words for one in missing.blocks if isinstance(one, Text)]
    assert words[0].startswith("0 of the 7 runs of this tier are here, and 2 did not end well.")
    assert any(CAUSE in text for text in words[1:])
    (absent,) = folded(missing, "7 runs that are not here").blocks
    assert isinstance(absent, Table)
    assert {line.cells[0].text for line in absent.lines} == {run.experiment.name for run in nano().runs}
    alarms = [one.words for one in section(made, "nano-perplexity_by_context").blocks if isinstance(one, Text) and one.alarm]
    assert "No rows of: TTT-MLP" in alarms


def test_numbers_are_those_of_the_rows_with_their_intervals(runs: tuple[Run, ...], made: Report) -> None:
    (table,) = folded(section(made, "nano-perplexity_by_context"), "Numbers").blocks
    assert isinstance(table, Table)
    assert [column.name for column in table.columns[:4]] == ["model", "context", "nll (nat/token)", "95 % interval"]
    mine = [line for line in table.lines if line.series == ("transformer",)]
    values = {
        row.at["context"]: row.value
        for run in runs
        if run.manifest.experiment == "perplexity_by_context" and run.manifest.seed == 0
        for row in run.rows
        if row.at["model"] == "transformer"
    }
    assert [line.cells[1].order for line in mine] == sorted(values)
    for line, (_, value) in zip(mine, sorted(values.items()), strict=True):
        assert line.cells[2].order == pytest.approx(value + 0.005, abs=0.01)  # the mean of two seeds
        assert len(line.cells[-1].text.split(", ")) == 2


def test_where_numbers_come_from_names_every_run(runs: tuple[Run, ...], made: Report) -> None:
    (sources,) = folded(section(made, "nano-state_vs_context"), "Where these numbers come from").blocks
    assert isinstance(sources, Points)
    text = "\n".join(sources.sentences)
    assert all(run.manifest.run_id in text for run in runs if run.manifest.experiment == "state_vs_context")
    assert re.search(r"^24 rows, SHA-256 [0-9a-f]{64}$", text, re.MULTILINE)
    assert "commit 0123456; sources 5a5a0001" in text
    assert "versions torch 2.13.0" in text
    assert "device Intel Xeon 2.1 GHz" in text


def test_bounds_have_digits_enough_to_tell_them_apart() -> None:
    assert bounds(Interval(0.105, 0.10288, 0.10635, 8, "windows")) == "0.1029 to 0.1064"
    assert bounds(Interval(12.0, 10.0, 15.0, 8, "samples")) == "10.0 to 15.0"
    assert bounds(Interval(1.0, float("-inf"), float("inf"), 2, "samples")) == "–"


def test_long_tables_keep_octaves_of_positions(runs: tuple[Run, ...]) -> None:
    rows = Data(runs, MODELS, "nano").select("inner_loss", ["inner_loss"])
    table = numbers("Inner loss", rows)
    positions = {line.cells[[column.name for column in table.columns].index("position")].order for line in table.lines}
    assert positions == {64, 128, 256, 512, 1024, 2048}


class Tree(HTMLParser):
    """Fails where a tag is closed that is not the last that was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open += [tag] if tag not in ("meta", "link") else []

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_escaped_and_alone(made: Report) -> None:
    html = page(made)
    tree = Tree()
    tree.feed(html)
    assert tree.open == []
    assert "<title>Title &lt;b&gt;</title>" in html
    assert "Nano &lt;title&gt;" in html
    assert "step 41 &lt;of&gt; 160 &amp; no more" in html
    assert not re.search(r'(?:src|href)="(?!#|data:,)|@import|url\((?!#)|https?:', html)
    assert html.count("<svg") == len(pictures(made)) == 8
    assert max(len(one) for one in re.findall(r"<svg.*?</svg>", html, re.DOTALL)) < 300_000
    assert page(made) == html


def test_a_figure_names_its_models_and_takes_the_pages_colours(made: Report) -> None:
    (one,) = [shown for shown in pictures(made) if shown.name == "prefill_latency"]
    drawn = svg(one.sheet, "a", 'say "x"')
    assert set(re.findall(r'data-series="([^"]*)"', drawn)) == {"ttt_linear", "ttt_linear_t", "transformer", "mamba"}
    assert 'aria-label="say &quot;x&quot;"' in drawn
    assert not re.search("#[0-9a-f]{6}", drawn)
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]*)', drawn))
    assert referred == set(re.findall(r' id="([^"]*)"', drawn))
    assert referred.isdisjoint(re.findall(r' id="([^"]*)"', svg(one.sheet, "b", "")))
    assert "median of" not in drawn  # the caption is the page's
    assert picture(one.sheet, "png", "x") == picture(one.sheet, "png", "x")


def test_very_many_points_are_an_image_inside_the_svg() -> None:
    page_ = Page("Many")
    page_.axes[0].plot(np.arange(MANY + 1), np.arange(MANY + 1), ".")
    page_.axes[0].plot(np.arange(9), np.arange(9), ".")
    drawn = svg(page_.finish([], [], [], []), "many", "Many points")
    assert drawn.count("<image") == 1
    assert 'href="data:image/png;base64,' in drawn
    assert drawn.count("<use") < 100


def test_coloured_text_is_readable_on_either_paper() -> None:
    drawn = "".join(f"var(--t-{look_of(name).colour[1:].lower()})" for name in (*MODELS, "mamba2", "x", "y", "z"))
    colours = re.findall(r"--t-[0-9a-f]{6}:light-dark\(#([0-9a-f]{6}), #([0-9a-f]{6})\);", variables(drawn))
    assert len(colours) >= 5
    assert all(contrast(light, PAPER["light"]) >= 4.5 and contrast(dark, PAPER["dark"]) >= 4.5 for light, dark in colours)
    assert contrast("000000", "ffffff") == pytest.approx(21)


def test_markdown_holds_the_same_words_and_shows_files(made: Report) -> None:
    text = markdown(made)
    assert "![" in text and "](figures/nano/perplexity_by_context.png)" in text
    assert r"step 41 \<of\> 160 & no more" in text
    for table in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}) == 1
    assert block(Text("a|b *c*")) == r"a\|b \*c\*"


def test_published_rows_make_a_report_without_torch(tmp_path: Path) -> None:
    without = "import sys; sys.modules['torch'] = sys.modules['wandb'] = None"
    code = f"{without}; from bench.report.__main__ import main; sys.exit(main())"
    words = [sys.executable, "-c", code, str(PUBLISHED), "--out", str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    html, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for run in read_runs([PUBLISHED]):
        assert run.manifest.run_id in html
    assert all((tmp_path / name).stat().st_size > 5000 for name in re.findall(r"\]\((figures/[^)]*)\)", text))
    assert len(html) < 2_000_000


def test_what_has_no_figure_is_shown_in_numbers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for model, rate in (("mamba", 2e5), ("transformer", 3e5)):
        at = bench.at(model, phase="train", batch=4, context=512)
        bench.write("train_speed", model, [Row(metric="throughput", value=rate, unit="token/s", at=at)])
    part = part_of(nano(), bench.runs)
    table, sources, *_ = section_of(part, "nano-train_speed").blocks
    assert isinstance(table, Table) and isinstance(sources, Fold)
    assert [(line.cells[0].text, line.cells[1].text) for line in table.lines] == [
        ("Transformer", "300,000"),
        ("Mamba", "200,000"),
    ]
    words = [one.words for one in section_of(part_of(nano(), bench.runs), "nano-missing").blocks if isinstance(one, Text)]
    assert any(text.startswith("There are no rows for: Perplexity against training FLOPs, ") for text in words)


def test_runs_of_no_tier_are_listed_and_said(runs: tuple[Run, ...]) -> None:
    (part,) = report(runs).parts
    (last,) = [one for one in part.sections if one.key == "runs"]
    assert last.blocks[0] == Text(f"{len(runs)} runs belong to no tier: they are listed here, and drawn nowhere.")


def test_no_rows_are_an_error_that_names_the_cure(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bench.report", str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"error: there are no runs below {tmp_path}; make them with: make reproduce-figures\n"
