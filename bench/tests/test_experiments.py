"""Every model in every experiment, end to end; what rows mean, checked on the trained models themselves."""

import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.build import build_lm, prepare
from bench.config import ConfigError, RunConfig, training
from bench.data.batches import context_windows
from bench.data.prepare import prepare as prepare_corpus
from bench.data.shards import Document
from bench.experiments.inner_loss import inner_losses
from bench.results import ROOT, Row, Run, read_run, read_runs
from bench.run import describe, execute
from bench.tests.micro import BUDGET, EXPERIMENTS, MODELS, micro_run
from bench.train import Diverged, load
from models.lm import LM
from models.mixer import state_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: what a test trained, the next one finds."""
    return tmp_path_factory.mktemp("experiments")


def result(run: RunConfig) -> Run:
    execute(run)
    return read_run(Path(run.results) / run.experiment.name / describe(run).run_id)


def rows(run: RunConfig, metric: str) -> list[Row]:
    return [row for row in result(run).rows if row.metric == metric]


def trained(run: RunConfig) -> LM:
    """The model that ``run`` measured."""
    lm = build_lm(run.model, prepare(run).size, run.data.vocab)
    folder = Path(run.results) / "train" / describe(training(run)).run_id
    lm.load_state_dict(load(folder / "weights.pt")["model"])
    return lm.eval()


def heldout(run: RunConfig) -> list[Document]:
    return prepare_corpus(run.data).documents("heldout")


def brute_force(lm: LM, tokens: np.ndarray) -> np.ndarray:
    """-log p of all tokens but the first, from whole logits in float64."""
    inputs = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        logits = lm.double()(inputs[None, :-1])[0]
    lm.float()
    return -torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), inputs[1:]].numpy()


@pytest.mark.parametrize(("model", "experiment"), list(itertools.product(MODELS, EXPERIMENTS)))
def test_every_model_in_every_experiment(model: str, experiment: str, folder: Path) -> None:
    run = micro_run(folder, experiment, f"model={model}")
    if experiment == "inner_loss" and not model.startswith("ttt"):
        with pytest.raises(ConfigError, match=rf"'{model}' has no inner loss; choose a TTT model: model=ttt_linear"):
            execute(run)
        return
    found = result(run)
    assert found.manifest.status == "done"
    assert not execute(run).is_new
    assert found.rows
    places = [(row.metric, tuple(sorted(row.at.items()))) for row in found.rows]
    assert len(set(places)) == len(places)
    for row in found.rows:
        assert math.isfinite(row.value)
        assert row.at["model"] == run.model.name and row.at["backbone"] == run.model.backbone
        assert (row.at["size"], row.at["seed"], row.at["dtype"], row.at["exec"]) == ("tiny", 0, "float32", "eager")


@pytest.mark.parametrize("experiment", ["train", "perplexity_by_context", "decode_latency"])
def test_a_model_is_trained_and_measured_in_bfloat16(experiment: str, folder: Path) -> None:
    run = micro_run(folder, experiment, "model=ttt_mlp", "device.dtype=bfloat16")
    assert {row.at["dtype"] for row in result(run).rows} == {"bfloat16"}
    if experiment == "train":
        weights = load(Path(run.results) / "train" / describe(run).run_id / "weights.pt")["model"]
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize("model", ["ttt_linear", "transformer"])
def test_training_tells_its_card_its_curve_and_its_loss(model: str, folder: Path) -> None:
    run = micro_run(folder, "train", f"model={model}")
    plan, prepared = prepare(run).plan, prepare(run)
    values = {row.metric: row.value for row in result(run).rows}
    assert values["train_flops"] == plan.flops == pytest.approx(BUDGET, rel=0.005)
    assert (values["steps"], values["tokens"], values["parameters"]) == (plan.steps, plan.tokens, prepared.parameters)
    assert values["mismatch"] == pytest.approx(plan.flops / BUDGET - 1)
    assert values["learning_rate"] == run.optim.lr
    assert 0 < values["head_share"] < 1
    curve = rows(run, "train_nll")
    assert [row.at["tokens"] for row in curve] == [*range(64, 64 * plan.steps, 64), plan.tokens]
    assert curve[-1].value < curve[0].value
    (nll,), texts = rows(run, "nll"), heldout(run)
    losses = [
        brute_force(trained(run), text.tokens[start : start + 33])
        for text in texts
        for start in range(0, len(text.tokens) - 1, 32)
    ]
    assert nll.samples == pytest.approx([loss.mean() for loss in losses], rel=1e-4)
    assert nll.value == pytest.approx(np.concatenate(losses).mean(), rel=1e-5)
    assert nll.at["n_targets"] == sum(len(text.tokens) - 1 for text in texts) == values["targets"]
    assert nll.at["clusters"] == "long:22,short:15"
    assert values["bits_per_byte"] == pytest.approx(nll.value / math.log(2))


def test_training_tells_how_often_it_saw_its_text_and_that_held_out_text_is_apart(folder: Path) -> None:
    run = micro_run(folder, "train", "model=transformer")
    corpus = prepare_corpus(run.data)
    (epochs,), (overlap,) = rows(run, "epochs"), rows(run, "overlap")
    assert epochs.value == prepare(run).plan.tokens / 6000 == prepare(run).epochs
    assert (overlap.value, overlap.samples, overlap.at["split"]) == (0.0, (0.0, 0.0), "heldout")
    assert epochs.at["content"] == overlap.at["content"] == corpus.index.content


def test_a_search_scores_validation_documents_and_no_held_out_ones(folder: Path) -> None:
    words = ["experiment.measure.heldout=false", "+experiment.measure.validation=true", "data.validation=[short.txt]"]
    run = micro_run(folder, "train", "model=transformer", *words, "data.heldout=[long.txt]")
    scored = {str(row.at["split"]): row for row in result(run).rows if row.metric == "nll"}
    assert set(scored) == {"validation"}
    (text,) = prepare_corpus(run.data).documents("validation")
    losses = [brute_force(trained(run), text.tokens[start : start + 33]) for start in range(0, len(text.tokens) - 1, 32)]
    assert scored["validation"].samples == pytest.approx([loss.mean() for loss in losses], rel=1e-4)
    assert scored["validation"].at["clusters"] == "short:15"


def test_training_tells_how_fast_it_went(folder: Path) -> None:
    run = micro_run(folder, "train", "model=transformer", "device.peak_rate=1e9", "seed=5", "train.micro_batch=1")
    plan, found = prepare(run).plan, {row.metric: row for row in result(run).rows}
    rate, share, first, seconds = (found[metric] for metric in ("throughput", "mfu", "first_step", "train_time"))
    assert len(rate.samples) == plan.steps - 1 == len(share.samples)
    assert min(rate.samples) <= rate.value <= max(rate.samples)
    assert share.value / rate.value == pytest.approx(prepare(run).train_matmul_flops(32) / 32 / 1e9)
    assert 0 < first.value < seconds.value
    assert sum(64 / sample for sample in rate.samples[:-1]) + first.value < seconds.value
    assert "peak_memory" not in found  # of a GPU only
    about = {"phase": "train", "context": 32, "batch": 2, "micro_batch": 1, "checkpoint": "none", "exec": "eager"}
    assert about.items() <= rate.at.items()


def test_train_speed_times_steps_of_random_tokens_without_a_corpus(folder: Path) -> None:
    words = ["train.checkpoint=block", "train.micro_batch=1", "device.dtype=bfloat16", "device.peak_rate=1e9"]
    run = micro_run(folder, "train_speed", "model=ttt_mlp", "data.path=nowhere", *words)
    found = {row.metric: row for row in result(run).rows}
    assert set(found) == {"latency", "throughput", "mfu", "first_step"}
    rate, time = found["throughput"], found["latency"]
    assert len(time.samples) == 3
    assert rate.samples == pytest.approx([2 * 24 / seconds for seconds in time.samples])
    assert rate.value * time.value == pytest.approx(2 * 24)
    about = {"model": "ttt_mlp", "impl": "reference", "context": 24, "batch": 2, "micro_batch": 1, "checkpoint": "block"}
    assert all((about | {"dtype": "bfloat16", "phase": "train"}).items() <= row.at.items() for row in found.values())


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("model", ["ttt_linear model.impl=triton", "ttt_mlp model.impl=triton", "transformer"])
def test_train_speed_on_a_gpu_computes_in_bfloat16_and_tells_its_memory(model: str, compiled: str, tmp_path: Path) -> None:
    """By its command: in a process without the checks of shapes, which do not compile."""
    run = ["experiment=train_speed", "size=5m", "device=h100", f"train.compile={compiled}", f"results={tmp_path}"]
    peaks = []
    for checkpoint in ("none", "block"):
        shape = ["experiment.measure.context=512", "experiment.measure.batch=4", f"train.checkpoint={checkpoint}"]
        words = [sys.executable, "-m", "bench", *run, *shape, *f"model={model}".split()]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    for found in read_runs([tmp_path]):
        rows = {row.metric: row for row in found.rows}
        assert rows["throughput"].at["dtype"] == "bfloat16" and 0 < rows["mfu"].value < 1
        peaks.append((rows["peak_memory"].at["checkpoint"], rows["peak_memory"].value))
    assert dict(peaks)["block"] < dict(peaks)["none"]


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["ttt_linear model.impl=triton", "ttt_mlp model.impl=triton", "transformer", "mamba"])
def test_bfloat16_on_a_gpu_trains_as_float32_does(model: str, folder: Path) -> None:
    losses = []
    for dtype in ("float32", "bfloat16"):
        run = micro_run(
            folder, "train", *f"model={model}".split(), "device=h100", f"device.dtype={dtype}", "train.checkpoint=block"
        )
        losses.append(np.array([row.value for row in rows(run, "train_nll")]))
    assert 0 < np.abs(losses[0] - losses[1]).max() < 0.1 * losses[0][0]


def test_a_step_that_is_not_finite_ends_train_speed_as_diverged(folder: Path) -> None:
    run = micro_run(folder, "train_speed", "optim.lr=1e30", "experiment.measure.steps=9")
    with pytest.raises(Diverged, match=r"at step \d+; lower optim\.lr"):
        execute(run)
    assert read_run(Path(run.results) / "train_speed" / describe(run).run_id).manifest.status == "diverged"


@pytest.mark.parametrize("model", ["ttt_mlp", "mamba"])
def test_perplexity_by_context_scores_the_same_targets_after_each_context(model: str, folder: Path) -> None:
    run = micro_run(folder, "perplexity_by_context", f"model={model}")
    windows = context_windows(heldout(run), 96, 16, 4)
    found = rows(run, "nll")
    lm = trained(run)
    assert [row.at["context"] for row in found] == [16, 48, 96]
    for row in found:
        context = int(row.at["context"])
        expected = [brute_force(lm, window.tokens[96 - context :])[-16:].mean() for window in windows]
        assert row.samples == pytest.approx(expected, rel=1e-4)
        assert row.at["n_targets"] == 16 * len(windows) == 16 * 8
        assert (row.at["train_context"], row.at["clusters"]) == (32, "long:4,short:4")


def test_perplexity_by_position_is_one_pass_in_buckets(folder: Path) -> None:
    run = micro_run(folder, "perplexity_by_position", "model=ttt_linear")
    windows = context_windows(heldout(run), 96, 1, 4)
    found = rows(run, "nll")
    losses = np.stack([brute_force(trained(run), window.tokens) for window in windows])
    buckets: Iterator[tuple[int, int]] = iter([(0, 16), (16, 32), (32, 64), (64, 96)])
    for row, (low, edge) in zip(found, buckets, strict=True):
        assert row.at["position"] == edge
        assert row.samples == pytest.approx(losses[:, low:edge].mean(1), rel=1e-4)
        assert row.at["n_targets"] == len(windows) * (edge - low)


def test_inner_loss_falls_within_each_mini_batch(folder: Path) -> None:
    run = micro_run(folder, "inner_loss", "model=ttt_linear")
    values = {(row.at["weights"], row.at["position"]): row.value for row in rows(run, "inner_loss")}
    assert len(values) == 3 * 4
    for edge in (16, 32, 48, 64):
        assert values["after", edge] < values["before", edge]
    assert values["w0", 16] == values["before", 16]  # one mini-batch: nothing was learned before it
    windows = context_windows(heldout(run), 64, 1, 4)
    tokens = torch.from_numpy(np.stack([window.tokens[:64] for window in windows]).astype(np.int64))
    (losses,) = inner_losses(trained(run), tokens)
    for (weights, position), value in values.items():
        expected = [loss[int(position) - 16 : int(position)].mean().item() for loss in losses[str(weights)]]
        assert value == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("model", ["transformer", "ttt_mlp"])
def test_state_is_what_the_model_allocates(model: str, folder: Path) -> None:
    run = micro_run(folder, "state_vs_context", f"model={model}")
    lm = build_lm(run.model, prepare(run).size, run.data.vocab)
    found = {row.at["context"]: row.value for row in rows(run, "state")}
    assert found == {context: state_bytes(lm.init_state(1, context)) for context in (16, 32)}
    assert (found[32] > found[16]) == (model == "transformer")


@pytest.mark.parametrize(
    ("experiment", "samples", "tokens"), [("prefill_latency", (3, 4), "context"), ("decode_latency", (16,), "")]
)
def test_times_keep_every_sample(experiment: str, samples: tuple[int, ...], tokens: str, folder: Path) -> None:
    run = micro_run(folder, experiment, "model=ttt_linear", "experiment.measure.batch=2")
    latency, throughput = rows(run, "latency"), rows(run, "throughput")
    assert [row.at["context"] for row in latency] == [row.at["context"] for row in throughput] == [16, 40]
    for time, rate in zip(latency, throughput, strict=True):
        assert len(time.samples) in samples
        assert min(time.samples) <= time.value <= max(time.samples)
        assert rate.value * time.value == pytest.approx(2 * (int(time.at[tokens]) if tokens else 1))
        assert time.at["batch"] == 2
