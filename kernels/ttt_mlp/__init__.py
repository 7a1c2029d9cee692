"""TTT-MLP: the inner model is a two-layer perceptron with GELU, F x 4F x F per head."""

from kernels.op import PURE_TORCH, Op

OP = Op("ttt_mlp", {"reference": ("kernels.ttt.reference", PURE_TORCH)})
