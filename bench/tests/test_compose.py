"""Every choice of conf/ composes, alone and with the others; what cannot be composed says what can."""

import itertools
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bench.compose import compose_run, compose_runs, conf
from bench.config import CONF, ConfigError, RunConfig, explain, parse, run_id, training
from bench.overrides import check_keys, expand
from bench.results import ROOT
from bench.tier import load_tier, tier_names

CHOICES = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir() and group.name not in ("tier", "launcher", "sweep")
}


def name_of(run: RunConfig, group: str) -> str:
    """The file of conf/ that this part of the run came from."""
    if group == "match":
        return run.match.method
    if group == "model":
        is_variant = run.model.name.startswith("ttt") and run.model.backbone == "transformer"
        return run.model.name + "_t" * is_variant
    return str(getattr(run, group).name)


def test_conf_has_the_groups_of_the_schema() -> None:
    assert set(CHOICES) == {"model", "size", "match", "budget", "data", "optim", "device", "experiment", "tracking"}
    assert all(CHOICES.values())


@pytest.mark.parametrize(("group", "choice"), [(group, choice) for group, names in CHOICES.items() for choice in names])
def test_every_choice_is_what_its_file_name_says(group: str, choice: str) -> None:
    assert name_of(compose_run([f"{group}={choice}"]), group) == choice


@pytest.mark.parametrize("model", CHOICES["model"])
def test_every_model_in_every_size_and_every_two_choices_together(model: str) -> None:
    """Of model, size and match: what two choose together would show, three have nothing to add."""
    matches = itertools.cycle(CHOICES["match"])
    first = itertools.islice(matches, CHOICES["model"].index(model) % len(CHOICES["match"]), None)
    for size, match in zip(CHOICES["size"], first, strict=False):
        run = compose_run([f"model={model}", f"size={size}", f"match={match}"])
        assert [name_of(run, group) for group in ("model", "size", "match")] == [model, size, match]
        assert run.match.reference.size == run.size  # of the same size, unless said otherwise
        assert run.model.layer
        assert run.match.reference.model.layer


SAMPLING = "experiment.measure.sampling={least:2,most:3}"


@pytest.mark.parametrize(
    "job",
    [
        ["model=mamba", "seed=3", "results=there", "data.train=[a.txt,b.txt]", "device.threads=2"],
        ["optim.lr=0.5", "optim=tiny", "optim.lr_source='a, b'", "budget.flops=null", "budget.tokens=200000"],
        ["size.width=32", "experiment=inner_loss", "+experiment.measure.bucket=16", "experiment.measure.bucket=8", "seed=1"],
        ["experiment=prefill_latency", "experiment.measure.contexts=[16]", SAMPLING, "seed=1", "seed=2"],
        ["model=ttt_mlp", "size@match.reference.size=1.3b", "match.reference.size.layers=5", "model.impl=triton"],
        ["model.mini_batch=${seed}", "seed=4", "tracking=wandb", "tracking.group=null"],
        ["sweep=learning_rate", "size=5m", "~experiment.measure.heldout", "optim.lr=1e-3"],
    ],
)
def test_values_put_into_what_was_composed_before_are_where_hydra_puts_them(job: list[str]) -> None:
    with conf():
        alone = parse(compose("config", job))
    others = [word for word in job if word.split("=")[0] in CHOICES or "@" in word or word.startswith(("sweep", "+", "~"))]
    assert compose_runs([others, job, others, job])[1::2] == [alone, alone]


@pytest.mark.parametrize("job", [["seed=3", "size.hight=3"], ["seed=first"], ["experiment.measure.steps=5"], ["seed=1,2"]])
def test_a_value_that_hydra_refuses_is_refused_in_its_words(job: list[str]) -> None:
    with conf(), pytest.raises((HydraException, OmegaConfBaseException)) as told:
        parse(compose("config", job))
    with pytest.raises(ConfigError) as caught:
        compose_run(job)
    assert str(caught.value) == explain(told.value)


def test_the_reference_can_have_a_size_of_its_own() -> None:
    run = compose_run(["size=nano", "match=ffn", "size@match.reference.size=1.3b", "model@match.reference.model=transformer"])
    assert (run.size.name, run.match.reference.size.name, run.match.reference.model.name) == ("nano", "1.3b", "transformer")


