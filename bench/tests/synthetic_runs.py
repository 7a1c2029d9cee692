"""Runs as the experiments write them, with invented numbers: the material of the figures' tests."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.results import Coordinate, Manifest, Row, Run, hash_of, open_run, read_run

Losses = tuple[float, ...]

BUDGETS = {"nano_1": 1.8e11, "nano_2": 3.7e11, "nano_3": 7.4e11}
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
POSITIONS = tuple(64 << i for i in range(10))
INNER_POSITIONS = tuple(range(64, 2049, 64))
MODELS = ("ttt_linear", "ttt_mlp", "transformer", "mamba")
FLOPS_PER_TOKEN = {"ttt_linear": 1.05e6, "ttt_mlp": 1.31e6, "transformer": 1.12e6, "mamba": 1.21e6}
STEP_MS = {"ttt_linear": 1.4, "ttt_mlp": 2.2, "transformer": 0.6, "mamba": 0.9}
TTT = ("ttt_linear", "ttt_mlp")


@dataclass
class Bench:
    """Writes runs below ``root`` through open_run and reads them back. ``windows``: of the held-out text after training."""

    root: Path
    windows: int = 40
    sources: str = "5a5a0001"
    git_sha: str = "0123456789abcdef"
    published: bool = False
    match: str = "budget"
    runs: list[Run] = field(default_factory=list)

    def write(self, experiment: str, model: str, rows: Iterable[Row], budget: str = "nano_3", seed: int = 0, **end: str) -> Run:
        """One run with ``rows``; end: status and cause."""
        config = _config(model, budget, self.match)
        manifest = Manifest(
            run_id=f"{model}-nano-{budget}-s{seed}-{hash_of([config, experiment, seed, self.sources])}",
            experiment=experiment,
            config_hash=hash_of(config),
            git_sha=self.git_sha,
            dirty=False,
            sources=self.sources,
            versions={"torch": "2.13.0"},
            device="Intel Xeon 2.1 GHz",
            seed=seed,
            started="2026-11-20T10:00:00+00:00",
        )
        with open_run(self.root, manifest, config) as recorder:
            for row in rows:
                recorder.write(row)
            recorder.finish(end.get("status", "done"), end.get("cause", ""))
        self.runs.append(read_run(recorder.folder, self.published))
        return self.runs[-1]

    def everything(
        self, models: Sequence[str] = MODELS, seeds: Sequence[int] = (0,), exploding: Sequence[str] = ()
    ) -> list[Run]:
        """All that a nano tier measures."""
        for model in models:
            for seed in seeds:
                for budget in BUDGETS:
                    self.write("train", model, self.train(model, budget, seed), budget, seed)
                self.write("perplexity_by_context", model, self.by_context(model, seed, model in exploding), seed=seed)
                self.write("perplexity_by_position", model, self.by_position(model, seed, model in exploding), seed=seed)
                if model.removesuffix("_t") in TTT:
                    self.write("inner_loss", model, self.inner(model, seed), seed=seed)
            once = {
                "prefill_latency": self.prefill_latency(model),
                "decode_latency": self.decode_latency(model),
                "state_vs_context": self.state_vs_context(model),
            }
            for experiment, rows in once.items():
                self.write(experiment, model, rows)
        return self.runs

    def at(self, model: str, budget: str = "nano_3", seed: int = 0, **more: Coordinate) -> dict[str, Coordinate]:
        """Base coordinates and ``more``."""
        kind, total = model.removesuffix("_t"), self.realised(model, budget)
        return {
            "model": kind,
            "backbone": _backbone(model),
            "size": "nano",
            "params": 100_000,
            "match": self.match,
            "convention": "causal",
            "budget_flops": BUDGETS[budget],
            "train_flops": total,
            "tokens": int(total / FLOPS_PER_TOKEN[kind]),
            "train_context": 512,
            "data": "austen",
            "tokenizer": "bytes",
            "dtype": "float32",
            "seed": seed,
            "mini_batch": 16 if kind in TTT else 0,
            "impl": "reference",
            "exec": "eager",
            **more,
        }

    def realised(self, model: str, budget: str) -> float:
        """Within half a percent of the budget; with equal tokens far from it."""
        off = 0.001 * (len(model) % 4 - 2) if self.match == "budget" else FLOPS_PER_TOKEN[model.removesuffix("_t")] / 1.12e6 - 1
        return BUDGETS[budget] * (1 + off)

    def losses(self, model: str, level: float, seed: int, n: int, noise: float = 0.03) -> Losses:
        """Window means: the windows' own difficulty is the same for every model, the rest is noise."""
        hard = np.random.default_rng(7).normal(0, 0.15, n)
        own = np.random.default_rng([seed, *model.encode(), int(1e4 * abs(level))]).normal(0, noise, n)
        return tuple((level + _better(model) + 0.01 * seed + hard + own).tolist())

    def train(self, model: str, budget: str, seed: int) -> Iterator[Row]:
        """Held-out losses with their target counts, and the card."""
        n = self.windows
        counts = tuple(float(511 if i % 20 else 300) for i in range(n))
        clusters = f"persuasion:{n - n // 2},northangerabbey:{n // 2}"
        at = self.at(model, budget, seed, split="heldout", context=512, clusters=clusters)
        losses = self.losses(model, 1.9 - 0.15 * list(BUDGETS).index(budget), seed, n)
        mean = float(np.average(losses, weights=counts))
        yield Row(metric="nll", value=mean, unit="nat/token", at=at, samples=losses)
        yield Row(metric="targets", value=sum(counts), unit="token", at=at, samples=counts)
        base, kind = self.at(model, budget, seed), model.removesuffix("_t")
        total = self.realised(model, budget)
        tokens = int(total / FLOPS_PER_TOKEN[kind] / 3)
        card = {"parameters": 100_000 + len(model), "flops_per_token": FLOPS_PER_TOKEN[kind], "tokens": tokens}
        card |= {
            "epochs": tokens / 3e6,
            "steps": -(-tokens // 4096),
            "learning_rate": 3e-3,
            "head_share": 0.031,
            "train_flops": total,
        }
        for metric, value in (card | {"mismatch": total / BUDGETS[budget] - 1}).items():
            yield Row(metric=metric, value=value, unit="1", at=base)
        yield Row(metric="state", value=self.bytes_of(model, 512), unit="byte", at=base | {"context": 512})
        yield Row(metric="train_time", value=93.0, unit="s", at=base | {"context": 512, "gpus": 2, "exec": "compile"})

    def by_context(self, model: str, seed: int = 0, explode: bool = False) -> Iterator[Row]:
        """Slightly better with context; or far worse."""
        for octave, context in enumerate(CONTEXTS):
            level = 1.62 - 0.01 * octave + (0.25 * octave**1.7 if explode else 0)
            yield self._loss(model, seed, level, 16, context=context)

    def by_position(self, model: str, seed: int = 0, explode: bool = False) -> Iterator[Row]:
        """Falls within the training context."""
        for octave, position in enumerate(POSITIONS):
            level = 1.55 + 0.35 / (1 + octave) + (0.3 * (octave - 4) if explode and octave > 4 else 0)
            yield self._loss(model, seed, level, 16, position=position)

    def _loss(self, model: str, seed: int, level: float, n: int, **where: Coordinate) -> Row:
        samples = self.losses(model, level, seed, n)
        clusters = f"persuasion:{n // 2},northangerabbey:{n - n // 2}"
        at = self.at(model, seed=seed) | {"split": "heldout", "clusters": clusters} | where
        return Row(metric="nll", value=float(np.mean(samples)), unit="nat/token", at=at, samples=samples)

    def inner(self, model: str, seed: int = 0, layers: int = 2) -> Iterator[Row]:
        """w0 above before above after."""
        for layer in range(layers):
            for drop, weights in ((0.0, "w0"), (0.25, "before"), (0.4, "after")):
                for position in INNER_POSITIONS:
                    samples = tuple(4 * x for x in self.losses(model, 1 + 0.2 * layer - drop * position / 2048, seed, 16, 0.01))
                    where: dict[str, Coordinate] = {
                        "layer": layer,
                        "weights": weights,
                        "position": position,
                        "clusters": "persuasion:8,northangerabbey:8",
                    }
                    at = self.at(model, seed=seed, split="heldout") | where
                    yield Row(metric="inner_loss", value=float(np.mean(samples)), unit="1", at=at, samples=samples)

    def prefill_latency(self, model: str) -> Iterator[Row]:
        """Linear in the context, quadratic for attention."""
        rng = np.random.default_rng(len(model))
        for context in CONTEXTS:
            per_token = 60e-6 * STEP_MS.get(model, 1.0) * (1 + (context / 8192 if model == "transformer" else 0))
            samples = tuple(per_token * context * (1 + rng.exponential(0.03, 5)))
            at = self.at(model, context=context, batch=1, phase="prefill")
            yield Row(metric="latency", value=float(np.median(samples)), unit="s", at=at, samples=samples)

    def decode_latency(self, model: str) -> Iterator[Row]:
        """TTT commits at every 16th step; one step in a hundred is disturbed."""
        rng = np.random.default_rng(len(model))
        for context in CONTEXTS:
            steps = np.full(64, 1e-3 * STEP_MS.get(model, 1.0)) * (1 + (context / 16384 if model == "transformer" else 0))
            steps[15::16] *= 3 if model.removesuffix("_t") in TTT else 1
            samples = steps * (1 + rng.exponential(0.03, 64)) * np.where(rng.random(64) < 0.01, 20, 1)
            at = self.at(model, context=context, batch=1, phase="step")
            yield Row(metric="latency", value=float(np.median(samples)), unit="s", at=at, samples=tuple(samples.tolist()))

    def state_vs_context(self, model: str) -> Iterator[Row]:
        """Grows for attention only."""
        for context in CONTEXTS:
            yield Row(
                metric="state", value=self.bytes_of(model, context), unit="byte", at=self.at(model, context=context, batch=1)
            )

    def bytes_of(self, model: str, context: int) -> float:
        """Of one sequence."""
        kind = model.removesuffix("_t")
        return {"ttt_linear": 49_664, "ttt_mlp": 175_000, "mamba": 36_864}.get(kind, 1024 * context)

    def failure(
        self, experiment: str, model: str, status: str, cause: str, rows: Iterable[Row] = (), **where: Coordinate
    ) -> Run:
        """A run that wrote ``rows`` and then failed at ``where``."""
        known = {key: value for key, value in self.at(model).items() if key in ("model", "backbone", "size", "seed")}
        row = Row(metric="failure", value=1.0, unit="1", at=known | where)
        return self.write(experiment, model, [*rows, row], status=status, cause=cause)


def _better(model: str) -> float:
    return {"ttt_linear": 0.0, "ttt_mlp": -0.02, "transformer": 0.06, "mamba": 0.02}.get(model, 0.04)


def _backbone(model: str) -> str:
    return "transformer" if model.endswith("_t") or model == "transformer" else "mamba"


def _config(model: str, budget: str, match: str) -> dict[str, Any]:
    kind = model.removesuffix("_t")
    return {
        "model": {"name": kind, "backbone": _backbone(model)},
        "size": {"name": "nano"},
        "match": {"method": match, "convention": "causal", "tolerance": 0.005},
        "budget": {"name": budget, "flops": BUDGETS[budget]},
        "optim": {"name": "nano", "lr": 3e-3, "lr_source": "not searched"},
    }
