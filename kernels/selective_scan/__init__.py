"""The selective scan of Mamba (arXiv 2312.00752, algorithm 2)."""

from kernels.op import PURE_TORCH, Op

OP = Op("selective_scan", {"reference": ("kernels.selective_scan.reference", PURE_TORCH)})
