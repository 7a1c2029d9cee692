"""TTT layers for an inner model of any depth: the state that all implementations share, and the reference."""

from kernels.ttt.state import InnerState, LayerNorm

__all__ = ["InnerState", "LayerNorm"]
