"""What torch.compile does not look into: operations, whose kernels it cannot better, and around which it fuses the rest."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
T = TypeVar("T")


def opaque(function: Callable[P, T]) -> Callable[P, T]:
    """The function, closed to torch.compile."""
    return cast("Callable[P, T]", torch.compiler.disable(function))
