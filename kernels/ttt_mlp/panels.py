"""The backward pass panel by panel from the end of the sequence: what bounds its scratch, and what runs beside what.

``reverse`` walks panels one after another with few programs. So it runs on a stream beside the rest: while it is in one panel,
``replay`` and ``queries`` go through the one that it comes to next, and ``keys`` through the one that it has left. Two sets of
scratch, used in turn, are enough: the ``keys`` of a panel are launched before the ``replay`` that overwrites its set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.ttt.launch import Tiles, operand_dtype, shared_memory
from kernels.ttt_mlp import backward as grad
from kernels.ttt_mlp import tiled_backward as tiled
from kernels.ttt_mlp.beside import beside
from kernels.ttt_mlp.launch import IN_REGISTERS, modes, padding, products, sizes, warps

Tensors = tuple[Tensor, ...]

PANEL_BYTES = 1 << 30
"""Least bound of what the kernels leave to one another, both sets together; two chunks of all sequences may need more."""
TWO_STAGES, TWO_WIDE_STAGES = 120 << 10, 208 << 10
"""Bytes of shared memory with which ``reverse`` loads ahead in 16 bits: a mini-batch at head dims up to 64, a tile above."""
PANELS = 4
"""Least number of panels where there are as many chunks: the first one runs beside nothing."""


@dataclass(frozen=True)
class Scratch:
    """What the kernels of one panel leave to one another; shapes in ``kernels.ttt_mlp.backward``."""

    replayed: Tensors
    """x2, slope, bend, d1, d2, zh, stats, w2m"""
    queried: Tensors
    """g1 (later dz1), gx, g2, m1, m2, mb1, mb2"""
    reversed: Tensors
    """pull, dw1c, db1c"""

    @classmethod
    def of(cls, tiles: Tiles, q: Tensor, panel: int) -> "Scratch":
        """For panels of at most ``panel`` chunks of sequences like ``q``."""
        (batch, _, heads, narrow), wide, tokens, operand = q.shape, 4 * tiles.F, panel * tiles.CHUNK, operand_dtype(q)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return q.new_empty(batch, shape[0], heads, *shape[1:], dtype=dtype)

        x2, slope, bend, d1, g1, gx = (empty(panel, wide, tiles.CHUNK, dtype=operand) for _ in range(6))
        d2, zh, g2 = (empty(tokens, narrow, dtype=operand) for _ in range(3))
        w2m = empty(tokens // tiles.C, wide, narrow, dtype=operand)
        m1, m2, dw1c = (empty(panel, wide, narrow, dtype=operand) for _ in range(3))
        mb1, mb2, db1c = empty(panel, wide), empty(panel, narrow), empty(panel, wide)
        replayed = (x2, slope, bend, d1, d2, zh, empty(tokens, 4), w2m)
        return cls(replayed, (g1, gx, g2, m1, m2, mb1, mb2), (empty(tokens), dw1c, db1c))

    @staticmethod
    def chunk_bytes(tiles: Tiles, q: Tensor) -> int:
        """Of one chunk of all sequences, but for single rows."""
        (batch, _, heads, narrow), wide, item = q.shape, 4 * tiles.F, operand_dtype(q).itemsize
        token = 6 * wide + 3 * narrow
        return batch * heads * item * (tiles.CHUNK * token + (tiles.CHUNK // tiles.C + 3) * wide * narrow)


@dataclass(frozen=True)
class Panel:
    """Chunks [first, first + size)."""

    first: int
    size: int
    scratch: Scratch


@dataclass(frozen=True)
class Backward:
    """Arguments of the four kernels. All tensors are contiguous; what the kernels add to starts as zeros."""

    tiles: Tiles
    eps: float
    views: Tensors
    """q, k, v, rho, tau"""
    norm: Tensors
    """gamma, beta"""
    kept: Tensors
    """w1 (transposed), w2, b1, b2 before every chunk; with weights in memory z2 of every token, too"""
    dout: Tensor
    scale: Tensor
    """``gradient_scale`` of dout, with which scratch and dstart are to be read"""
    dviews: Tensors
    """dq, dk, dv"""
    shares: Tensors
    """drho; dtau by query; the share of tau_C by chunk"""
    dnorm: Tensors
    """dgamma, dbeta by chunk"""
    dstart: Tensors
    """dw1 (transposed), dw2, db1, db2 by the state after the panel to be walked next; in the end by the first state"""

    def walk(self) -> None:
        """Every panel from the last to the first."""
        q, chunks = self.views[0], self.kept[0].shape[1]
        size = panel_chunks(chunks, Scratch.chunk_bytes(self.tiles, q))
        sets = [Scratch.of(self.tiles, q, size) for _ in range(min(2, -(-chunks // size)))]
        walked: list[tuple[Callable[[], None], Panel]] = []
        for n, end in enumerate(range(chunks, 0, -size)):
            first = max(0, end - size)
            panel = Panel(first, end - first, sets[n % 2])
            self._enter(panel)
            walked.append((beside(q.device, partial(self._reverse, panel)), panel))
            if len(walked) == 2:
                self._leave(*walked.pop(0))
        self._leave(*walked.pop())

    def _enter(self, panel: Panel) -> None:
        q, k, v, rho, tau = self.views
        grid, where, scratch = self._grid(panel), self._where(panel), panel.scratch
        x2, _, _, d1, d2, *_ = scratch.replayed
        replayed = (*scratch.replayed, *where)
        launch = {"EPS": self.eps, "BC": self.tiles.BC, **sizes(self.tiles), **modes(q), "num_warps": warps(self.tiles)}
        if self.tiles.F in IN_REGISTERS:
            grad.replay[grid](k, v, rho, tau, *self.norm, *self.kept, *replayed, **launch, num_stages=1)
        else:
            w1, w2, b1, _, z2 = self.kept
            pad = padding(self.tiles)
            programs = (*grid, 4 * self.tiles.F // pad["BN"])
            tiled.replay[programs](k, v, rho, tau, *self.norm, w1, w2, b1, z2, *replayed, **launch, **pad, num_stages=2)
        grad.queries[grid](
            q, k, rho, tau, self.norm[0], *self.kept[:4], self.dout, self.scale, x2, d1, d2, *self.dviews[:2],
            *scratch.queried, *self.shares[:2], *self.dnorm, *where,
            EPS=self.eps, BF=self.tiles.BF, **sizes(self.tiles), **modes(q), **self._tiling,
        )  # fmt: skip

    def _reverse(self, panel: Panel) -> None:
        (q, k, _, rho, tau), tiles = self.views, self.tiles
        batch, length, heads, _ = q.shape
        x2, slope, bend, _, *others = panel.scratch.replayed
        room = TWO_STAGES if tiles.BF <= 64 else TWO_WIDE_STAGES
        is_roomy = operand_dtype(q).itemsize == 2 and shared_memory(q.device) >= room
        arguments = (
            k, rho, tau, self.norm[0], x2, slope, bend, *others, *panel.scratch.queried,
            panel.scratch.queried[0], self.dviews[2], *panel.scratch.reversed, *self.dstart,
            length, heads, panel.size, panel.first,
        )  # fmt: skip
        launch = {"BC": tiles.BC, **sizes(tiles), **products(q), "num_warps": warps(tiles)}
        if tiles.F in IN_REGISTERS:
            grad.reverse[(batch * heads,)](*arguments, **launch, STAGES=2 if is_roomy and tiles.BC <= 32 else 1)
        else:
            stages = 2 if is_roomy and tiles.BC == 16 else 1
            tiled.reverse[(batch * heads,)](*arguments, **launch, **padding(tiles), num_stages=stages)

    def _leave(self, wait: Callable[[], None], panel: Panel) -> None:
        (q, k, v, rho, tau), (_, dk, dv), (drho, _, dtau_last) = self.views, self.dviews, self.shares
        _, _, _, d1, _, zh, *_ = panel.scratch.replayed
        wait()
        grad.keys[self._grid(panel)](
            k, v, rho, tau, *self.norm, self.kept[0], self.scale, d1, zh, panel.scratch.queried[0],
            *panel.scratch.reversed, dk, dv, drho, dtau_last, *self.dnorm, *self._where(panel),
            **padding(self.tiles), **sizes(self.tiles), **products(q), num_warps=self._warps, num_stages=1,
        )  # fmt: skip

    def _grid(self, panel: Panel) -> tuple[int]:
        batch, _, heads, _ = self.dout.shape
        return (batch * panel.size * heads,)

    def _where(self, panel: Panel) -> tuple[int, ...]:
        _, length, heads, _ = self.dout.shape
        return length, heads, self.kept[0].shape[1], panel.size, panel.first

    @property
    def _tiling(self) -> dict[str, int]:
        """Of ``queries``: at head dim 64 two programs of small tiles share a multiprocessor; float32 has one load under way."""
        if self.views[0].dtype == torch.float32:
            return {"BN": 32, "num_warps": self._warps, "num_stages": 1}
        return {"BN": 32 if self.tiles.F == 64 else 64, "num_warps": self._warps, "num_stages": 2}

    @property
    def _warps(self) -> int:
        """Of kernels over chunks, whose narrow tiles are padded."""
        return 4 if self.tiles.F == 64 else warps(self.tiles)


def panel_chunks(chunks: int, chunk_bytes: int) -> int:
    """Chunks of a panel, of which a sequence has ``chunks``, that leave ``chunk_bytes`` of scratch each."""
    return min(-(-chunks // PANELS), max(1, PANEL_BYTES // (2 * chunk_bytes)))
