"""TTT-Linear: the inner model is one linear layer, F x F per head."""

from kernels.op import PURE_TORCH, Op

OP = Op("ttt_linear", {"reference": ("kernels.ttt.reference", PURE_TORCH)})
