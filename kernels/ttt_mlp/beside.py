"""Kernels beside kernels: a walk over few sequences leaves multiprocessors idle, which other launches may use meanwhile."""

import functools
from collections.abc import Callable
from functools import partial

import torch


@functools.cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """The second stream of a device. Its programs are placed first: what runs beside them waits for them in the end."""
    return torch.cuda.Stream(device, priority=-1)


def beside(device: torch.device, launch: Callable[[], None]) -> Callable[[], None]:
    """Launches on the side stream, after all that the current stream holds. Returns what lets the current stream wait for it.

    That must be called before memory that ``launch`` touches is freed, and before a capture of the current stream ends.
    ``launch`` allocates nothing: the memory would be the side stream's. Without CUDA it runs at once.
    """
    if device.type != "cuda":
        launch()
        return lambda: None
    here, side = torch.cuda.current_stream(device), _side(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        launch()
        done = side.record_event()
    return partial(here.wait_event, done)
