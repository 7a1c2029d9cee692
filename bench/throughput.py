"""Rows of how fast a training goes: tokens per second, the share of the device's peak, memory, the time to its first step."""

from collections.abc import Iterator, Sequence
from statistics import median

from bench.config import TrainConfig
from bench.distributed import size
from bench.lab import Lab
from bench.results import At, Coordinate, Row


def place(how: TrainConfig, context: int, batch: int) -> dict[str, Coordinate]:
    """Coordinates of a training that is timed; ``batch`` is that of all processes."""
    return {
        "phase": "train",
        "context": context,
        "batch": batch,
        "gpus": size(),
        "micro_batch": how.micro_batch or batch // size(),
        "checkpoint": how.checkpoint,
        "exec": "_".join(word for word in ("compile", "graph") if getattr(how, word)) or "eager",
    }


def speed_rows(lab: Lab, at: At, rates: Sequence[float], first_step_s: float, peaks: Sequence[int]) -> Iterator[Row]:
    """throughput (token/s, median of ``rates``) and mfu, where there are rates; first_step (s); on a GPU peak_memory (byte).

    rates: of all GPUs together. peaks: bytes of each GPU; the row tells the largest. mfu is the model's FLOPs in matrix
    products, three times those of a forward pass and none for what is computed again, per second, as a share of the devices'
    peak_rate; attention is counted as match.convention says.
    """
    yield lab.row("first_step", first_step_s, "s", at)
    if any(peaks):
        yield lab.row("peak_memory", max(peaks), "byte", at, peaks if len(peaks) > 1 else ())
    if rates:
        rate, context, peak = median(rates), int(at["context"]), lab.run.device.peak_rate
        if peak is not None:
            share = lab.prepared.train_matmul_flops(context) / context / (peak * int(at["gpus"]))
            yield lab.row("mfu", rate * share, "1", at, [sample * share for sample in rates])
        yield lab.row("throughput", rate, "token/s", at, rates)
