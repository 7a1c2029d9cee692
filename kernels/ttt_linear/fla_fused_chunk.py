"""fla.ops.ttt.fused_chunk_ttt_linear, see kernels/ttt_linear/fla.py."""

from functools import partial

from fla.ops.ttt import fused_chunk_ttt_linear

from kernels.ttt_linear import fla

forward = partial(fla.run, fused_chunk_ttt_linear)
