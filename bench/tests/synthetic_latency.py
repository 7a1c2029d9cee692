"""Rows as experiment=latency writes them on a GPU, with invented numbers: the material of its figures' tests."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.compose import compose_run
from bench.results import Coordinate, Manifest, Row, Run, hash_of

CONTEXTS = (2048, 1024, 4096, 8192, 16384, 32768)
BATCHES = {"prefill": (16, 8, 1), "step": (64, 512, 1)}
# µs per token of a prefill, and of a step at batch 64; growth of either with the context; floor over time
MODELS: dict[str, tuple[float, float, float, float]] = {
    "ttt_linear": (5.1, 26.0, 0.0, 0.7),
    "ttt_mlp": (7.6, 52.0, 0.0, 0.5),
    "transformer": (4.6, 16.0, 1 / 16384, 0.72),
    "mamba": (7.1, 35.0, 0.0, 0.45),
    "mamba2": (6.0, 33.0, 0.0, 0.6),
}
PARAMS = {"1.3b": 1_300_000_000, "125m": 130_000_000}
CACHE = 196_608  # bytes a token of the 1.3B Transformer


def at(model: str, size: str, **more: Coordinate) -> dict[str, Coordinate]:
    """Coordinates of a place."""
    ttt = model.startswith("ttt")
    base: dict[str, Coordinate] = {
        "model": model,
        "backbone": "transformer" if model == "transformer" else "mamba",
        "size": size,
        "params": PARAMS[size],
        "mini_batch": 16 * ttt,
        "dtype": "bfloat16",
        "convention": "causal",
        "seed": 0,
        "impl": "triton" if ttt else "sdpa_cudnn" if model == "transformer" else "mamba_ssm",
        "exec": "compile_graph",
        "attempt": 1,
    }
    return base | more


def rows(size: str = "1.3b", rounds: int = 12) -> Iterator[Row]:
    """All that a run measures."""
    rng, share = np.random.default_rng(0), PARAMS[size] / PARAMS["1.3b"]
    for metric, rate, unit in (("copy_rate", 3e12, "byte/s"), ("matmul_rate", 7.2e14, "FLOP/s")):
        yield Row(metric=metric, value=rate, unit=unit, at={"dtype": "bfloat16", "seed": 0}, samples=(rate,))
    yield Row(metric="missing", value=1.0, unit="1", at=at("transformer", size, part="gate", phase="step", impl="flash_attn"))
    for phase, batches in BATCHES.items():
        for batch in batches:
            drift = np.exp(np.cumsum(rng.normal(0, 0.01, rounds)))
            for context in CONTEXTS:
                for model in MODELS:
                    if phase == "prefill" or context in (1024, 32768) or model == "transformer":
                        noise = drift * np.exp(rng.normal(0, 0.002, rounds))
                        yield from _place(model, size, phase, batch, context, share * noise)
    for model in ("ttt_linear", "ttt_mlp"):
        for phases in ("in_phase", "spread"):
            for slot in range(16):
                ms = MODELS[model][1] * 0.064 * (2.1 if phases == "in_phase" and slot == 15 else 0.95)
                where = at(model, size, part="cycle", phase="step", batch=64, context=1024, phases=phases, slot=slot)
                yield _samples("latency", "s", where, 1e-3 * share * ms * np.exp(rng.normal(0, 0.01, rounds)))
    yield Row(metric="not_run", value=90.0, unit="s", at=at("mamba", size, part="grid", phase="step", batch=16, context=1024))


def _place(model: str, size: str, phase: str, batch: int, context: int, noise: Any) -> Iterator[Row]:
    prefill, step, growth, floor = MODELS[model]
    where = at(model, size, part="grid", phase=phase, batch=batch, context=context)
    if model == "transformer" and batch * context * CACHE > 75e9:
        yield Row(metric="oom", value=1.0, unit="1", at=where)
        return
    each = (prefill * (1 + 4 / batch / context) if phase == "prefill" else step * 64 / batch) * (1 + growth * context)
    tokens = batch * context if phase == "prefill" else batch
    seconds = 1e-6 * each * tokens * noise
    least = 1e-6 * floor * each * tokens * PARAMS[size] / PARAMS["1.3b"]
    yield Row(metric="floor", value=least, unit="s", at=where)
    traffic = CACHE * context if model == "transformer" else 12e6
    yield Row(metric="state_traffic", value=batch * traffic, unit="byte", at=where)
    weights, state = 2.0 * PARAMS[size], batch * (traffic if model == "transformer" else 16e6)
    for metric, value in (("weight_bytes", weights), ("state", state), ("peak_memory", 1.2 * (weights + state))):
        yield Row(metric=metric, value=value, unit="byte", at=where)
    if model == "mamba" and context == 32768:
        yield Row(metric="throttled", value=0.4, unit="1", at={**where, "reason": "sw_power_cap"})
    yield _samples("floor_share", "1", where, least / seconds)
    yield _samples("token_time", "s/token", where, seconds / tokens)
    yield _samples("latency", "s", where, seconds)


def _samples(metric: str, unit: str, where: dict[str, Coordinate], values: Any) -> Row:
    samples = tuple(float(value) for value in values)
    return Row(metric=metric, value=float(np.median(samples)), unit=unit, at=where, samples=samples)


def run_of(*sizes: str, status: str = "partial", cause: str = "max_minutes=25: 1 of 40 cells are left") -> tuple[Run, ...]:
    """A run for each size."""
    found: list[Run] = []
    for size in sizes:
        config = asdict(compose_run(["experiment=latency", f"size={size}", "device=h100"]))
        manifest = Manifest(
            run_id=f"bfloat16-s0-0123ab{len(found):02d}",
            experiment="latency",
            config_hash=hash_of(config),
            git_sha="0123456789abcdef",
            dirty=False,
            sources="5a5a0001",
            versions={},
            device="NVIDIA H100 80GB HBM3",
            seed=0,
            started="2026-11-24T10:00:00+00:00",
            status=status,
            cause=cause,
        )
        found.append(Run(manifest, config, tuple(rows(size)), Path(), published=False))
    return tuple(found)
