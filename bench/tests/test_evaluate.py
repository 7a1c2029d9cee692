"""Log-likelihoods against a brute force in float64 that knows no chunk, no batch and no state."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import models.lm
from bench.build import build_lm
from bench.compose import compose_run
from bench.data.batches import Window, context_windows, heldout_windows
from bench.data.shards import Document
from bench.evaluate import bits_per_byte, clusters, window_nll
from bench.tests.micro import MODELS
from models.lm import LM
from models.mixer import Size

VOCAB = 13
EVERYTHING_AT_ONCE = 10**6


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def new_lm(model: str) -> LM:
    """With weights large enough that every token matters."""
    torch.manual_seed(0)
    lm = build_lm(compose_run([f"model={model}"]).model, Size(width=16, layers=1, heads=2, ffn=24), VOCAB)
    with torch.no_grad():
        lm.embedding.weight.mul_(30)
    return lm.eval()


def documents(*lengths: int) -> list[Document]:
    draw = np.random.default_rng(0)
    return [Document(f"d{n}", draw.integers(0, VOCAB, n).astype(np.uint8), n) for n in lengths]


def brute_force(lm: LM, tokens: Sequence[int], targets: int) -> list[float]:
    """-log p of the last ``targets`` tokens, all logits of one sequence in float64."""
    with torch.no_grad():
        logits = lm.double()(torch.tensor([list(tokens[:-1])]))[0]
    losses = -torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), torch.tensor(list(tokens[1:]))]
    lm.float()
    return losses[len(tokens) - 1 - targets :].tolist()


def check(lm: LM, windows: Sequence[Window], found: Sequence[np.ndarray], context: int | None, targets: int | None) -> None:
    assert len(found) == len(windows)
    for window, losses in zip(windows, found, strict=True):
        scored = len(window.tokens) - 1 if targets is None else targets
        first = 0 if context is None else len(window.tokens) - scored - context
        assert losses.dtype == np.float32
        np.testing.assert_allclose(losses, brute_force(lm, window.tokens[first:].tolist(), scored), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_nll_of_ragged_windows_is_the_brute_force(model: str) -> None:
    lm, windows = new_lm(model), heldout_windows(documents(50, 20, 2, 41), context=20)
    assert {len(window.tokens) for window in windows} == {21, 10, 20, 2}
    check(lm, windows, window_nll(lm, windows, EVERYTHING_AT_ONCE), None, None)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("context", [1, 7, 30])
def test_a_context_is_what_the_model_sees_before_the_first_target(model: str, context: int) -> None:
    lm, windows = new_lm(model), context_windows(documents(36, 80), context=30, targets=5)
    assert [len(window.tokens) for window in windows] == [35, 35, 35]
    check(lm, windows, window_nll(lm, windows, EVERYTHING_AT_ONCE, context, 5), context, 5)


def test_exactly_the_context_is_read_no_more_no_less() -> None:
    lm = new_lm("transformer")
    (window,) = context_windows(documents(35), context=30, targets=5)

    def after(change: int) -> np.ndarray:
        tokens = window.tokens.copy()
        tokens[change] = (tokens[change] + 1) % VOCAB
        return window_nll(lm, [Window(0, 0, tokens)], EVERYTHING_AT_ONCE, context=7, targets=5)[0]

    (before,) = window_nll(lm, [window], EVERYTHING_AT_ONCE, context=7, targets=5)
    assert (after(22) == before).all()
    assert (after(23) != before).all()  # seven tokens before the first target, token 30
    assert (after(29) != before).all()
    assert after(34)[:4].tolist() == before[:4].tolist()
    assert after(34)[4] != before[4]


@pytest.mark.parametrize("model", ["ttt_linear", "mamba"])
@pytest.mark.parametrize("tokens_at_once", [1, 45])
@pytest.mark.parametrize("chunk", [7, 4096])
def test_how_much_goes_through_at_once_changes_nothing(
    model: str, tokens_at_once: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, windows = new_lm(model), heldout_windows(documents(63, 30, 41), context=20)
    whole = window_nll(lm, windows, EVERYTHING_AT_ONCE)
    monkeypatch.setattr(models.lm, "LOGIT_CHUNK", chunk)
    rows, logits = [], []
    lm.embedding.register_forward_hook(lambda module, args, out: rows.append(out.shape[:2].numel()))
    lm.head.register_forward_hook(lambda module, args, out: logits.append(out.shape[:-1].numel()))
    parts = window_nll(lm, windows, tokens_at_once)
    assert max(rows) <= max(20, tokens_at_once)
    assert max(logits) <= chunk  # logits are never whole
    assert sum(logits) == sum(rows) == sum(len(losses) for losses in whole)
    for part, losses in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part, losses, rtol=1e-5, atol=1e-5)


def test_training_never_holds_whole_logits_either(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = new_lm("transformer").train()
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, VOCAB, (3, 12)))
    lm.nll(tokens[:, :-1], tokens[:, 1:]).mean().backward()
    whole = [p.grad for p in lm.parameters()]
    lm.zero_grad(set_to_none=True)
    monkeypatch.setattr(models.lm, "LOGIT_CHUNK", 5)
    logits: list[int] = []
    lm.head.register_forward_hook(lambda module, args, out: logits.append(out.shape[:-1].numel()))
    lm.nll(tokens[:, :-1], tokens[:, 1:]).mean().backward()
    assert max(logits) == 5
    assert sum(logits) == 2 * 33  # once forward, once again for the gradient
    for p, grad in zip(lm.parameters(), whole, strict=True):
        assert grad is not None
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)


def test_bits_per_byte_counts_bytes_not_tokens() -> None:
    texts = [Document("a", np.zeros(30, np.uint8), 100), Document("b", np.zeros(10, np.uint8), 20)]
    assert bits_per_byte(math.log(2), texts) == pytest.approx(40 / 120)
    assert bits_per_byte(3 * math.log(2), texts[:1]) == pytest.approx(3 * 30 / 100)
    assert bits_per_byte(math.log(256), documents(9)) == pytest.approx(8)


def test_clusters_tell_the_windows_of_each_document() -> None:
    texts = documents(50, 5, 41)
    assert clusters(heldout_windows(texts, context=20), texts) == "d50:3,d5:1,d41:2"