@pytest.mark.parametrize("name", tier_names())
def test_every_tier_lists_each_run_once_with_its_models_and_their_training(name: str) -> None:
    tier = load_tier(name)
    runs = {run_id(run, {}) for run in tier.runs}
    assert len(runs) == len(tier.runs) == len(tier.config_hashes)
    assert {name_of(run, "model") for run in tier.runs} >= set(tier.models)
    assert {run_id(training(run), {}) for run in tier.runs if run.experiment.trained} <= runs


def test_a_tier_takes_seeds_and_overrides() -> None:
    runs = load_tier("smoke", ["device.threads=3", "seeds=2"]).runs
    seeds = [run.seed for run in runs]
    assert set(seeds) == {0, 1}
    assert seeds.count(0) == seeds.count(1) == len(runs) / 2
    assert {run.device.threads for run in runs} == {3}


def test_a_sweep_expands_as_hydra_would() -> None:
    jobs = expand(["model=mamba,ttt_mlp", "seed=range(3)", "size=nano"])
    assert jobs == [[f"model={m}", f"seed={s}", "size=nano"] for m in ("mamba", "ttt_mlp") for s in range(3)]
    assert expand(["model=glob(*)"]) == [[f"model={name}"] for name in CHOICES["model"]]
    assert expand(["experiment.measure.contexts=[64,128]"]) == [["experiment.measure.contexts=[64,128]"]]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=rnn"], ["rnn", *CHOICES["model"]]),
        (["size=tall"], ["tall", *CHOICES["size"]]),
        (["experiment=speed"], ["speed", *CHOICES["experiment"]]),
        (["seed=first"], ["seed", "first", "Integer"]),
        (["match.method=wall"], ["match.method=wall", "budget", "ffn", "depth", "tokens"]),
        (["match.convention=half"], ["match.convention=half", "causal", "full"]),
        (["device.dtype=float8"], ["device.dtype=float8", "float32", "bfloat16"]),
        (["tracking=tensorboard"], ["tracking", "none", "wandb"]),
        (["tracking.upload=[everything]"], ["tracking.upload=everything", "rows", "results", "weights", "figures"]),
        (["refresh=yes"], ["refresh=yes", "none", "stale", "all"]),
        (["train.checkpoint=all"], ["train.checkpoint=all", "none", "block"]),
        (["train.micro_batch=-1"], ["train.micro_batch=-1", "0 for the whole batch"]),
        (["train.keep=0"], ["train.keep=0", "1 checkpoint or more"]),
        (["train.resume=first"], ["train.resume=first", "last", "last_intact"]),
        (["budget.tokens=5"], ["nano_1", "budget.flops", "budget.tokens"]),
    ],
)
def test_a_wrong_choice_or_value_says_what_is_possible(overrides: list[str], words: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_run(overrides)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, caught.value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "modle=mamba",
            ["modle", "model", "size", "match", "budget", "data", "optim", "device", "experiment", "tracking", "seed"],
        ),
        ("model.nme=x", ["model.nme", "name", "backbone", "mini_batch", "impl"]),
        ("match.reference.size.hight=3", ["hight", "width", "layers", "heads", "ffn"]),
    ],
)
def test_a_wrong_key_says_what_is_possible(override: str, words: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys([override])
    assert not [word for word in words if word not in str(caught.value)], caught.value


@pytest.mark.parametrize(
    "override", ["experiment.measure.contexts=[64]", "model@match.reference.model=mamba", "hydra.verbose=true"]
)
def test_a_right_key_passes(override: str) -> None:
    check_keys([override])


def test_an_unknown_tier_and_no_seed_say_what_is_possible() -> None:
    with pytest.raises(ConfigError, match=r"huge.*nano, .*smoke"):
        load_tier("huge")
    with pytest.raises(ConfigError, match="seeds=0"):
        load_tier("smoke", ["seeds=0"])


@pytest.mark.parametrize(
    ("word", "possible"), [("modle=mamba", "model, size"), ("model=rnn", "ttt_linear_t"), ("refresh=x", "stale")]
)
def test_the_command_line_says_it_without_a_traceback(word: str, possible: str) -> None:
    ended = subprocess.run([sys.executable, "-m", "bench", word], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert possible in ended.stderr
    assert "Traceback" not in ended.stderr
