"""What this device reaches, measured in the same run as what is compared with it."""

from collections.abc import Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch

from bench.lab import Lab
from bench.results import At, Row
from bench.timing import device_sample

# A copy of so many bytes and a product of square matrices of this width.
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}
MULTIPLIED = {"cuda": 8192, "cpu": 512}


def ceilings(lab: Lab, sampling: Mapping[str, Any]) -> Iterator[Row]:
    """copy_rate (bytes read and written, byte/s) and matmul_rate (FLOP/s of a large product), where an attempt left none.

    sampling: keywords of bench.timing.device_sample.
    """
    device = lab.device
    source = torch.zeros(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    width = MULTIPLIED[device.type]
    square = torch.randn(width, width, device=device).to(lab.dtype)
    copy, product = partial(torch.empty_like(source).copy_, source), partial(torch.mm, square, square)
    at: At = {"dtype": lab.run.device.dtype, "seed": lab.run.seed}
    work = (("copy_rate", "byte/s", 2 * source.numel(), copy), ("matmul_rate", "FLOP/s", 2 * width**3, product))
    for metric, unit, amount, call in work:
        if not lab.recorder.has(metric):
            rates = tuple(amount / seconds for seconds in device_sample(call, device, **sampling))
            yield Row(metric=metric, value=median(rates), unit=unit, at=at, samples=rates)


def ceiling(lab: Lab, metric: str) -> float:
    """A rate that ``ceilings`` gave."""
    return next(row.value for row in lab.recorder.rows if row.metric == metric)
