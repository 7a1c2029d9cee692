"""The attention reference against softmax written out, and finite differences."""

import pytest
import torch
from torch import Tensor

from kernels.attention import reference
from kernels.attention.reference import Cache

Views = tuple[Tensor, Tensor, Tensor]


def draw(length: int) -> Views:
    """q, k, v with B = 2, H = 2, F = 3, in float64."""
    q, k, v = torch.randn(3, 2, length, 2, 3, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
    return q, k, v


def cut(views: Views, at: int | slice) -> Views:
    """The views of some tokens, or of one."""
    q, k, v = views
    return q[:, at], k[:, at], v[:, at]


def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    outs = []
    for t in range(q.shape[1]):
        logits = torch.einsum("bhf,bshf->bhs", q[:, t], k[:, : t + 1]) / q.shape[3] ** 0.5
        weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
        outs.append(torch.einsum("bhs,bshf->bhf", weights, v[:, : t + 1]))
    return torch.stack(outs, dim=1)


def empty_cache(length: int) -> Cache:
    """NaN where nothing was written, so that reading it shows."""
    held = torch.full((2, 2, length, 3), torch.nan, dtype=torch.float64)
    return Cache(held, held.clone(), torch.zeros(2, dtype=torch.int32))


@pytest.mark.parametrize("length", [1, 7])
def test_forward_is_softmax_of_what_was_seen(length: int) -> None:
    views = draw(length)
    torch.testing.assert_close(reference.forward(*views), naive(*views), rtol=0, atol=1e-12)


def test_prefill_and_steps_go_on_from_a_cache() -> None:
    views, cache = draw(9), empty_cache(12)
    outs = [reference.prefill(*cut(views, slice(4)), cache)]
    outs += [reference.step(*cut(views, t), cache)[:, None] for t in (4, 5)]
    outs += [reference.prefill(*cut(views, slice(6, None)), cache)]
    torch.testing.assert_close(torch.cat(outs, dim=1), naive(*views), rtol=0, atol=1e-12)
    assert cache.position.tolist() == [9, 9]


def test_a_full_cache_says_so() -> None:
    views, cache = draw(3), empty_cache(2)
    with pytest.raises(ValueError, match="holds 2 tokens, 3 are needed; init_state with a larger max_len"):
        reference.prefill(*views, cache)
    assert cache.position.tolist() == [0, 0]
    assert cache.key.isnan().all()


def test_gradients() -> None:
    assert torch.autograd.gradcheck(reference.forward, tuple(x.requires_grad_() for x in draw(4)), fast_mode=True)
