"""What walks of TTT-MLP move against the tensors that hold it, bit by bit where no order of summation matters."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from kernels.ttt.launch import Tiles
from kernels.ttt.state import InnerState, split_weight
from kernels.ttt_mlp.held import Held

HEADS = 2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def draw(*shape: int) -> Tensor:
    """Far from centred."""
    return torch.randn(*shape, device=DEVICE) + torch.randn(*shape[:-1], 1, device=DEVICE)


def inner(width: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """W0 and b0. Of the weights one is too large for float16."""
    torch.manual_seed(width)
    w1, w2 = draw(HEADS, width, 4 * width), draw(HEADS, 4 * width, width)
    w1[1, 2, 3] = w2[1, 3, 2] = 1e5
    return (w1, w2), (draw(HEADS, 4 * width), draw(HEADS, width))


def assert_moved(
    found: tuple[Tensor, ...], means: tuple[Tensor, ...], weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]
) -> None:
    (w1, w2), (b1, b2) = weights, biases
    for mean, x in zip(means, (w2, b2), strict=True):
        torch.testing.assert_close(mean, x.mean(-1).expand(mean.shape), rtol=1e-6, atol=1e-6)
    expected = (w1.transpose(-1, -2), w2 - means[0][..., None], b1, b2 - means[1][..., None])
    for x, y in zip(found, expected, strict=True):
        assert x.is_contiguous()
        assert torch.equal(x, y.expand(x.shape))


@pytest.mark.parametrize("width", [16, 48, 64])
def test_walks_start_from_the_models_weights(width: int) -> None:
    weights, biases = inner(width)
    found, means = Held(Tiles.of(width, 16), weights, biases).start(3)
    assert_moved(found, means, weights, biases)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("width", [16, 48, 64])
def test_a_state_is_moved(width: int, split: bool) -> None:
    state = InnerState.fresh(*inner(width), 3, 16, split=split)
    for x in (*state.weights, *state.biases):
        x[1] *= 0.5
    state.position += torch.tensor([0, 5, 16], dtype=torch.int32, device=DEVICE)
    held = Held(Tiles.of(width, 16), state.weights, state.biases, state.remainders)
    found, means = held.start(3)
    assert_moved(found, means, state.dense(), state.biases)
    for x in found:
        x += 1e-3 * draw(*x.shape)
    w1, w2, b1, b2 = found
    held.finish(found, means, state.position, 7)
    weights, biases = (w1.transpose(2, 3), w2 + means[0][..., None]), (b1, b2 + means[1][..., None])
    halves, rests = zip(*map(split_weight, weights), strict=True) if split else (weights, ())
    for x, y in zip((*state.weights, *state.biases), (*halves, *biases), strict=True):
        assert torch.equal(x, y)
    for x, y in zip(state.remainders, rests, strict=True):  # interpreted, Triton cuts bfloat16 off
        torch.testing.assert_close(x, y, rtol=2**-7, atol=0)
    assert state.position.tolist() == [7, 12, 23]
