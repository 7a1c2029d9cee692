"""The paper's two equivalences, in float64."""

import pytest
import torch
from torch import Tensor

from kernels.attention import reference as attention
from models.theory import batch_gradient_ttt, linear_attention, nadaraya_watson


@pytest.fixture
def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(19, 6, dtype=torch.float64, generator=generator) for _ in range(3)]


def test_batch_gradient_descent_is_linear_attention(views: list[Tensor]) -> None:
    q, k, v = views
    torch.testing.assert_close(batch_gradient_ttt(q, k, v), linear_attention(q, k, v), rtol=0, atol=1e-12)


def test_no_other_rate_is(views: list[Tensor]) -> None:
    q, k, v = views
    assert not torch.allclose(batch_gradient_ttt(q, k, v, eta=0.4), linear_attention(q, k, v))


def test_nadaraya_watson_is_self_attention(views: list[Tensor]) -> None:
    expected = attention.forward(*(x[None, :, None] for x in views))[0, :, 0]
    torch.testing.assert_close(nadaraya_watson(*views), expected, rtol=0, atol=1e-12)
