"""Causal softmax attention, over a sequence or over a preallocated cache."""

from kernels.attention.problem import Attention
from kernels.op import PURE_TORCH, Impl, Op

IN_TORCH = "it needs PyTorch with CUDA on Linux: run `make setup` without TORCH_INDEX"
IMPLS = {
    "reference": Impl("kernels.attention.reference", PURE_TORCH, is_ours=False),  # torch's own choice of kernel
    "sdpa_flash": Impl("kernels.attention.sdpa_flash", IN_TORCH, is_ours=False),
    "sdpa_cudnn": Impl("kernels.attention.sdpa_cudnn", IN_TORCH, is_ours=False),
}
OP = Op("attention", IMPLS, Attention())
