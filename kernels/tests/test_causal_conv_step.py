"""A token of the convolution by one kernel is the reference's, and moves the same inputs on."""

import pytest
import torch

from kernels.causal_conv import reference
from kernels.causal_conv import step as kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("channels", [24, kernel.BLOCK + 8])
def test_tokens_are_those_of_the_reference(taps: int, channels: int) -> None:
    draw = torch.Generator().manual_seed(taps)

    def of(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(DEVICE)

    weight, bias, tokens = of(channels, 1, taps), of(channels), of(taps + 1, 3, channels + 8)[..., 4:-4]  # rows lie apart
    past = of(3, taps - 1, channels)
    expected = past.clone()
    for x in tokens:
        found = kernel.step(x, weight, bias, past)
        torch.testing.assert_close(found, reference.step(x, weight, bias, expected), rtol=1e-5, atol=1e-5)
        assert torch.equal(past, expected)


def test_inputs_that_could_not_be_moved_in_place_are_an_error() -> None:
    past = torch.zeros(2, 16, 3).transpose(1, 2)
    with pytest.raises(ValueError, match="make it contiguous"):
        kernel.step(torch.zeros(2, 16), torch.zeros(16, 1, 4), torch.zeros(16), past)
