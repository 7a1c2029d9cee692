"""Every measured number in README.md is that of a published row, or of a bar in conf/claims.yaml, to its last printed digit.

Measured is what stands, a number alone or several parted by " / ", in a table whose paragraph before it names a commit, and a
percentage in the words after that table. The words of a number's row and column say which rows may support it.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean

from bench.claims import load_claims
from bench.config import CONF
from bench.figures.style import look_of
from bench.results import PUBLISHED, ROOT, Row, read_runs

README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"\d[\d,]*(\.\d+)?")
PLACE = re.compile(r"(?<![\w.,])B?(\d+(?:,\d{3})*)(k?)(?![\w.])")  # 16, 2,048, 32k, B64; no decimals, no names
SHARE = re.compile(r"(\d+(?:\.\d+)?) %(?! is allowed)")
COMMIT = re.compile(r"\bcommit ([0-9a-f]{7})\b")
UNIT = re.compile(r"\b(tokens?/s|GiB|GB|µs|ms|s)\b")
SCALE = {"µs": 1e6, "ms": 1e3, "s": 1.0, "GB": 1e-9, "GiB": 2.0**-30}
SIZES = {path.stem for path in (CONF / "size").glob("*.yaml")}
# The first of these words that is there says what was measured, and in which phase or pass.
KINDS: dict[str, tuple[str, str | None]] = {
    "decode, % of its floor": ("floor_share", "step"),
    "bits per byte": ("bits_per_byte", None),
    "perplexity": ("nll", None),
    "prefill": ("latency", "prefill"),
    "decode": ("latency", "step"),
    "forward and backward": ("latency", "fwd_bwd"),
    "forward": ("latency", "fwd"),
    "state": ("state", None),
    "GPU": ("throughput", None),
}
IMPLS = {"ours": "triton", "fla": "fla_"}


@dataclass(frozen=True)
class Said:
    """A number as it is printed. label: the words before it; words: these, and those above it."""

    printed: str
    label: str
    words: str
    commits: tuple[str, ...]

    @property
    def places(self) -> set[int]:
        """Contexts and batches that are named beside it."""
        return {int(digits.replace(",", "")) * (1024 if k else 1) for digits, k in PLACE.findall(self.label)}

    def is_of(self, value: float) -> bool:
        """Whether a value is printed so."""
        decimals = len(self.printed.partition(".")[2])
        return abs(value - float(self.printed.replace(",", ""))) <= 0.5 * 10**-decimals * (1 + 1e-6)

    def larger(self, factor: float) -> str:
        """The number times a factor, with as many digits."""
        return f"{factor * float(self.printed.replace(',', '')):.{len(self.printed.partition('.')[2])}f}"


def said(text: str) -> Iterator[Said]:
    """Every measured number; of a cell that is a number in another table none is known, so it has no commits."""
    commits: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    for block in re.split(r"\n\s*\n|\n(?=#)", text):
        if block.startswith("#"):
            commits = ()
        if block.startswith("|"):
            yield from _cells(block.splitlines(), named)
            continue
        named = tuple(COMMIT.findall(block))
        commits = named or commits
        yield from (Said(share, "", "%", commits) for share in SHARE.findall(block) if commits)


def _cells(lines: Sequence[str], commits: tuple[str, ...]) -> Iterator[Said]:
    (corner, *heads), _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    before = ""
    for label, *cells in rows:
        whole = f"{NUMBER.sub('', before)} {label}" if label.startswith("the same") else label
        before = whole
        for head, cell in zip(heads, cells, strict=True):
            parts = [part for part in cell.split(" / ") if NUMBER.fullmatch(part)]
            yield from (Said(part, whole, f"{corner} {whole} {head}", commits) for part in parts)


@cache
def rows_of(commits: tuple[str, ...]) -> tuple[Row, ...]:
    return tuple(row for run in read_runs([PUBLISHED]) if run.manifest.git_sha.startswith(commits) for row in run.rows)


@cache
def bars() -> tuple[Row, ...]:
    """Bars as if they were rows."""
    found = [(claim, claim.at_most if claim.at_least is None else claim.at_least) for claim in load_claims() if not claim.over]
    units = {"latency": "s", "token_time": "s/token"}
    return tuple(Row(metric=c.metric, value=bar, unit=units.get(c.metric, "1"), at=c.at) for c, bar in found if bar is not None)


@dataclass(frozen=True)
class Wanted:
    """What the words beside a number say of the rows that may have it."""

    metric: str
    way: str | None
    impls: tuple[str, ...]
    sizes: frozenset[str]
    gpus: int | None


@cache
def wanted(words: str) -> Wanted:
    metric, way = next((kind for word, kind in KINDS.items() if word in words), ("", None))
    metric = "token_time" if metric == "latency" and re.search(r"token/s|tokens/s|per token", words) else metric
    gpus = re.search(r"(\d+) GPU", words)
    return Wanted(
        metric,
        way,
        tuple(impl for word, impl in IMPLS.items() if re.search(rf"\b{word}\b", words)),
        frozenset(size for size in SIZES if re.search(rf"(?<!\w){re.escape(size)}(?!\w)", words)),
        int(gpus[1]) if gpus else None,
    )


def may_support(one: Said, row: Row) -> bool:
    """Whether the words beside a number speak of a row."""
    if one.words == "%":
        return row.metric.endswith("_error")
    at, want = row.at, wanted(one.words)
    if row.metric != want.metric:
        return False
    model = re.escape(look_of(str(at.get("model", at.get("op")))).label)
    return (
        want.way in (None, at.get("phase", at.get("pass")))
        and re.search(rf"\b{model}(?![\w-])", one.words) is not None
        and (not one.places or bool(one.places & {at.get("context"), at.get("batch")}))
        and (not want.impls or str(at.get("impl")).startswith(want.impls))
        and (not want.sizes or at.get("size") in want.sizes)
        and (want.gpus is None or at.get("gpus") == want.gpus)
        and at.get("slot", "mean") == "mean"
        and at.get("part", "grid") == "grid"
    )


def shown(one: Said, row: Row) -> Iterator[float]:
    """Values of a row in the unit of the words: its own and the mean of its samples."""
    unit = UNIT.search(one.words)
    for value in (row.value, *([fmean(row.samples)] if row.samples else [])):
        if row.unit == "nat/token":
            yield math.exp(value)
        elif "%" in one.words:
            yield 100 * value
        elif row.unit == "token/s":
            yield value
        elif unit and unit[0] in SCALE:
            yield SCALE[unit[0]] * value
        else:
            yield 1 / value if unit else value


def is_supported(one: Said) -> bool:
    """Whether a row, or in a column of bars a bar, has the number."""
    rows = bars() if one.words.endswith(" bar") else rows_of(one.commits) if one.commits else ()
    return any(may_support(one, row) and any(map(one.is_of, shown(one, row))) for row in rows)


def unsupported(text: str) -> list[str]:
    """Measured numbers that no row has, as they are printed."""
    return [one.printed for one in said(text) if not is_supported(one)]


def test_every_measured_number_in_the_readme_is_that_of_a_row() -> None:
    assert len(list(said(README))) > 40
    assert not unsupported(README)


def test_no_number_would_also_be_supported_if_it_were_a_tenth_larger() -> None:
    larger = [replace(one, printed=one.larger(1.1)) for one in said(README)]
    assert not [one for one in larger if is_supported(one)]


def test_a_number_is_supported_by_its_own_commit_alone() -> None:
    places = (("op", "ttt_mlp"), ("impl", "triton"), ("pass", "fwd"), ("batch", 16), ("context", 2048))
    runs = [run for run in read_runs([PUBLISHED]) if run.manifest.experiment == "kernel_speed"]
    run, row = next((u, r) for u in runs for r in u.rows if r.metric == "latency" and all(r.at[k] == v for k, v in places))
    right, wrong = f"{1e3 * row.value:.3f}", f"{1e3 * row.value + 0.001:.3f}"

    def found(before: str, number: str) -> list[str]:
        return unsupported(f"{before}\n\n| ms | ours |\n|---|---|\n| TTT-MLP, forward, 16 × 2,048 | {number} |")

    assert not found(f"Of commit {run.manifest.git_sha[:7]}:", right)
    assert found(f"Of commit {run.manifest.git_sha[:7]}:", wrong) == [wrong]
    assert found("Of commit 0000000:", right) == found("## Of no commit", right) == [right]


def test_a_percentage_after_a_table_is_that_of_a_row() -> None:
    commit = next(run.manifest.git_sha[:7] for run in read_runs([PUBLISHED]) if run.manifest.experiment == "kernel_speed")
    assert unsupported(f"Of commit {commit}:\n\n| ms | ours |\n|---|---|\n\nIt is 98.7 % off.") == ["98.7"]
