"""Causal softmax attention, over a sequence or over a preallocated cache."""

from kernels.attention.problem import Attention
from kernels.op import PURE_TORCH, WITH_GPU, Impl, Op

IMPLS = {
    "reference": Impl("kernels.attention.reference", PURE_TORCH, is_ours=False),  # torch's own choice of kernel
    "split_kv": Impl("kernels.attention.split_kv", WITH_GPU, is_ours=False),  # and ours for steps
    "sdpa_flash": Impl("kernels.attention.sdpa_flash", WITH_GPU, is_ours=False),
    "sdpa_cudnn": Impl("kernels.attention.sdpa_cudnn", WITH_GPU, is_ours=False),
    "flash_attn": Impl("kernels.attention.flash_attn", WITH_GPU, is_ours=False),
}
OP = Op("attention", IMPLS, Attention())
