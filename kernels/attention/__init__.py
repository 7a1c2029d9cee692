"""Causal softmax attention, over a sequence or over a preallocated cache."""

from kernels.op import PURE_TORCH, Op

OP = Op("attention", {"reference": ("kernels.attention.reference", PURE_TORCH)})
