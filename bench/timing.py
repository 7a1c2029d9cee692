"""Wall-clock samples of a function: warm-up apart, every sample kept, the device's queue drained at both ends."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch.profiler import ProfilerActivity, profile

# What device_sample writes between calls: many times a GPU's caches, a third of a millisecond.
FLUSHED_BYTES = 1 << 30


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


def device_sample(
    call: Callable[[], object],
    device: torch.device,
    *,
    prepare: Callable[[], object] = lambda: None,
    warm_up: int = 3,
    least: int = 20,
    most: int = 100,
    seconds: float = 0.5,
) -> tuple[float, ...]:
    """Seconds that the device spends in each call, in order, between events queued around it; on a CPU those of ``sample``.

    As many calls as ``sample`` would make. Before each the device writes more than its caches hold, so that the call finds
    them cold, and the host, meanwhile, queues the call: what it takes to launch kernels is not timed.
    """
    if device.type != "cuda":
        return sample(call, device, prepare=prepare, warm_up=warm_up, least=least, most=most, seconds=seconds)
    for _ in range(warm_up):
        prepare()
        call()
    written = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)
    first = _between_events(call, prepare, written, least)
    mean = sum(first) / least
    return first + _between_events(call, prepare, written, max(0, min(most, int(seconds / mean)) - least))


def _between_events(
    call: Callable[[], object], prepare: Callable[[], object], written: torch.Tensor, count: int
) -> tuple[float, ...]:
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        prepare()
        written.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize(written.device)
    return tuple(start.elapsed_time(end) / 1e3 for start, end in events)


def intervals(
    call: Callable[[], object], count: int, device: torch.device, prepare: Callable[[], object] = lambda: None
) -> tuple[float, ...]:
    """Seconds of each of ``count`` calls one right after another, by the device's clock: nothing waits between them."""
    prepare()
    synchronise(device)
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(count):
            call()
            marks.append(time.perf_counter())
        return tuple(end - start for start, end in pairwise(marks))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize(device)
    return tuple(start.elapsed_time(end) / 1e3 for start, end in pairwise(events))


def kernel_seconds(call: Callable[[], object], device: torch.device, repeats: int = 5) -> Mapping[str, float]:
    """Seconds that a call spends in each kernel on a CUDA device, launches of one name added up; mean of ``repeats`` calls.

    What is not a function of a plain name, as Triton's are, is torch's own: ``torch``. Where kernels run beside one another
    their times add up to more than the call takes.
    """
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize(device)
    found: Counter[str] = Counter()
    for event in profiled.key_averages():
        found[event.key if event.key.isidentifier() else "torch"] += event.self_device_time_total
    return {name: microseconds / 1e6 / repeats for name, microseconds in found.items() if microseconds}


def captured(call: Callable[[], object], device: torch.device, warm_up: int = 3) -> Callable[[], object]:
    """The call as a CUDA graph to replay, captured after ``warm_up`` runs; on a CPU the call itself."""
    if device.type != "cuda":
        return call
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(warm_up):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
