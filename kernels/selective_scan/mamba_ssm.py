"""The selective scan of mamba-ssm, with softplus and gate in its kernels: CUDA for sequences, Triton for a step.

The CUDA kernel begins at h = 0; what a state before that adds is carried.py's.
"""

import torch
from jaxtyping import Float
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from torch import Tensor

from kernels.opaque import opaque
from kernels.selective_scan.carry import carry


@opaque
def forward(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    dt_bias: Float[Tensor, " E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
    z: Float[Tensor, "B T E"] | None = None,
) -> Float[Tensor, "B T E"]:
    """As the reference. dt_bias, a and d are taken in float32; what is not laid out time last is copied."""
    out: Tensor = selective_scan_fn(*_native(u, dt, a, b, c, d, z), dt_bias.float(), delta_softplus=True)
    return out.transpose(1, 2)


@opaque
@torch.no_grad()
def prefill(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    dt_bias: Float[Tensor, " E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
    z: Float[Tensor, "B T E"] | None = None,
) -> Float[Tensor, "B T E"]:
    """As the reference."""
    native = _native(u, dt, a, b, c, d, z)
    out, last = selective_scan_fn(*native, dt_bias.float(), delta_softplus=True, return_last_state=True)
    y: Tensor = out.transpose(1, 2)
    carry(y, dt, dt_bias, a, c, state, z)
    state += last
    return y


@opaque
@torch.no_grad()
def step(
    u: Float[Tensor, "B E"],
    dt: Float[Tensor, "B E"],
    dt_bias: Float[Tensor, " E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B N"],
    c: Float[Tensor, "B N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
    z: Float[Tensor, "B E"] | None = None,
) -> Float[Tensor, "B E"]:
    """As the reference."""
    y: Tensor = selective_state_update(state, u, dt, a, b, c, d, z=z, dt_bias=dt_bias, dt_softplus=True)
    return y


def project(x: Float[Tensor, "*B R"], weight: Float[Tensor, "E R"]) -> Float[Tensor, "*B E"]:
    """x W', of sequences laid out time last by the product itself, as mamba-ssm's layer does; of tokens as they are."""
    if x.dim() == 2:
        return x @ weight.T
    return (weight @ x.flatten(0, 1).T).unflatten(1, x.shape[:2]).permute(1, 2, 0)


def _native(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, z: Tensor | None) -> tuple[Tensor | None, ...]:
    """[B, E, T] and [B, N, T], in the dtypes that the CUDA code wants."""
    u, dt, b, c = (x.to(u.dtype).transpose(1, 2) for x in (u, dt, b, c))
    return u, dt, a.float(), b, c, d.float(), None if z is None else z.transpose(1, 2)
