"""Where there is no GPU, Triton kernels are interpreted: the switch is set before a test module imports them."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
