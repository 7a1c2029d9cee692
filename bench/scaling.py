"""Scaling fits: losses at several budgets to a curve, and from two curves what compute one saves. No torch here.

With FREE budgets or more L = a + b C^-alpha (Hoffmann et al. 2022, arXiv 2203.15556, equation 2, for one variable); with fewer
a = 0, a line in log-log, as three points do not tell a. Least squares of log L, for every resample of the losses at once.

The compute-equivalent gain: to the loss that the second has at C, the first needs k C (Davidson et al. 2023, arXiv 2312.07413).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Budgets that a fit needs, and from how many on the irreducible loss is fitted too.
LEAST, FREE = 3, 5
# Candidates for a, as shares of the smallest loss.
GRID = np.linspace(0.0, 0.98, 50)


@dataclass(frozen=True)
class Fit:
    """L(C) = a + exp(log_b - alpha log C), one of each for every resample [R]; resample 0 is the sample itself."""

    a: Array
    log_b: Array
    alpha: Array

    def losses(self, flops: float) -> Array:
        """L(C) of every resample [R], nat/token."""
        return self.a + np.exp(self.log_b - self.alpha * np.log(flops))

    def flops_for(self, losses: Array) -> Array:
        """C(L) [R]; inf where the curve does not come down to it."""
        above = losses - self.a
        ok = (above > 0) & (self.alpha > 0)
        reached = np.full(above.shape, np.inf)
        reached[ok] = np.exp((self.log_b[ok] - np.log(above[ok])) / self.alpha[ok])
        return reached


def fitted(flops: Array, losses: Array) -> Fit:
    """The fit of ``losses`` [P, R] at ``flops`` [P].

    ValueError: fewer than LEAST budgets.
    """
    if len(set(flops.tolist())) < LEAST:
        raise ValueError(f"{len(set(flops.tolist()))} budgets are not enough for a fit: train at {LEAST} or more")
    x, best = np.log(flops), np.full(losses.shape[1], np.inf)
    made = np.zeros((3, losses.shape[1]))
    for share in GRID if len(flops) >= FREE else GRID[:1]:
        a = share * losses.min(axis=0)
        y = np.log(losses - a)
        slope = ((x - x.mean())[:, None] * y).sum(axis=0) / ((x - x.mean()) ** 2).sum()
        log_b = y.mean(axis=0) - slope * x.mean()
        error = ((np.log(a + np.exp(log_b + slope * x[:, None])) - np.log(losses)) ** 2).sum(axis=0)
        better = error < best
        best = np.where(better, error, best)
        made = np.where(better, np.stack([a, log_b, -slope]), made)
    return Fit(*made)


def gains(first: Fit, second: Fit, flops: float) -> Array:
    """How many times ``flops`` the first needs for the loss that the second has there, of every resample [R]."""
    return first.flops_for(second.losses(flops)) / flops
