"""TTT-MLP: the inner model is a two-layer perceptron with GELU, F x 4F x F per head."""

from kernels.op import PURE_TORCH, WITH_GPU, Impl, Op
from kernels.ttt.problem import TTT

IMPLS = {"reference": Impl("kernels.ttt.reference", PURE_TORCH), "triton": Impl("kernels.ttt_mlp.kernel", WITH_GPU)}
OP = Op("ttt_mlp", IMPLS, TTT(expand=(1, 4, 1), base_lr=0.1))
