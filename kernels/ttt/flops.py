"""Matrix-product FLOPs of the TTT layers by their dual form (paper, appendix A), a multiply-add counted as 2.

What the reference does over whole tiles, whichever implementation runs; backward is twice forward, recomputation never counts.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch.utils.flop_counter import register_flop_formula


def token_flops(shapes: Iterable[tuple[int, int]], mini_batch: int) -> int:
    """Of one token in one head, ``shapes`` the inner layers' in- and output widths, from the first on.

    Of each layer K W, Q W, X'D and, above the first, D W'; with C tokens each, Q X', (..) D and tril(eta) D.
    """
    return sum(2 * i * o * (4 if n else 3) + 2 * mini_batch * (i + 2 * o) for n, (i, o) in enumerate(shapes))


def register_flops(name: str, expand: Sequence[int]) -> None:
    """Tells torch's FlopCounterMode of ttt_bench::NAME_forward, _backward, _prefill and _step; ``expand``: widths in head dims.

    Their arguments begin with q, k, v, rho and tau, after the gradient of the output in backward.
    """

    def count(q: torch.Size, tau: torch.Size) -> int:
        *rows, head_dim = q
        return torch.Size(rows).numel() * token_flops(pairwise(head_dim * e for e in expand), tau[0])

    def forward(*shapes: torch.Size, **_: object) -> int:
        return count(shapes[0], shapes[4])

    def backward(*shapes: torch.Size, **_: object) -> int:
        return 2 * count(shapes[1], shapes[5])

    for phase in ("forward", "prefill", "step"):
        register_flop_formula(getattr(torch.ops.ttt_bench, f"{name}_{phase}"))(forward)
    register_flop_formula(getattr(torch.ops.ttt_bench, f"{name}_backward"))(backward)
