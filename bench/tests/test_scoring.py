"""Scores and greedy texts are those of the model read by itself, whatever the order, the batch, and what requests share."""

import random

import numpy as np
import pytest
import torch

from bench.build import build_lm, size_of
from bench.compose import compose_run
from bench.scoring import GRAIN, Tokens, generate, score
from bench.tests.micro import MODELS
from models.lm import LM
from models.mixer import State

VOCAB = 32
# Contexts that share a stem or nothing, shorter than one and longer, with continuations of several lengths.
LENGTHS = (1, 5, GRAIN, GRAIN + 1, 2 * GRAIN + 3)


@pytest.fixture(params=MODELS)
def lm(request: pytest.FixtureRequest) -> LM:
    run = compose_run([f"model={request.param}", "size=tiny"])
    torch.manual_seed(0)
    return build_lm(run.model, size_of(run.size, run.model), VOCAB).cast(torch.float64).eval()


def draw(*lengths: int) -> list[Tokens]:
    rng = np.random.default_rng(1)
    return [rng.integers(VOCAB, size=length) for length in lengths]


def requests() -> list[tuple[Tokens, Tokens]]:
    contexts, continuations = draw(*LENGTHS), draw(1, 2, 7)
    return [(context, continuation) for context in contexts for continuation in continuations]


@torch.no_grad()
def alone(lm: LM, context: Tokens, continuation: Tokens) -> tuple[np.ndarray, np.ndarray]:
    tokens = torch.from_numpy(np.concatenate((context, continuation)))[None]
    logits = lm(tokens[:, :-1])[0, -len(continuation) :]
    nll = -logits.log_softmax(-1).gather(1, tokens[0, -len(continuation) :, None])[:, 0]
    return nll.numpy(), (logits.argmax(-1) == tokens[0, -len(continuation) :]).numpy()


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_scores_are_those_of_each_sequence_alone(lm: LM, rows: int) -> None:
    pairs = requests()
    random.Random(rows).shuffle(pairs)
    for pair, found in zip(pairs, score(lm, pairs, rows), strict=True):
        nll, likeliest = alone(lm, *pair)
        np.testing.assert_allclose(found.nll, nll, rtol=0, atol=1e-9)
        assert found.likeliest.tolist() == likeliest.tolist()
        assert found.is_greedy == likeliest.all()


def test_a_stem_is_read_once_however_many_continuations_it_has(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    (context,), read, prefill = draw(2 * GRAIN + 1), [], lm.prefill

    def counting(tokens: torch.Tensor, state: list[State]) -> torch.Tensor:
        read.append(tuple(tokens.shape))
        return prefill(tokens, state)

    monkeypatch.setattr(lm, "prefill", counting)
    score(lm, [(context, continuation) for continuation in draw(1, 2, 3, 4)], rows=2)
    assert read == [(1, 2 * GRAIN)]


@pytest.mark.parametrize("rows", [1, 4])
def test_greedy_texts_are_those_of_whole_passes(lm: LM, rows: int) -> None:
    contexts = draw(*LENGTHS)
    written = generate(lm, contexts, 6, lambda index, tokens: index == 0 and len(tokens) == 2, rows)
    assert [len(tokens) for tokens in written] == [2, 6, 6, 6, 6]
    for context, tokens in zip(contexts, written, strict=True):
        assert score(lm, [(context, np.array(tokens))], rows)[0].is_greedy


def test_nothing_asked_for_is_nothing(lm: LM) -> None:
    assert score(lm, [], 4) == []
    assert generate(lm, [], 4, lambda index, tokens: False, 4) == []
