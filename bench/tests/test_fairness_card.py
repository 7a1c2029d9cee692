"""The fairness card says what each model was given, and whether FLOPs were matched."""

from dataclasses import replace
from pathlib import Path

from bench.figures.data import Data
from bench.figures.fairness_card import card_text
from bench.figures.index import FIGURES
from bench.tests.synthetic_runs import BUDGETS, MODELS, Bench
from bench.tests.test_figures import words


def test_card_text_is_aligned_and_says_that_flops_match(tmp_path: Path) -> None:
    full = Bench(tmp_path).everything()
    text = card_text(Data(tuple(full), MODELS, "nano")).splitlines()
    body = text[: 1 + len(MODELS) * len(BUDGETS)]
    assert len({len(line) for line in body}) == 1
    assert body[0].split()[:3] == ["model", "budget", "parameters"]
    assert body[1].split() == [
        "TTT-Linear",
        "nano_1",
        "100,010",
        "1.05e6",
        "57,142",
        "0.02",
        "14",
        "0.003",
        "49,664",
        "3.1%",
        "1.8e11",
        "3.10",
        "+0.00%",
    ]
    assert "Total training FLOPs matched within 0.10% (tolerance 0.50%; match=budget, attention counted causal)." in text
    assert any("learning rate: not searched. 1 seed." in line for line in text)


def test_card_says_that_flops_do_not_match(tmp_path: Path) -> None:
    bench = Bench(tmp_path, match="tokens")
    for model in MODELS:
        bench.write("train", model, bench.train(model, "nano_3", 0))
    tokens = Data(tuple(bench.runs), MODELS, "nano")
    for text in (
        card_text(tokens),
        words(FIGURES["fairness_card"].draw(tokens)),
        words(FIGURES["perplexity_vs_flops"].draw(tokens)),
    ):
        assert "FLOPs are NOT matched (match=tokens, attention counted causal)" in text
        assert "matched within" not in text


def test_card_says_that_the_tolerance_is_exceeded(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rows = [replace(row, value=0.021) if row.metric == "mismatch" else row for row in bench.train("mamba", "nano_3", 0)]
    bench.write("train", "mamba", rows)
    text = card_text(Data(tuple(bench.runs), ("mamba",), "nano"))
    assert "FLOPs are NOT matched: the largest mismatch is 2.10% (tolerance 0.50%" in text
