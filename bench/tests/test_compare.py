"""Two runs compared: the verdict and the exit status follow from the rows, and what cannot be compared says why."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench import compare
from bench.results import PUBLISHED, At, Row, Run
from bench.tests.synthetic_runs import Bench

DRAW = np.random.default_rng(0)
HARD, NOISE = DRAW.normal(2, 0.3, 40), DRAW.normal(0, 0.02, 40)
CLUSTERS = "persuasion:20,northanger_abbey:20"


def nll(samples: Iterable[float], context: int = 512, clusters: str = CLUSTERS, model: str = "mamba") -> Row:
    values = tuple(map(float, samples))
    at: At = {"model": model, "backbone": "mamba", "context": context, "clusters": clusters, "params": len(model)}
    return Row(metric="nll", value=float(np.mean(values)), unit="nat/token", at=at, samples=values)


def latency(samples: Iterable[float], context: int = 512) -> Row:
    values = tuple(map(float, samples))
    at: At = {"model": "mamba", "backbone": "mamba", "context": context, "phase": "step"}
    return Row(metric="latency", value=float(np.median(values)), unit="s", at=at, samples=values)


def state(value: float) -> Row:
    return Row(metric="state", value=value, unit="byte", at={"model": "mamba", "backbone": "mamba", "context": 512})


def two(folder: Path, a: Sequence[Row], b: Sequence[Row]) -> tuple[Run, Run]:
    return Bench(folder / "a").write("train", "mamba", a), Bench(folder / "b").write("train", "transformer", b)


def compared(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """``python -m bench.compare WORDS``, its exit status."""
    monkeypatch.setattr(sys, "argv", ["bench.compare", *map(str, words)])
    return compare.main()


TIMES = 1e-3 * (1 + DRAW.exponential(0.02, 30))


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        (nll(HARD), nll(HARD - 0.05 + NOISE), "better"),
        (nll(HARD), nll(HARD + 0.05 + NOISE), "worse"),
        (nll(HARD), nll(HARD + NOISE / 100), "equal"),
        (nll(HARD), nll(HARD + 0.003 + 3 * NOISE), "cannot tell"),
        (nll(HARD), nll(HARD - 0.05, model="transformer"), "better"),  # the model may be what was changed
        (nll(HARD), nll(HARD[:30] - 1, clusters="persuasion:15,northanger_abbey:15"), "cannot tell"),  # other windows
        (nll(HARD - NOISE), nll(HARD - 1, clusters="persuasion:10,northanger_abbey:30"), "cannot tell"),
        (latency(TIMES), latency(1.2 * TIMES[::-1]), "worse"),
        (latency(TIMES), latency(TIMES / 1.2), "better"),
        (latency(TIMES), latency(TIMES[::-1] * 1.0001), "cannot tell"),
        (latency([1e-3] * 9), latency([1.001e-3] * 9), "equal"),
        (latency([1e-3] * 3), latency([2e-3] * 3), "cannot tell"),  # too few
        (state(1024), state(1024), "equal"),
        (state(1024), state(2048), "worse"),
        (state(1024), state(0), "better"),
    ],
)
def test_a_verdict_follows_from_the_samples(
    a: Row, b: Row, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = two(tmp_path, [a], [b])
    (one,) = compare.changes(before, after)
    assert one.verdict == word
    assert compared(monkeypatch, before.folder, after.folder) == (word == "worse")
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"1 {word}"
    assert "model.name: mamba → transformer" in out
    assert compare.changes(after, before)[0].verdict == {"better": "worse", "worse": "better"}.get(word, word)


def test_places_are_compared_each_with_its_like_and_judged_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slight = NOISE - NOISE.mean() + 0.008  # alone it would be different
    (alone,) = compare.changes(*two(tmp_path / "alone", [nll(HARD)], [nll(HARD + slight)]))
    assert alone.verdict == "worse"
    contexts = range(512, 522)
    more = [nll(HARD, context) for context in contexts], [nll(HARD + 0.2 * NOISE * (c % 2), c) for c in contexts]
    a, b = two(tmp_path, [nll(HARD, 1), nll(HARD, 7), *more[0]], [nll(HARD + slight, 1), *more[1], nll(HARD, 9), nll(HARD, 11)])
    found = compare.changes(a, b)
    assert [one.at["context"] for one in found] == [1, *contexts]
    assert found[0].p_holm > 2 * alone.p_holm
    assert compared(monkeypatch, a.folder, b.folder) == (found[0].verdict == "worse")
    out = capsys.readouterr().out
    assert "measured in A alone: 1, in B alone: 2" in out
    assert "context 512" in out


def test_a_run_is_found_by_how_its_name_begins_and_a_published_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Bench(tmp_path).write("train", "mamba", [nll(HARD)])
    roots = [tmp_path, PUBLISHED]
    assert compare.find_run(mine.manifest.run_id, roots).folder == mine.folder
    assert compare.find_run(mine.manifest.run_id[:-3], roots).folder == mine.folder
    (published,) = PUBLISHED.glob("state_vs_context/mamba-*")
    assert compare.find_run(published.name[:-2], roots).folder == published
    assert compared(monkeypatch, published, published.name) == 0
    out = capsys.readouterr().out
    assert "made alike" in out and "6 equal" in out
    for word, message in (
        ("mamba-", "'mamba-' is how several begin: decode_latency/mamba-"),
        ("rnn", "'rnn' is no run's folder"),
    ):
        assert compared(monkeypatch, word, mine.folder, "--results", tmp_path) == 2
        assert message in capsys.readouterr().err


def test_what_cannot_be_compared_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path)
    done = bench.write("train", "mamba", [nll(HARD)])
    other = bench.write("recall", "mamba", [nll(HARD)])
    failed = bench.write("train", "ttt_mlp", [], status="oom", cause="OutOfMemoryError: of 80 GB")
    elsewhere = bench.write("train", "transformer", [nll(HARD, 1024)])
    for second, message in (
        (other, "A is of train, B of recall: give two runs of one experiment"),
        (failed, "is oom, not done: OutOfMemoryError: of 80 GB"),
        (elsewhere, "nothing was measured alike in both"),
    ):
        assert compared(monkeypatch, done.folder, second.folder) == 2
        assert message in capsys.readouterr().err
    path = done.folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": 2}))
    assert compared(monkeypatch, done.folder, elsewhere.folder) == 2
    assert "holds 1 rows of 2: it is damaged" in capsys.readouterr().err
