"""The law of inference: forward, prefill in any pieces and single steps give one result, for every model of conf/model."""

import random
from itertools import pairwise

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.lm import LM
from models.mixer import Size, State, state_bytes, state_tensors, take_rows
from models.tests.conftest import MODELS, Build, branches, build_model, has_mini_batch, perturb

SIZE = Size(width=8, layers=1, heads=2, ffn=12)
VOCAB, LENGTH = 11, 37  # ragged: no multiple of a mini-batch
CASES = [(name, size) for name in MODELS for size in ((1, 4, 16) if has_mini_batch(name) else (16,))]


@pytest.fixture(params=CASES, ids=[f"{name}-{size}" for name, size in CASES])
def model(request: pytest.FixtureRequest) -> LM:
    name, mini_batch = request.param
    torch.manual_seed(0)
    return perturb(build_model(name, SIZE, VOCAB, mini_batch))


def draw(batch: int = 2, length: int = LENGTH) -> Int[Tensor, "B T"]:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(2))


def prefill(model: LM, tokens: Int[Tensor, "B T"], state: list[State]) -> Float[Tensor, "B T V"]:
    """Logits of all positions, where LM.prefill gives those of the last."""
    h = model.embedding(tokens)
    for branch, part in zip(branches(model), state, strict=True):
        h = branch.prefill(h, part)
    return model.head(model.norm(h))


def steps(model: LM, tokens: Int[Tensor, "B T"], state: list[State]) -> Float[Tensor, "B T V"]:
    return torch.stack([model.step(token, state) for token in tokens.unbind(1)], dim=1)


def assert_same(actual: Tensor, expected: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def advanced(model: LM, tokens: Int[Tensor, "1 T"], lengths: list[int], whole: Float[Tensor, "1 T V"]) -> list[State]:
    """One state whose row b has read the first ``lengths[b]`` of the tokens, merged from runs of one row each."""
    merged = model.init_state(len(lengths), 2 * LENGTH)
    for b, length in enumerate(lengths):
        alone = model.init_state(1, 2 * LENGTH)
        if length:
            assert_same(prefill(model, tokens[:, :length], alone), whole[:, :length])
        for all_rows, row in zip(state_tensors(merged), state_tensors(alone), strict=True):
            all_rows[b] = row[0]
    return merged


def test_weights_side_by_side_give_the_same_steps_and_gradients(model: LM) -> None:
    tokens = draw()
    model.nll(tokens[:, :-1], tokens[:, 1:]).sum().backward()
    before = {name: (p.detach().clone(), p.grad) for name, p in model.named_parameters()}
    model.zero_grad()
    model.unite()
    model.nll(tokens[:, :-1], tokens[:, 1:]).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close((p.detach(), p.grad), before[name], rtol=0, atol=0)
    other = {name: value * 1.5 for name, value in model.state_dict().items()}
    assert other.keys() == model.state_dict().keys()
    for state in (model.state_dict(), other):  # what is loaded later is what steps read
        model.load_state_dict(state)
        with torch.no_grad():
            assert_same(steps(model, tokens, model.init_state(2, LENGTH)), model(tokens))


@torch.no_grad()
def test_prefill_then_steps_at_every_split(model: LM) -> None:
    """Rows that have read 0 to 37 tokens at once go on together, by 37 steps; each as the whole sequence alone."""
    tokens, splits = draw(batch=1, length=2 * LENGTH), list(range(LENGTH + 1))
    whole = model(tokens)
    state = advanced(model, tokens, splits, whole)
    outs = steps(model, torch.cat([tokens[:, n : n + LENGTH] for n in splits]), state)
    assert_same(outs, torch.cat([whole[:, n : n + LENGTH] for n in splits]))


@torch.no_grad()
def test_a_beginning_is_a_prefill_that_asks_nothing(model: LM) -> None:
    tokens, begun, filled = draw(), model.init_state(2, LENGTH), model.init_state(2, LENGTH)
    assert_same(model.begin(tokens[:, :30], begun), model.prefill(tokens[:, :30], filled))
    for a, b in zip(state_tensors(begun), state_tensors(filled), strict=True):
        assert_same(a, b)
    assert_same(steps(model, tokens[:, 30:], begun), model(tokens)[:, 30:])


@torch.no_grad()
@pytest.mark.parametrize("seed", range(5))
def test_prefill_in_random_chunks(model: LM, seed: int) -> None:
    tokens, rng = draw(), random.Random(seed)
    cuts = [0, *sorted(rng.sample(range(1, LENGTH), rng.randint(1, 8))), LENGTH]
    state = model.init_state(2, LENGTH)
    chunks = [prefill(model, tokens[:, start:end], state) for start, end in pairwise(cuts)]
    assert_same(torch.cat(chunks, dim=1), model(tokens))


@torch.no_grad()
def test_rows_at_different_positions(model: LM) -> None:
    """Rows that have read 0 to 19 tokens run together: 9 by prefill, then 9 by steps; each as the whole sequence alone."""
    tokens, lengths = draw(batch=1), list(range(20))
    whole = model(tokens)
    state = advanced(model, tokens, lengths, whole)
    further = torch.cat([tokens[:, n : n + 18] for n in lengths])
    outs = torch.cat((prefill(model, further[:, :9], state), steps(model, further[:, 9:], state)), dim=1)
    assert_same(outs, torch.cat([whole[:, n : n + 18] for n in lengths]))


@torch.no_grad()
def test_scores_after_a_state_that_rows_share(model: LM) -> None:
    """Three rows go on from copies of two, with targets of different lengths, and leave the state as it was."""
    tokens = draw(length=20)
    state = model.init_state(2, LENGTH)
    model.prefill(tokens, state)
    rows, further = torch.tensor([1, 0, 1]), draw(batch=3, length=9)
    targets = further[:, 1:].masked_fill(torch.arange(8) < torch.tensor([[0], [3], [7]]), -1)
    for _ in range(2):
        nll, likeliest = model.score(further[:, :-1], targets, take_rows(state, rows))
        logits = model(torch.cat((tokens[rows], further[:, :-1]), 1))[:, 20:]
        kept = targets >= 0
        assert_same(nll, -logits.log_softmax(-1).gather(2, further[:, 1:, None])[..., 0][kept])
        assert likeliest.equal((logits.argmax(-1) == targets)[kept])


@torch.no_grad()
def test_steps_then_prefill(model: LM) -> None:
    tokens = draw()
    state = model.init_state(2, LENGTH)
    outs = (steps(model, tokens[:, :6], state), prefill(model, tokens[:, 6:], state))
    assert_same(torch.cat(outs, dim=1), model(tokens))


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17])
def test_short_sequences(model: LM, length: int) -> None:
    """The logits of LM.prefill too, which are those of the last position."""
    tokens = draw(length=length)
    whole = model(tokens)
    assert_same(model.prefill(tokens, model.init_state(2, length)), whole[:, -1])
    assert_same(steps(model, tokens, model.init_state(2, length)), whole)


