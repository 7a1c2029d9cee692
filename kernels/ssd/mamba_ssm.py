"""The scan of Mamba-2 by mamba-ssm's Triton kernels, in the chunks of 256 tokens that its layer takes."""

from jaxtyping import Float
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from torch import Tensor


def forward(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " H"],
) -> Float[Tensor, "B T H P"]:
    """As the reference."""
    out: Tensor = mamba_chunk_scan_combined(x, dt, a, b[:, :, None], c[:, :, None], 256, D=d)
    return out
