"""The selective scan of mamba-ssm: CUDA for sequences, Triton for a step."""

import functools

import torch
from jaxtyping import Float
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from torch import Tensor


def forward(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
) -> Float[Tensor, "B T E"]:
    """As the reference. dt is taken in u's dtype, a and d in float32; what is not laid out time last is copied."""
    out: Tensor = selective_scan_fn(*_native(u, dt, a, b, c), d.float())
    return out.transpose(1, 2)


@torch.no_grad()
def prefill(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
) -> Float[Tensor, "B T E"]:
    """As the reference, for a state before its first token: the CUDA scan begins at zero.

    Raises:
        ValueError: the state has read tokens already.
    """
    if state.any():
        raise ValueError("mamba-ssm scans from a zero state only; prefill in one call, or use impl: reference")
    out, last = selective_scan_fn(*_native(u, dt, a, b, c), d.float(), return_last_state=True)
    state.copy_(last)
    y: Tensor = out.transpose(1, 2)
    return y


@torch.no_grad()
def step(
    u: Float[Tensor, "B E"],
    dt: Float[Tensor, "B E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B N"],
    c: Float[Tensor, "B N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
) -> Float[Tensor, "B E"]:
    """As the reference. mamba-ssm 2.3 fails without a bias of dt, so it is given one of zeros."""
    y: Tensor = selective_state_update(state, u, dt, a, b, c, d, dt_bias=_no_bias(d.shape[0], d.device))
    return y


@functools.cache
def _no_bias(width: int, device: torch.device) -> Float[Tensor, " E"]:
    """Made once, so that no step pays for it."""
    return torch.zeros(width, device=device)


def _native(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """[B, E, T] and [B, N, T], in the dtypes that the CUDA code wants."""
    u, dt, b, c = (x.to(u.dtype).transpose(1, 2) for x in (u, dt, b, c))
    return u, dt, a.float(), b, c
