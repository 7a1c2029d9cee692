"""The forward pass panel by panel: while ``chain`` walks one panel with few programs, ``answer`` follows in the one before it.

As in ``kernels.ttt_mlp.panels``, the walk runs on a stream beside the rest and two sets of scratch are used in turn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.ttt.launch import Tiles, operand_dtype
from kernels.ttt_mlp import panels
from kernels.ttt_mlp.answers import answer
from kernels.ttt_mlp.beside import beside
from kernels.ttt_mlp.chain import chain
from kernels.ttt_mlp.launch import modes, sizes, warps

Tensors = tuple[Tensor, ...]


def chunk_weights(q: Tensor, chunks: int) -> Tensors:
    """Room for w1 (transposed), w2 as operands, b1, b2 before each of ``chunks`` chunks."""
    (batch, _, heads, narrow), dtype = q.shape, operand_dtype(q)
    shapes = [(4 * narrow, narrow), (4 * narrow, narrow), (4 * narrow,), (narrow,)]
    dtypes = [dtype, dtype, torch.float32, torch.float32]
    return tuple(q.new_empty(batch, chunks, heads, *s, dtype=d) for s, d in zip(shapes, dtypes, strict=True))


@dataclass(frozen=True)
class Forward:
    """Arguments of ``chain`` and ``answer``, or of ``kernels.ttt_mlp.tiled_chain``. All tensors are contiguous."""

    tiles: Tiles
    eps: float
    views: Tensors
    """q, k, v, rho, tau"""
    norm: Tensors
    """gamma, beta"""
    moved: Tensors
    """w1 (transposed), w2, b1, b2, moved in place"""
    out: Tensor
    kept: Tensors | None = None
    """``chunk_weights`` of all chunks, where they are to be kept; of ``tiled_chain`` z2 of every token, too"""
    slots: Tensors | None = None
    """Slots of k, x2, d1, d2, rho and the position, where a state is moved"""

    def walk(self) -> None:
        """Every panel from the first to the last."""
        q = self.views[0]
        chunks = -(-q.shape[1] // self.tiles.CHUNK)
        size = self._panel_chunks(chunks)
        sets = [self._scratch(size) for _ in range(min(2, -(-chunks // size)))]
        walked: list[tuple[Callable[[], None], Callable[[], None]]] = []
        for n, first in enumerate(range(0, chunks, size)):
            panel = (min(size, chunks - first), first, *((chunks, first) if self.kept else (size, 0)))
            scratch = sets[n % 2]
            walked.append((beside(q.device, partial(self._chain, scratch, panel)), partial(self._answer, scratch, panel)))
            if len(walked) == 2:
                _answer_after(*walked.pop(0))
        _answer_after(*walked.pop())

    def _panel_chunks(self, chunks: int) -> int:
        (batch, _, heads, narrow), wide = self.out.shape, 4 * self.tiles.F
        chunk = self.tiles.CHUNK * (2 * wide + narrow) + (0 if self.kept else 2 * wide * narrow)
        return panels.panel_chunks(chunks, batch * heads * chunk * operand_dtype(self.out).itemsize)

    def _scratch(self, panel: int) -> Tensors:
        """x2, d1, d2 and the weights before every chunk."""
        (batch, _, heads, narrow), tokens, dtype = self.out.shape, self.tiles.CHUNK, operand_dtype(self.out)
        shapes = [(4 * narrow, tokens), (4 * narrow, tokens), (tokens, narrow)]
        left = (self.out.new_empty(batch, panel, heads, *shape, dtype=dtype) for shape in shapes)
        return *left, *(self.kept or chunk_weights(self.out, panel))

    def _chain(self, scratch: Tensors, panel: tuple[int, ...]) -> None:
        batch, length, heads, _ = self.out.shape
        chain[(batch * heads,)](
            *self.views, *self.norm, *self.moved, *(self.slots or [self.out] * 6), self.out, *scratch, length, heads, *panel,
            EPS=self.eps, **sizes(self.tiles), BC=self.tiles.BC, STATEFUL=self.slots is not None, **modes(self.out),
            num_warps=warps(self.tiles), num_stages=2,
        )  # fmt: skip

    def _answer(self, scratch: Tensors, panel: tuple[int, ...]) -> None:
        (batch, length, heads, _), (q, k, _, rho, tau) = self.out.shape, self.views
        position = self.slots[-1] if self.slots else self.out
        answer[(batch * panel[0] * heads,)](
            q, k, rho, tau, *self.norm, position, self.out, *scratch, length, heads, *panel,
            EPS=self.eps, **sizes(self.tiles), BN=64 if self.out.itemsize == 2 else 32, STATEFUL=self.slots is not None,
            **modes(self.out), num_warps=min(4, warps(self.tiles)), num_stages=2 if self.out.itemsize == 2 else 1,
        )  # fmt: skip


def _answer_after(wait: Callable[[], None], launch: Callable[[], None]) -> None:
    wait()
    launch()
