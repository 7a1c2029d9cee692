"""Wall-clock samples of a function: warm-up apart, every sample kept, the device's queue drained at both ends."""

import time
from collections.abc import Callable

import torch


def synchronise(device: torch.device) -> None:
    """Waits for everything that the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sample(
    call: Callable[[], object],
    device: torch.device,
    *,
    prepare: Callable[[], object] = lambda: None,
    warm_up: int = 1,
    least: int = 5,
    most: int = 20,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, ...]:
    """Seconds of each call, in order: ``most`` of them, or fewer once ``seconds`` were spent in them, never under ``least``.

    ``prepare`` runs before each call and is not timed.
    """
    for _ in range(warm_up):
        prepare()
        call()
    taken: list[float] = []
    while len(taken) < least or (len(taken) < most and sum(taken) < seconds):
        prepare()
        synchronise(device)
        start = clock()
        call()
        synchronise(device)
        taken.append(clock() - start)
    return tuple(taken)
