"""A report of invented runs, with all that may happen in one: two tiers, seeds, failures, missing models."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.compose import compose_runs
from bench.report.build import READING, part_of
from bench.report.spec import Report
from bench.results import Run
from bench.tests.synthetic_runs import MODELS, Bench
from bench.tier import Tier

EXPERIMENTS = (
    *("train", "perplexity_by_context", "perplexity_by_position", "prefill_latency"),
    *("decode_latency", "state_vs_context", "inner_loss"),
)
CAUSE = "nll is nan at step 41 <of> 160 & no more; lower optim.lr"


def nano() -> Tier:
    """A cell of each experiment, none of which has the synthetic runs' names: all count as not run."""
    runs = compose_runs([[f"experiment={name}", "size=nano", "budget=nano_3"] for name in EXPERIMENTS])
    return Tier("nano", MODELS, tuple(runs), "Nano <title>", "What & why.")


@cache
def hard_runs() -> tuple[Run, ...]:
    """Two seeds, a model of the Transformer backbone, one that explodes, one that diverged, one out of memory."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), windows=12)
        bench.everything(("ttt_linear", "ttt_linear_t", "transformer", "mamba"), seeds=(0, 1), exploding=("mamba",))
        bench.failure("train", "ttt_mlp", "diverged", CAUSE)
        steps = list(bench.decode_latency("ttt_mlp"))[:4]
        bench.failure("decode_latency", "ttt_mlp", "oom", "no memory", steps, context=16384)
    return tuple(bench.runs)


@cache
def hard_report() -> Report:
    """Two parts: all of these runs, and those of one experiment again under another name."""
    tier, runs = nano(), hard_runs()
    models = ("ttt_linear", "ttt_mlp", "transformer", "mamba", "ttt_linear_t")
    again = part_of(replace(tier, name="again"), [run for run in runs if run.manifest.experiment == "state_vs_context"])
    parts = (part_of(tier, runs), again)
    return Report("Title <b>", "About & why", tuple(READING.splitlines()), (("runs", "12"),), models, parts)
