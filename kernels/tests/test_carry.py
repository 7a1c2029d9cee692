"""A scan from zero and what a state before it adds are the scan from that state."""

import pytest
import torch

from kernels.op import Case
from kernels.selective_scan import reference
from kernels.selective_scan.problem import SelectiveScan

pytest.importorskip("triton")

CASE = Case(batch=2, context=5, heads=3, head_dim=8)


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("started", [(False, False), (False, True), (True, True)])
def test_what_a_state_adds(is_gated: bool, started: tuple[bool, ...]) -> None:
    """Rows that have a state, and rows that have not."""
    from kernels.selective_scan.carry import carry

    x = SelectiveScan(is_gated).draw(CASE, torch.Generator().manual_seed(1))
    x["b"] = x["b"].contiguous()  # not every input is laid out alike
    before = torch.randn(2, 48, 16) * torch.tensor(started)[:, None, None]
    expected_state, state, rest = before.clone(), before.clone(), torch.zeros_like(before)
    expected = reference.prefill(**x, state=expected_state)
    y = reference.prefill(**x, state=rest)
    carry(y, x["dt"], x["dt_bias"], x["a"], x["c"], state, x.get("z"))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state + rest, expected_state, rtol=1e-5, atol=1e-6)
