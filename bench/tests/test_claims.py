"""A claim is judged by the interval of published rows of the latest run; what has no rows does not hold."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.claims import Claim, load_claims, report
from bench.results import Row

CLAIM = Claim("quick", "kernel_speed", "latency", "h100", {"op": "ttt_linear", "batch": 2}, at_most=1.0)


def run(samples: tuple[float, ...], others: tuple[float, ...] = (2.0,) * 20, started: str = "2026-01-01") -> Any:
    at: dict[str, int | float | str] = {"op": "ttt_linear", "impl": "triton", "batch": 2}
    places = ((at, samples), ({**at, "op": "ssd"}, others))
    rows = tuple(Row(metric="latency", value=9.0, unit="s", at=place, samples=taken) for place, taken in places)
    made = {"git_sha": "abcdef0123", "device": "H100"}
    manifest = SimpleNamespace(experiment="kernel_speed", started=started, run_id=f"r-{started}", **made)
    return SimpleNamespace(manifest=manifest, config={"device": {"name": "h100"}}, rows=rows)


@pytest.mark.parametrize(
    ("samples", "at_most", "at_least"),
    [
        ((0.9,) * 20, "holds", "fails"),
        ((1.1,) * 20, "fails", "holds"),
        ((0.9,) * 10 + (1.1,) * 10, "cannot tell", "cannot tell"),
        ((0.9,) * 3, "cannot tell", "cannot tell"),  # too few for 95 %
    ],
)
def test_the_whole_interval_must_keep_to_the_bar(samples: tuple[float, ...], at_most: str, at_least: str) -> None:
    for claim, expected in ((CLAIM, at_most), (replace(CLAIM, at_most=None, at_least=1.0), at_least)):
        text, all_hold = report([claim], [run(samples)])
        assert text.startswith(expected) and all_hold == (expected == "holds")


def test_a_ratio_is_to_another_place_of_the_same_run() -> None:
    claim = replace(CLAIM, over={"op": "ssd"}, at_most=0.5)
    assert report([claim], [run((0.9,) * 20)])[0].startswith("holds")
    assert report([claim], [run((1.2,) * 20)])[0].startswith("fails")
    assert report([claim], [run((0.9,) * 20, others=(2.0,) * 3)])[0].startswith("cannot tell")


def test_a_ratio_may_be_to_another_run_of_the_same_commit_and_device() -> None:
    claim = replace(CLAIM, over={"op": "ssd"}, at_most=0.5)
    first, second = run((0.9,) * 20), run((0.9,) * 20)
    first.rows, second.rows = first.rows[:1], second.rows[1:]
    assert report([claim], [first, second])[0].startswith("holds")
    for name in ("git_sha", "device"):
        other: Any = SimpleNamespace(
            **{**vars(second), "manifest": SimpleNamespace(**{**vars(second.manifest), name: "another"})}
        )
        assert report([claim], [first, other])[0].startswith("no rows"), name


def test_the_latest_run_that_has_the_place_counts() -> None:
    old, new = run((0.9,) * 20), run((1.1,) * 20, started="2026-02-01")
    assert report([CLAIM], [new, old])[0].startswith("fails")
    assert "abcdef0" in report([CLAIM], [new, old])[0]


@pytest.mark.parametrize("change", [{"device": "a100"}, {"experiment": "train"}, {"at": {"op": "ttt_mlp"}}])
def test_without_rows_a_claim_does_not_hold(change: dict[str, Any]) -> None:
    text, all_hold = report([replace(CLAIM, **change)], [run((0.9,) * 20)])
    assert text.startswith("no rows") and not all_hold


def test_a_place_must_be_one() -> None:
    with pytest.raises(ValueError, match=r"2 rows latency at .*name more coordinates"):
        report([replace(CLAIM, at={"batch": 2})], [run((0.9,) * 20)])


def test_a_claim_has_one_bar() -> None:
    with pytest.raises(ValueError, match=r"quick.*at_most and at_least"):
        replace(CLAIM, at_least=1.0)


def test_the_claims_of_the_project_are_read(tmp_path: Path) -> None:
    claims = load_claims()
    assert len({claim.name for claim in claims}) == len(claims) > 10
    (tmp_path / "one.yaml").write_text("- {name: x, experiment: e, metric: m, device: d, at: {op: o}, at_least: 1.5e-3}\n")
    assert load_claims(tmp_path / "one.yaml")[0].at_least == 0.0015
