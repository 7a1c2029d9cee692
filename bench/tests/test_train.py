"""Every model learns; a training that was interrupted ends as if it had not been; what went wrong is said."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.budget import Plan, plan
from bench.build import build_lm
from bench.checkpoints import CorruptCheckpoint
from bench.compose import compose_run
from bench.config import ModelConfig, OptimConfig, TrainConfig
from bench.data.batches import TrainBatches
from bench.data.shards import Stream
from bench.progress import Unfinished
from bench.tests.micro import MODELS
from bench.train import (
    Diverged,
    Log,
    Meter,
    learning_rate,
    load,
    make_optimizer,
    save,
    sequence_loss,
    train,
    warmup_steps,
)
from models.lm import LM
from models.mixer import Size
from models.ttt import TTT

VOCAB, CONTEXT, ROWS = 16, 32, 8


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def optim(**options: float) -> OptimConfig:
    recipe = OptimConfig(name="test", lr=1e-2, lr_source="test", batch_tokens=ROWS * CONTEXT, train_context=CONTEXT)
    return replace(recipe, **options)  # type: ignore[arg-type]


def steps_of(steps: int) -> Plan:
    """So many steps, the last one half a batch."""
    return plan(
        lambda n: n, target_flops=ROWS * CONTEXT * (steps - 0.5), tokens=None, batch_tokens=ROWS * CONTEXT, context=CONTEXT
    )


def periodic() -> TrainBatches:
    """1 2 1 3 1 4 …: what follows 1 only the token before it tells."""
    tokens = np.array([1, 2, 1, 3, 1, 4] * 400, dtype=np.uint8)
    return TrainBatches(Stream([tokens]), CONTEXT, seed=0)


@cache
def config_of(model: str) -> ModelConfig:
    return compose_run([f"model={model}"]).model


def new_lm(model: str, seed: int = 0, layers: int = 1) -> LM:
    torch.manual_seed(seed)
    return build_lm(config_of(model), Size(width=32, layers=layers, heads=2, ffn=48), VOCAB)


def stop_at(fraction: float) -> Callable[[float, Log], None]:
    """A progress callback that interrupts the training."""

    def progress(done: float, log: Log) -> None:
        if done >= fraction:
            raise KeyboardInterrupt

    return progress


def last(checkpoints: Path) -> dict[str, Any]:
    """What the last checkpoint says of itself."""
    return json.loads((max(checkpoints.glob("step-*")) / "about.json").read_text())


def same(a: LM, b: LM) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_a_period(model: str, tmp_path: Path) -> None:
    lm, made = new_lm(model), steps_of(80)
    curve = train(lm, made, periodic(), optim(lr=2e-2), tmp_path / "checkpoints").curve
    assert curve[0][1] == pytest.approx(math.log(VOCAB), abs=0.3)
    assert curve[-1][1] < 0.65  # half of ln 3 is what one token back tells
    assert [tokens for tokens, _ in curve] == [*range(256, 256 * 80, 256), made.tokens]


@pytest.mark.parametrize("model", MODELS)
def test_in_bfloat16_it_learns_as_in_float32(model: str, tmp_path: Path) -> None:
    lm, made = new_lm(model), steps_of(25)
    wide = train(lm, made, periodic(), optim(), tmp_path / "wide").curve
    lm = new_lm(model).train_in(torch.bfloat16)
    narrow = train(lm, made, periodic(), optim(), tmp_path / "narrow").curve
    differences = [abs(a - b) for (_, a), (_, b) in zip(wide, narrow, strict=True)]
    assert 0 < max(differences) < 0.1 * wide[0][1]
    assert {p.dtype for p in lm.parameters()} == {torch.float32}
    moved = [not torch.equal(p, q) for p, q in zip(lm.parameters(), new_lm(model).parameters(), strict=True)]
    assert all(moved)  # also those whose steps bfloat16 would round away


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    """8 sequences as 3, 3 and 2; the last batch of 4 as 3 and 1."""
    whole, parts, made, seen = new_lm("ttt_linear"), new_lm("ttt_linear"), steps_of(4), []
    parts.embedding.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    expected = train(whole, made, periodic(), optim(), tmp_path / "whole").curve
    found = train(parts, made, periodic(), optim(), tmp_path / "parts", how=TrainConfig(micro_batch=3)).curve
    assert seen == [3, 3, 2] * 3 + [3, 1]
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3 * 1e-2)  # a thousandth of a step of AdamW


def test_a_target_that_is_not_scored_weighs_nothing() -> None:
    lm, bos = new_lm("transformer"), 3
    tokens = torch.tensor([[3, 5, 3, 7, 3, 3, 2], [4, 5, 6, 7, 8, 9, 3], [1, 3, 3, 3, 3, 3, 3]])
    nll = lm.nll(tokens[:, :-1], tokens[:, 1:])
    expected = [nll[0, [0, 2, 5]].mean(), nll[1, :5].mean(), torch.zeros(())]
    torch.testing.assert_close(sequence_loss(lm, tokens, bos), torch.stack(expected).mean())
    assert torch.equal(sequence_loss(lm, tokens), nll.mean())


def test_training_leaves_out_what_is_not_scored(tmp_path: Path) -> None:
    """What follows 1 is learned, that 1 follows is not."""
    made, tokens = steps_of(40), np.array([1, 2, 1, 3, 1, 4] * 400, dtype=np.uint8)
    lm = new_lm("transformer")
    train(lm, made, TrainBatches(Stream([tokens]), CONTEXT, seed=0, unscored=1), optim(lr=2e-2), tmp_path / "c")
    with torch.no_grad():
        nll = lm.nll(torch.tensor([[1, 2, 1, 3, 1, 4, 1, 2]]), torch.tensor([[2, 1, 3, 1, 4, 1, 2, 1]]))[0]
    assert nll[2::2].max() < 1.2 < math.log(VOCAB) < nll[1::2].min()


def test_blocks_computed_again_train_to_the_same_bit(tmp_path: Path) -> None:
    curves = [
        train(new_lm("ttt_mlp").train_in(dtype, recompute=recompute), steps_of(4), periodic(), optim(), tmp_path / "c").curve
        for dtype in (torch.float32, torch.bfloat16)
        for recompute in (False, True)
    ]
    assert curves[0] == curves[1] != curves[2] == curves[3]


def test_the_clock_leaves_out_the_first_interval_and_counts_every_step() -> None:
    log, ticks = Log(), iter([100.0, 110.0, 111.0, 113.0, 115.0, 116.0, 120.0, 121.0])
    meter = Meter(log, 2, torch.device("cpu"), clock=ticks.__next__)
    for tokens in (10, 10, 10, 30, 30, 20, 5):
        meter.step(tokens)
    assert log == Log(rates=[40 / 4, 50 / 5], first_step_s=10.0, seconds=21.0)
    again = Meter(log, 1, torch.device("cpu"), clock=iter([0.0, 7.0, 8.0]).__next__)
    again.step(3)
    again.step(3)
    assert log == Log(rates=[10.0, 10.0, 3.0], first_step_s=10.0, seconds=29.0)


def test_the_log_goes_on_after_an_interruption(tmp_path: Path) -> None:
    path, lm = tmp_path / "c", new_lm("transformer")
    with pytest.raises(KeyboardInterrupt):
        train(lm, steps_of(6), periodic(), optim(), path, save_every_s=0, progress=stop_at(4 / 6))
    left = Log.of(last(path)["log"])
    log = train(lm, steps_of(6), periodic(), optim(), path)
    assert (len(left.rates), len(log.rates)) == (2, 4)  # 3 steps, then 3: the first of each warms up
    assert log.rates[:2] == left.rates and log.first_step_s == left.first_step_s > 0
    assert log.seconds > left.seconds >= left.first_step_s
    assert log.peak_bytes == 0


@pytest.mark.parametrize("model", ["ttt_mlp", "mamba", "transformer"])
def test_an_interrupted_training_ends_bit_for_bit_as_another(model: str, tmp_path: Path) -> None:
    made, batches, path = steps_of(8), periodic(), tmp_path / "checkpoints"
    whole, broken = new_lm(model), new_lm(model)
    expected = train(whole, made, batches, optim(), tmp_path / "unused").curve
    assert not (tmp_path / "unused").exists()
    for stop, done in ((3 / 8, 2), (6 / 8, 5)):
        with pytest.raises(KeyboardInterrupt):
            train(broken, made, batches, optim(), path, save_every_s=0, progress=stop_at(stop))
        assert last(path)["step"] == done
        broken = new_lm(model, seed=1)  # all comes from the checkpoint
    assert not same(broken, whole)
    assert train(broken, made, batches, optim(), path).curve == expected
    assert same(broken, whole)


def test_a_training_in_pieces_ends_bit_for_bit_as_in_one(tmp_path: Path) -> None:
    """No time is left after any step: each call makes one."""
    made, whole, pieces, steps = steps_of(3), new_lm("ttt_linear"), new_lm("ttt_linear"), []
    expected = train(whole, made, periodic(), optim(), tmp_path / "whole").curve
    for n in (1, 2):
        with pytest.raises(Unfinished, match=f"max_minutes are over after {n} of 3 steps"):
            train(pieces, made, periodic(), optim(), tmp_path / "c", until=0.0)
        steps.append(last(tmp_path / "c")["step"])
        pieces = new_lm("ttt_linear", seed=1)
    assert train(pieces, made, periodic(), optim(), tmp_path / "c", until=0.0).curve == expected
    assert steps == [1, 2] and same(pieces, whole)


def test_a_training_that_was_over_is_not_repeated(tmp_path: Path) -> None:
    made, path, lm = steps_of(2), tmp_path / "checkpoints", new_lm("transformer")
    log = train(lm, made, periodic(), optim(), path, save_every_s=0)
    again = new_lm("transformer", seed=1)
    assert train(again, made, periodic(), optim(), path, progress=stop_at(0)) == log
    assert same(again, lm)


def test_no_damage_is_read_as_something_else(tmp_path: Path) -> None:
    path, state, draw = tmp_path / "weights.pt", {"a": torch.arange(300.0), "b": 7}, random.Random(0)
    save(state, path)
    whole, noticed = path.read_bytes(), 0
    for _ in range(300):
        place = draw.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :])
        try:
            back = load(path)
        except CorruptCheckpoint:
            noticed += 1
        else:  # the byte means nothing
            assert torch.equal(back["a"], torch.arange(300.0)) and back["b"] == 7
    assert noticed > 150


@pytest.mark.parametrize("content", [b"\0" * 5000, b"no checkpoint", random.Random(0).randbytes(5000), b"PK\3\4" + bytes(500)])
def test_what_is_no_checkpoint_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=r"weights\.pt cannot be read"):
        load(path)


def test_weights_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"weights\.pt cannot be read .*No such file"):
        load(tmp_path / "weights.pt")


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    torch.save({"model": Path("/")}, tmp_path / "weights.pt")
    with pytest.raises(CorruptCheckpoint, match="cannot be read"):
        load(tmp_path / "weights.pt")


def test_a_file_of_tensors_comes_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    state: dict[str, Any] = {"model": {"a": torch.randn(3)}, "curve": [(256, 1.5)]}
    save(state, tmp_path / "weights.pt")
    back = load(tmp_path / "weights.pt")
    assert torch.equal(back["model"]["a"], state["model"]["a"])
    assert back["curve"] == state["curve"]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    lm = new_lm("transformer")
    with torch.no_grad():
        lm.norm.weight[0] = math.nan
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    with pytest.raises(Diverged, match=r"loss was nan at step 0 of 3; lower optim\.lr=0\.01"):
        train(lm, steps_of(3), periodic(), optim(), tmp_path / "checkpoints", save_every_s=0)
    assert all(torch.equal(value.nan_to_num(7), before[name].nan_to_num(7)) for name, value in lm.state_dict().items())
    assert not (tmp_path / "checkpoints").exists()


def test_a_learning_rate_far_too_large_diverges(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"at step \d+ of 20; lower optim\.lr=1e\+30"):
        train(new_lm("transformer"), steps_of(20), periodic(), optim(lr=1e30), tmp_path / "checkpoints")


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_learning_rate_rises_to_lr_and_falls_to_its_end(steps: int) -> None:
    recipe = optim(lr=0.5, final_lr=0.02, warmup=0.1)
    warmup = warmup_steps(recipe, steps)
    assert warmup == {1: 1, 2: 1, 7: 1, 100: 10}[steps]
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    assert rates[:warmup] == pytest.approx([0.5 * n / warmup for n in range(1, warmup + 1)])
    assert max(rates) == rates[warmup - 1] == 0.5
    if steps > 2:
        assert rates[-1] == pytest.approx(0.02)
    if steps == 100:
        assert rates[warmup] == 0.5  # where the cosine begins
        assert learning_rate(recipe, 10 + 89 // 2, 100) == pytest.approx(0.26 + 0.24 * math.cos(math.pi * 44 / 89))
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_every_parameter_is_optimised_once_and_mamba_exempts_its_own_from_decay() -> None:
    for model in MODELS:
        lm = new_lm(model)
        names = {id(p): name for name, p in lm.named_parameters()}
        optimizer = make_optimizer(lm, optim(weight_decay=0.3))
        held = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(names.values())
        decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        exempt = {name.rsplit("mixer.", 1)[-1] for name, decay in decays.items() if decay == 0}
        own = {"mamba": {"a_log", "d", "dt_proj.bias"}, "mamba2": {"a_log", "d", "dt_bias"}}
        assert exempt == own.get(model, set())
        assert set(decays.values()) <= {0.0, 0.3}


def test_the_schedule_of_the_inner_rate_is_told_to_the_layers(tmp_path: Path) -> None:
    seen, lm = [], new_lm("ttt_mlp")
    ttt = lm.mixers[1]
    assert isinstance(ttt, TTT)
    train(lm, steps_of(30), periodic(), optim(), tmp_path / "c", progress=lambda done, log: seen.append(ttt.lr_scale.item()))
    assert seen[:4] == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert set(seen[3:]) == {1.0}
