"""Scaling fits give back the curve that losses were made from; gains are the distance of curves, and as sure as it is."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.figures import scaling_fits
from bench.figures.data import Data
from bench.figures.scaling_fits import Gain, fits, gains_of
from bench.scaling import FREE, fitted, gains
from bench.stats import cluster_mean, resampled_means
from bench.tests.synthetic_runs import BUDGETS, MODELS, Bench
from bench.tests.test_figures import words

FLOPS = np.geomspace(1e15, 1e18, 7)


def test_few_budgets_make_a_line_and_many_a_curve_with_its_floor() -> None:
    line, curve = np.exp(3.0) * FLOPS**-0.05, 1.7 + np.exp(6.0) * FLOPS**-0.18
    few = fitted(FLOPS[: FREE - 1], line[: FREE - 1, None])
    assert (few.a[0], few.log_b[0], few.alpha[0]) == pytest.approx((0.0, 3.0, 0.05))
    many = fitted(FLOPS, curve[:, None])
    assert many.a[0] == pytest.approx(1.7, abs=0.05)
    assert [many.losses(flops)[0] for flops in FLOPS] == pytest.approx(curve, rel=2e-3)
    with pytest.raises(ValueError, match="2 budgets are not enough for a fit: train at 3 or more"):
        fitted(FLOPS[:2], line[:2, None])


@pytest.mark.parametrize("budgets", [3, 7])
def test_a_gain_is_how_much_less_compute_the_same_loss_takes(budgets: int) -> None:
    """The first is the second with 1.6 times the FLOPs."""
    flops = FLOPS[:budgets]
    second, first = (np.exp(3.0) * (scale * flops) ** -0.05 for scale in (1.0, 1.6))
    one, other = fitted(flops, first[:, None]), fitted(flops, second[:, None])
    assert gains(one, other, flops[1])[0] == pytest.approx(1 / 1.6)
    assert gains(other, one, flops[1])[0] == pytest.approx(1.6)
    above = fitted(FLOPS, (2.0 + np.exp(6.0) * FLOPS**-0.18)[:, None])
    assert math.isinf(gains(above, fitted(FLOPS, (0.1 + 0 * FLOPS + FLOPS**-0.05)[:, None]), 1e17)[0])


def test_all_means_are_of_the_same_resamples() -> None:
    rng = np.random.default_rng(3)
    documents, weights = np.repeat(np.arange(12), 3), rng.integers(1, 9, 36)
    losses = rng.normal(2.0, 0.3, 36)
    means, n, unit = resampled_means([losses, losses + 0.25], weights, documents)
    assert (n, unit, means.shape) == (12, "documents", (2, 2001))
    assert means[1] - means[0] == pytest.approx(np.full(2001, 0.25))
    interval = cluster_mean(losses, weights, documents)
    assert means[0, 0] == pytest.approx(interval.value)
    low, high = np.quantile(means[0, 1:], [0.025, 0.975])
    assert high - low == pytest.approx(interval.high - interval.low, rel=0.35)


def shifted(bench: Bench, model: str, shift: float, seeds: tuple[float, ...], budgets: int = 3) -> None:
    """Runs of a model whose losses are those of the others, moved; ``seeds``: what each seed adds."""
    for budget in list(BUDGETS)[:budgets]:
        for seed, more in enumerate(seeds):
            rows = []
            for row in bench.train("mamba", budget, 0):
                at = {**row.at, "model": model, "backbone": "transformer" if model == "transformer" else "mamba", "seed": seed}
                moved = tuple(x + shift + more for x in row.samples) if row.metric == "nll" else row.samples
                value = row.value + shift + more if row.metric == "nll" else row.value
                rows.append(replace(row, at=at, samples=moved, value=value))
            bench.write("train", model, rows, budget, seed)


def gain(bench: Bench) -> Gain:
    (each,), _ = fits(scaling_fits.rows(Data(tuple(bench.runs), MODELS, "nano")))
    (found,) = gains_of(each)
    return found


def test_a_gain_of_runs_is_paired_and_wider_where_seeds_differ(tmp_path: Path) -> None:
    """The text's own difficulty cancels; the seeds' does not."""
    made = []
    for name, seeds in (("alike", (0.0, 0.0)), ("apart", (-0.05, 0.05))):
        bench = Bench(tmp_path / name)
        shifted(bench, "transformer", 0.0, seeds)
        shifted(bench, "ttt_linear", -0.1, seeds)
        made.append(gain(bench))
    alike, apart = made
    assert (alike.first.line.look.series, alike.second.line.look.series) == ("ttt_linear", "transformer")
    assert alike.times.low <= alike.times.value <= alike.times.high < 1
    assert alike.times.value == pytest.approx(apart.times.value)
    assert apart.times.high - apart.times.low > 3 * (alike.times.high - alike.times.low)
    assert "TTT-Linear needs 0." in alike.sentence and "times the FLOPs of Transformer for its loss at" in alike.sentence


def test_the_figure_says_what_is_not_enough(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    shifted(bench, "transformer", 0.0, (0.0,))
    shifted(bench, "ttt_linear", -0.1, (0.0,))
    shifted(bench, "mamba", 0.1, (0.0,), budgets=2)
    figure = scaling_fits.draw(Data(tuple(bench.runs), MODELS, "nano"))
    figure.draw_without_rendering()
    text = words(figure)
    assert "Not enough budgets for a fit at context 512 (3 needed): Mamba (2)." in text
    assert "TTT-Linear needs" in text and "Mamba needs" not in text
    assert "log loss linear in log FLOPs" in text and "nothing was trained twice" in text
    only = tuple(run for run in bench.runs if run.config["model"]["name"] == "mamba")
    assert "Not enough budgets" in words(scaling_fits.draw(Data(only, MODELS, "nano")))
    assert "python -m bench experiment=train" in words(scaling_fits.draw(Data((), MODELS, "nano")))
