"""How long a run will take: from the seconds of the most similar run that there is, scaled by FLOPs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hydra.utils import instantiate

from bench.build import prepare
from bench.config import RunConfig, identity
from bench.results import Run, hash_of


@dataclass(frozen=True)
class Forecast:
    """FLOPs that a run will do, and seconds that it will take; ``is_measured`` where a similar run told them."""

    flops: float
    seconds: float
    is_measured: bool


def forecast(run: RunConfig, known: Sequence[Run]) -> Forecast:
    """As long as the same run of another seed took.

    Else it scales the done run of the same experiment, model, kernels, size and device type whose FLOPs are nearest; of equals
    the latest. Without one it assumes the device's flop_rate, and a second for what does not scale.
    """
    flops = float(instantiate(run.experiment.measure).flops(prepare(run)))
    alike = sorted((other for other in known if _is_alike(run, other)), key=lambda other: other.manifest.started, reverse=True)
    if not alike:
        return Forecast(flops, 1.0 + flops / run.device.flop_rate, is_measured=False)
    if twin := next((other for other in alike if _is_twin(run, other)), None):  # it knows how many documents there are
        return Forecast(twin.manifest.flops, _seconds(twin), is_measured=True)
    nearest = min(alike, key=lambda other: abs(math.log((other.manifest.flops + 1) / (flops + 1))))
    return Forecast(flops, _seconds(nearest) * (flops + 1) / (nearest.manifest.flops + 1), is_measured=True)


def _seconds(run: Run) -> float:
    """Of all its attempts; of one that died without a word at least those that its training counted."""
    return max(run.manifest.seconds, *(row.value for row in run.rows if row.metric == "train_time"), 0.0)


def _is_twin(run: RunConfig, other: Run) -> bool:
    return other.manifest.config_hash == hash_of(identity(replace(run, seed=other.manifest.seed)))


def _is_alike(run: RunConfig, other: Run) -> bool:
    config = other.config
    return (
        other.manifest.status == "done"
        and other.manifest.experiment == run.experiment.name
        and all(config["model"][word] == getattr(run.model, word) for word in ("name", "backbone", "impl"))
        and config["size"]["name"] == run.size.name
        and config["device"]["type"] == run.device.type
    )