@torch.no_grad()
def test_no_token_is_seen_before_its_time(model: LM) -> None:
    """In row t of a batch, token t is another."""
    tokens = draw(batch=1)
    whole, changed = model(tokens), (tokens + torch.eye(LENGTH, dtype=torch.long)) % VOCAB
    for t, row in enumerate(model(changed)):
        assert_same(row[:t], whole[0, :t], atol=1e-12)
        assert (row[t] - whole[0, t]).abs().max() > 1e-6


@torch.no_grad()
def test_rows_are_independent(model: LM) -> None:
    tokens = draw(batch=3)
    assert_same(model(tokens), torch.cat([model(row) for row in tokens.split(1)]), atol=1e-12)


@torch.no_grad()
def test_states_are_fresh_and_fixed_in_place(model: LM) -> None:
    """A sequence leaves no trace in the next one's state, and a state keeps its tensors, so that a step can be captured."""
    tokens, state = draw(), model.init_state(2, LENGTH)
    held = [tensor.data_ptr() for tensor in state_tensors(state)]
    prefill(model, tokens[:, :20], state)
    steps(model, tokens[:, 20:], state)
    assert held == [tensor.data_ptr() for tensor in state_tensors(state)]
    assert_same(prefill(model, tokens, model.init_state(2, LENGTH)), model(tokens))


@pytest.mark.parametrize("context", [1, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_bytes_are_those_of_the_cost(build: Build, context: int, dtype: torch.dtype) -> None:
    model = build(SIZE, VOCAB).to(dtype)
    held = state_bytes(model.init_state(1, context))
    assert held > 0
    assert {model.cost(phase, context, "causal").state_bytes for phase in ("prefill", "step")} == {held}
    assert model.cost("train", context, "causal").state_bytes == 0


@pytest.mark.parametrize("how", ["begin", "prefill"])
def test_a_cache_too_short_says_so(how: str) -> None:
    model = build_model("transformer", SIZE, VOCAB)
    with pytest.raises(ValueError, match="max_len"):
        getattr(model, how)(draw(length=5), model.init_state(2, 4))


def test_a_chunked_likelihood_is_that_of_the_logits(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.lm.LOGIT_CHUNK", 7)
    model, tokens = perturb(build(SIZE, VOCAB)), draw(length=21)
    targets = draw(length=22)[:, 1:]
    expected = -model(tokens).log_softmax(-1).gather(2, targets[..., None])[..., 0]
    assert_same(model.nll(tokens, targets), expected)
    assert_same(model.nll(tokens, targets[:, -5:]), expected[:, -5:])
