"""How long a run will take: from the seconds of the most similar run that there is, scaled by FLOPs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.utils import instantiate

from bench.build import prepare
from bench.config import RunConfig
from bench.results import Run


@dataclass(frozen=True)
class Forecast:
    """FLOPs that a run will do, and seconds that it will take; ``is_measured`` where a similar run told them."""

    flops: float
    seconds: float
    is_measured: bool


def forecast(run: RunConfig, known: Sequence[Run]) -> Forecast:
    """Scales the done run of the same experiment, model, size and device type whose FLOPs are nearest; of equals the latest.

    Without one it assumes the device's flop_rate, and a second for what does not scale.
    """
    flops = float(instantiate(run.experiment.measure).flops(prepare(run)))
    by_age = sorted((other.manifest for other in known if _is_alike(run, other)), key=lambda m: m.started, reverse=True)
    alike = [(manifest.flops, manifest.seconds) for manifest in by_age]
    if not alike:
        return Forecast(flops, 1.0 + flops / run.device.flop_rate, is_measured=False)
    nearest, seconds = min(alike, key=lambda pair: abs(math.log((pair[0] + 1) / (flops + 1))))
    return Forecast(flops, seconds * (flops + 1) / (nearest + 1), is_measured=True)


def _is_alike(run: RunConfig, other: Run) -> bool:
    config = other.config
    return (
        other.manifest.status == "done"
        and other.manifest.experiment == run.experiment.name
        and (config["model"]["name"], config["model"]["backbone"]) == (run.model.name, run.model.backbone)
        and config["size"]["name"] == run.size.name
        and config["device"]["type"] == run.device.type
    )
