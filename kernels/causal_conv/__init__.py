"""The short convolution of Mamba with the SiLU after it."""

from kernels.causal_conv.problem import CausalConv
from kernels.op import PURE_TORCH, WITH_GPU, Impl, Op

IMPLS = {
    "reference": Impl("kernels.causal_conv.reference", PURE_TORCH),
    "mamba_ssm": Impl("kernels.causal_conv.causal_conv1d", WITH_GPU, is_ours=False),
}
OP = Op("causal_conv", IMPLS, CausalConv())
