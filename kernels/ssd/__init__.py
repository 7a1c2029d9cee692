"""The scan of Mamba-2, state space duality (arXiv 2405.21060)."""

from kernels.op import PURE_TORCH, WITH_GPU, Impl, Op
from kernels.ssd.problem import SSD

IMPLS = {
    "reference": Impl("kernels.ssd.reference", PURE_TORCH),
    "mamba_ssm": Impl("kernels.ssd.mamba_ssm", WITH_GPU, is_ours=False),
}
OP = Op("ssd", IMPLS, SSD())
