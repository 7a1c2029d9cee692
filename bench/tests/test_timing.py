"""Which calls are made and what of them is timed, on a clock that only they move."""

from collections.abc import Callable
from itertools import cycle

import pytest
import torch

from bench.timing import captured, device_sample, kernel_seconds, sample

CPU = torch.device("cpu")


class Bench:
    """A clock in seconds and a call that takes the next of ``durations``; preparing takes a long time."""

    def __init__(self, *durations: float) -> None:
        self.now, self.durations, self.log = 100.0, cycle(durations), ""

    def call(self) -> None:
        self.now += next(self.durations)
        self.log += "c"

    def prepare(self) -> None:
        self.now += 1000.0
        self.log += "p"

    def sample(self, **options: float) -> tuple[float, ...]:
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        return sample(self.call, CPU, prepare=self.prepare, clock=clock, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "durations", "taken"),
    [
        (1.0, (0.25,), 4),  # until the time is spent
        (0.1, (0.25,), 2),  # but never fewer than least
        (100.0, (0.25,), 6),  # nor more than most
        (0.0, (0.25,), 2),
        (1.0, (0.125, 0.125, 0.5), 5),  # the sum counts, not the last
    ],
)
def test_as_many_calls_as_least_most_and_seconds_say(seconds: float, durations: tuple[float, ...], taken: int) -> None:
    bench = Bench(*durations)
    assert len(bench.sample(warm_up=0, least=2, most=6, seconds=seconds)) == taken
    assert bench.log == "pc" * taken


def test_every_sample_is_kept_in_order_and_preparing_is_not_timed() -> None:
    assert Bench(0.5, 0.25, 4.0).sample(warm_up=0, least=4, most=4) == (0.5, 0.25, 4.0, 0.5)


def test_warm_up_is_prepared_and_not_kept() -> None:
    bench = Bench(8.0, 4.0, 0.5)
    assert bench.sample(warm_up=2, least=1, most=1) == (0.5,)
    assert bench.log == "pcpcpc"


def test_the_real_clock_runs_in_seconds() -> None:
    taken = sample(lambda: sum(range(20_000)), CPU, least=3, most=3)
    assert len(taken) == 3
    assert all(1e-6 < seconds < 1 for seconds in taken)


def test_on_a_cpu_the_device_is_the_host() -> None:
    count = iter(range(100))
    taken = device_sample(lambda: next(count), CPU, warm_up=1, least=2, most=4, seconds=100.0)
    assert len(taken) == 4 and next(count) == 5
    assert captured(count.__next__, CPU)() == 6


@pytest.mark.gpu
def test_a_gpu_is_timed_by_its_own_clock_and_a_graph_does_what_the_call_does() -> None:
    """A copy of 2 GB takes the time that its bytes take, however often; replays add up."""
    cuda = torch.device("cuda")
    source, total = torch.ones(1 << 30, device=cuda, dtype=torch.uint8), torch.zeros(1, device=cuda)
    target = torch.empty_like(source)
    taken = device_sample(lambda: target.copy_(source), cuda, least=5, most=9, seconds=100.0)
    assert len(taken) == 9
    assert all(2**31 / 20e12 < seconds < 2**31 / 0.1e12 for seconds in taken)
    replay = captured(lambda: total.add_(1), cuda)
    before = total.item()
    replay()
    assert total.item() == before + 1


@pytest.mark.gpu
def test_the_time_of_a_call_is_told_by_kernel() -> None:
    """A copy of 2 GB and a fill, five calls each: as long as one call takes, all of it torch's."""
    cuda = torch.device("cuda")
    source = torch.ones(1 << 30, device=cuda, dtype=torch.uint8)
    target = torch.empty_like(source)
    found = kernel_seconds(lambda: target.copy_(source).add_(1), cuda)
    assert set(found) == {"torch"} and 2**32 / 20e12 < found["torch"] < 2**32 / 0.1e12
