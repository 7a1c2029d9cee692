"""TTT-Linear: the inner model is one linear layer, F x F per head."""

from kernels.op import PURE_TORCH, WITH_GPU, Impl, Op
from kernels.ttt.problem import TTT

FOREIGN = {"is_ours": False, "is_variant": True, "has_step": False}  # kernels/ttt_linear/fla.py
IMPLS = {
    "reference": Impl("kernels.ttt.reference", PURE_TORCH),
    "triton": Impl("kernels.ttt_linear.kernel", WITH_GPU),
    "fla_chunk": Impl("kernels.ttt_linear.fla_chunk", WITH_GPU, **FOREIGN),
    "fla_fused_chunk": Impl("kernels.ttt_linear.fla_fused_chunk", WITH_GPU, **FOREIGN),
}
OP = Op("ttt_linear", IMPLS, TTT(expand=(1, 1), base_lr=1.0))
