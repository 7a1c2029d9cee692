"""Turns: A B C A B C. Sessions are kept from turn to turn as memory allows; who finds none has the others leave."""

import gc
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch

from bench.hardware import is_out_of_memory
from bench.timing import synchronise

K = TypeVar("K", bound=Hashable)
Sample = tuple[float, ...]


class Timed(Protocol):
    """What takes turns."""

    def sample(self) -> Sample:
        """Seconds."""


@dataclass
class Stage(Generic[K]):
    """Sessions by key, made by ``make`` when their turn comes, under ``watch``.

    fetch: puts on the device what a key needs beside its session. make_room: takes from it what belongs to others than the key.
    peaks: the most memory that a key's session and first sample allocated beyond what was there before them, bytes.
    """

    make: Callable[[K], Timed]
    fetch: Callable[[K], None]
    make_room: Callable[[K], None]
    watch: Callable[[K], AbstractContextManager[object]]
    device: torch.device
    peaks: dict[K, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.held: dict[K, Timed] = {}

    def turn(self, key: K) -> Sample:
        """A sample.

        Raises:
            MemoryError, torch.OutOfMemoryError: there is no room even alone.
        """
        try:
            return self._sample(key)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # what the traceback held is free only from here on
        self.clear()
        self.make_room(key)
        return self._sample(key)

    def _sample(self, key: K) -> Sample:
        on_gpu, is_new = self.device.type == "cuda", key not in self.held
        if is_new:
            self.fetch(key)
        before = torch.cuda.memory_allocated(self.device) if on_gpu else 0
        if is_new:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(self.device)
            self.held[key] = self.make(key)
        with self.watch(key):
            taken = self.held[key].sample()
        if is_new and on_gpu:
            self.peaks.setdefault(key, torch.cuda.max_memory_allocated(self.device) - before)
        return taken

    def clear(self) -> None:
        """Ends every session."""
        self.held.clear()
        gc.collect()
        if self.device.type == "cuda":
            synchronise(self.device)
            torch.cuda.empty_cache()


def take_turns(
    keys: list[K],
    turn: Callable[[K], Sample],
    failed: Callable[[K, Exception], None],
    *,
    least: int = 5,
    most: int = 20,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Mapping[K, list[Sample]]:
    """Samples of every key, one a round: ``most`` of them, or fewer once its turns took ``seconds``, never under ``least``.

    What making a session takes counts only where it is made again. A key whose turn raises is told to ``failed`` and is out.
    """
    taken: dict[K, list[Sample]] = {key: [] for key in keys}
    spent = dict.fromkeys(keys, 0.0)

    def goes_on(key: K) -> bool:
        count = len(taken[key])
        return count < least or (count < most and spent[key] < seconds)

    while active := [key for key in taken if goes_on(key)]:
        for key in active:
            start = clock()
            try:
                sample = turn(key)
            except Exception as error:  # noqa: BLE001  whatever it was, it is recorded and the others go on
                failed(key, error)
                del taken[key]
                continue
            spent[key] += clock() - start if taken[key] else sum(sample)
            taken[key].append(sample)
    return taken
