"""The selective scan of Mamba (arXiv 2312.00752, algorithm 2)."""

from kernels.op import PURE_TORCH, WITH_GPU, Impl, Op
from kernels.selective_scan.problem import SelectiveScan

IMPLS = {
    "reference": Impl("kernels.selective_scan.reference", PURE_TORCH),
    "mamba_ssm": Impl("kernels.selective_scan.mamba_ssm", WITH_GPU, is_ours=False),
}
OP = Op("selective_scan", IMPLS, SelectiveScan())
