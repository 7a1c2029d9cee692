"""The identity of a run is what makes its numbers; a run that measures a trained model names the one that trains it."""

from bench.compose import compose_run
from bench.config import record, run_id, source_of_rate, training


def test_a_search_is_said_of_the_models_that_it_searched_alone() -> None:
    sources = [compose_run([f"model={name}"]).optim.lr_source for name in ("mamba", "ablation/linear_attention")]
    assert sources[0].startswith("searched alike") and sources[1] == "not searched for this model"
    assert source_of_rate("paper", {}, "mamba") == "paper"


def test_identity_is_what_makes_the_numbers() -> None:
    run = compose_run(["experiment=state_vs_context"])
    timed = compose_run(["experiment=decode_latency"])
    here, there = {"device": "this"}, {"device": "that"}
    assert run_id(run, here) == run_id(
        compose_run(["experiment=state_vs_context", "results=x", "refresh=all", "tracking=wandb"]), there
    )
    told = ["experiment=state_vs_context", "optim.lr_source=guessed", "device.workers=9", "device.flop_rate=1"]
    assert run_id(run, here) == run_id(compose_run(told), here)
    assert record(compose_run(told))["optim"]["lr_source"] == "guessed"
    assert run_id(run, here) != run_id(compose_run(["experiment=state_vs_context", "optim.lr=0.1"]), here)
    assert run_id(timed, here) != run_id(timed, there)


def test_how_a_training_fits_its_device_counts_only_where_its_speed_is_measured() -> None:
    how = ["train.micro_batch=2", "train.checkpoint=block", "train.compile=true", "train.graph=true"]
    where = ["train.keep=5", "train.resume=last_intact"]
    assert run_id(compose_run(["experiment=train_speed", *where]), {}) == run_id(compose_run(["experiment=train_speed"]), {})
    for experiment, is_same in (("train", True), ("perplexity_by_context", True), ("train_speed", False)):
        ids = {run_id(compose_run([f"experiment={experiment}", *words]), {}) for words in ([], how)}
        assert (len(ids) == 1) == is_same
    recorded = {"micro_batch": 2, "checkpoint": "block", "compile": True, "graph": True, "keep": 5, "resume": "last_intact"}
    assert record(compose_run([*how, *where]))["train"] == recorded


def test_what_measures_a_trained_model_names_the_run_that_trains_it() -> None:
    run = compose_run(["experiment=perplexity_by_context", "model=mamba", "seed=3"])
    assert training(run) == compose_run(["experiment=train", "model=mamba", "seed=3"])
