"""Numbers that count their own arithmetic, and the elementwise functions of the models written with them.

One FLOP for each operation; matrix products are counted apart, 2 m n k, and worked out on plain floats. Signs are free,
selections (masks) too, and what depends on parameters or positions alone is made of plain floats, hence free.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

Scalar = Union["Number", float, int]
Row = list["Number"]
Rows = list[Row]


@dataclass
class Count:
    """FLOPs so far; ``convention`` says which keys an attention's query reads."""

    convention: Literal["causal", "full"] = "causal"
    matmul: int = 0
    other: int = 0


@dataclass
class Number:
    """A float that counts what is done to it."""

    value: float
    count: Count

    def _made(self, value: float) -> "Number":
        self.count.other += 1
        return Number(value, self.count)

    def __add__(self, other: Scalar) -> "Number":
        return self._made(self.value + plain(other))

    def __sub__(self, other: Scalar) -> "Number":
        return self._made(self.value - plain(other))

    def __mul__(self, other: Scalar) -> "Number":
        return self._made(self.value * plain(other))

    def __truediv__(self, other: Scalar) -> "Number":
        return self._made(self.value / plain(other))

    def __rsub__(self, other: float) -> "Number":
        return self._made(other - self.value)

    def __rtruediv__(self, other: float) -> "Number":
        return self._made(other / self.value)

    __radd__, __rmul__ = __add__, __mul__

    def __gt__(self, other: Scalar) -> bool:
        self.count.other += 1
        return self.value > plain(other)

    def __neg__(self) -> "Number":
        return Number(-self.value, self.count)

    def exp(self) -> "Number":
        return self._made(math.exp(self.value))

    def log(self) -> "Number":
        return self._made(math.log(self.value))

    def tanh(self) -> "Number":
        return self._made(math.tanh(self.value))

    def sqrt(self) -> "Number":
        return self._made(math.sqrt(self.value))


def plain(x: Scalar) -> float:
    return x.value if isinstance(x, Number) else float(x)


def total(xs: Row) -> Number:
    """n - 1 additions."""
    out = xs[0]
    for x in xs[1:]:
        out = out + x
    return out


def product(a: list[Any], b: list[Any], count: Count) -> Rows:
    """A matrix product of rows of numbers or floats: [m][k] by [k][n]."""
    count.matmul += 2 * len(a) * len(b) * len(b[0])
    columns = [[plain(x) for x in column] for column in zip(*b, strict=True)]
    return [[Number(sum(plain(x) * y for x, y in zip(row, column, strict=True)), count) for column in columns] for row in a]


def transposed(a: list[Any]) -> list[Any]:
    return [list(column) for column in zip(*a, strict=True)]


def add(x: Row, y: list[Any]) -> Row:
    return [a + b for a, b in zip(x, y, strict=True)]


def zipped(function: Callable[..., Number], *matrices: Sequence[Sequence[Scalar]]) -> Rows:
    """The function of elements at the same place."""
    return [[function(*xs) for xs in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def sigmoid(x: Number) -> Number:
    return 1.0 / (1.0 + (-x).exp())


def silu(x: Number) -> Number:
    return x / (1.0 + (-x).exp())


def softplus(x: Number) -> Number:
    return (1.0 + x.exp()).log()


SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715


def bend(z: Number) -> Number:
    """The tanh of GELU, which its derivative shares."""
    return (SLOPE * (z + CUBIC * z * z * z)).tanh()


def gelu(z: Number, t: Number) -> Number:
    return 0.5 * z * (1.0 + t)


def gelu_gradient(z: Number, t: Number) -> Number:
    return 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * (SLOPE + (3 * SLOPE * CUBIC) * z * z)
