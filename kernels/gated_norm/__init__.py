"""The gate and RMSNorm at the end of a Mamba-2 layer, of every token by itself: it has only ``forward``."""

from kernels.gated_norm.problem import GatedNorm
from kernels.op import PURE_TORCH, WITH_GPU, Impl, Op

IMPLS = {
    "reference": Impl("kernels.gated_norm.reference", PURE_TORCH),
    "mamba_ssm": Impl("kernels.gated_norm.mamba_ssm", WITH_GPU, is_ours=False),
}
OP = Op("gated_norm", IMPLS, GatedNorm())
