"""fla.ops.ttt.chunk_ttt_linear, see kernels/ttt_linear/fla.py."""

from functools import partial

from fla.ops.ttt import chunk_ttt_linear

from kernels.ttt_linear import fla

forward = partial(fla.run, chunk_ttt_linear)
