"""A tier is planned without running anything, and what it will take is scaled from what took place."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import reproduce
from bench.build import prepare
from bench.config import RunConfig, identity, record
from bench.forecast import Forecast, forecast
from bench.progress import Job, seconds_together
from bench.reproduce import Cell, plan_text, survey
from bench.results import PUBLISHED, Manifest, Row, Run, hash_of, read_runs
from bench.run import describe, execute
from bench.standing import standing
from bench.tests.micro import BUDGET, micro_run
from bench.tier import Tier, load_tier, tier_file, tier_names, tiers_of


def known(run: RunConfig, flops: float, seconds: float, status: str = "done") -> Run:
    """A run that took ``seconds`` for ``flops``."""
    manifest: Manifest = replace(describe(run), flops=flops, seconds=seconds, status=status)
    return Run(manifest, identity(run), (), Path(), published=False)


def test_without_a_run_the_forecast_is_the_rate_of_the_device(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "device.flop_rate=1e6")
    made = forecast(run, [])
    assert made.flops == pytest.approx(BUDGET, rel=0.005)
    assert made.seconds == pytest.approx(1 + made.flops / 1e6)
    assert not made.is_measured


def test_a_known_run_is_scaled_by_its_flops(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train")
    like = micro_run(tmp_path, "train", "optim.lr=0.5")
    near, far = known(like, BUDGET / 2, 3.0), known(like, 5e12, 1.0)
    for order in ([near, far], [far, near]):
        made = forecast(run, order)
        assert made.seconds == pytest.approx(6.0, rel=0.01)
        assert made.is_measured


def test_of_runs_alike_the_latest_tells(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train")
    each = [known(run, BUDGET, seconds) for seconds in (3.0, 9.0)]
    days = ("2026-01-02", "2026-01-01")
    runs = [replace(one, manifest=replace(one.manifest, started=day)) for one, day in zip(each, days, strict=True)]
    for order in (runs, runs[::-1]):
        assert forecast(run, order).seconds == pytest.approx(3.0, rel=0.01)


def test_another_seed_tells_more_than_flops_do_and_steps_count_where_the_clock_was_lost(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train")
    twin, other = known(replace(run, seed=7), 5e12, 9.0), known(micro_run(tmp_path, "train", "optim.lr=0.5"), BUDGET, 3.0)
    assert forecast(run, [twin, other]) == Forecast(5e12, 9.0, is_measured=True)
    steps = Row(metric="train_time", value=11.0, unit="s", at={})
    assert forecast(run, [replace(twin, rows=(steps,)), other]).seconds == 11.0


@pytest.mark.parametrize(
    "other",
    [
        *(["model=mamba"], ["model=ttt_linear_t"], ["model.impl=triton"], ["size=nano"], ["device.type=cuda"]),
        ["experiment=state_vs_context"],
    ],
)
def test_only_a_run_of_the_same_kind_tells(other: list[str], tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train")
    different = micro_run(tmp_path, "train", *[word for word in other if not word.startswith("experiment")])
    if other == ["experiment=state_vs_context"]:
        different = micro_run(tmp_path, "state_vs_context")
    stranger = Run(
        replace(describe(run), experiment=different.experiment.name, flops=BUDGET, seconds=9.0, status="done"),
        *(identity(different), (), Path()),
        published=False,
    )
    assert not forecast(run, [stranger]).is_measured
    assert not forecast(run, [known(run, BUDGET, 9.0, status) for status in ("running", "failed", "killed")]).is_measured
    assert forecast(run, [stranger, known(run, BUDGET, 9.0)]).seconds == pytest.approx(9.0, rel=0.01)


def test_a_plan_shows_every_cell_as_it_stands_and_runs_nothing(tmp_path: Path) -> None:
    done, new = micro_run(tmp_path, "state_vs_context"), micro_run(tmp_path, "train", "model=ttt_mlp_t", "seed=3")
    execute(done)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    cells = survey(Tier("micro", (), (done, new)))
    assert [cell.standing.status for cell in cells] == ["done", "to do"]
    first, second, *_ = plan_text(cells, 2).splitlines()[1:]
    assert first.startswith("state_vs_context ttt_linear tiny tiny_1 s0") and first.endswith("done") and "~" not in first
    assert second.startswith("train ttt_mlp (T) tiny tiny_1 s3") and second.endswith("to do") and "1.00e+08" in second
    assert "2 cells, 1 to do" in plan_text(cells, 2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_cells_that_time_run_alone_and_the_others_share_the_workers(tmp_path: Path) -> None:
    quick, timed = micro_run(tmp_path, "train"), micro_run(tmp_path, "decode_latency")

    def job(run: RunConfig, seconds: float) -> Job:
        return Cell(run, standing(run), Forecast(1.0, seconds, is_measured=True)).job

    assert seconds_together([job(quick, 10), job(quick, 20), job(quick, 30)], 2) == 30
    assert seconds_together([job(quick, 10), job(quick, 50), job(timed, 7)], 2) == 57
    assert seconds_together([], 2) == 0


def test_runs_find_the_tiers_that_they_belong_to(tmp_path: Path) -> None:
    kernels = load_tier("kernels", ["seeds=2"])
    second = next(run for run in kernels.runs if run.seed == 1)
    on_cpu = describe(replace(second, device=replace(second.device, type="cpu")))  # there is no GPU here to describe
    manifest = replace(on_cpu, config_hash=hash_of(identity(second)), status="done")
    mine = Run(manifest, record(second), (), tmp_path, published=False)
    (found,) = tiers_of([mine])
    assert (found.name, found.title) == ("kernels", kernels.title)
    assert mine.manifest.config_hash in found.config_hashes  # of the second seed, as the runs have it
    stranger = replace(mine, manifest=replace(mine.manifest, config_hash="00000000"))
    assert tiers_of([stranger]) == []
    assert all(tier_file(name)["title"] and tier_file(name)["about"].endswith(".") for name in tier_names())


def test_a_tier_that_names_its_seeds_has_no_more_for_runs_that_have_them(tmp_path: Path) -> None:
    ablation = load_tier("ablation")
    second = next(run for run in ablation.runs if run.seed == 1)
    on_cpu = describe(replace(second, device=replace(second.device, type="cpu")))
    manifest = replace(on_cpu, config_hash=hash_of(identity(second)), status="done")
    (found,) = tiers_of([Run(manifest, record(second), (), tmp_path, published=False)])
    assert found.config_hashes == ablation.config_hashes


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """``python -m bench.reproduce WORDS``, its exit status."""
    monkeypatch.setattr(sys, "argv", ["bench.reproduce", *words])
    return reproduce.main()


def test_the_smoke_tier_is_planned_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "plan", "smoke", f"results={tmp_path}", "model=mamba") == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [line for line in lines if line.endswith("to do") and " cpu " in line]
    assert {line.split()[0] for line in cells} >= {"train", "perplexity_by_context", "prefill_latency", "state_vs_context"}
    assert {line.split()[1] for line in cells if not line.startswith(("kernel_speed float32", "latency tiny float32"))} == {
        "mamba"
    }
    assert any(line.startswith(f"{len(cells)} cells, {len(cells)} to do: about ") for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_tier_prepares_its_data_and_refuses_what_would_see_it_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = micro_run(tmp_path, "train", "data.max_epochs=0.01")
    monkeypatch.setattr(reproduce, "load_tier", lambda name, overrides: Tier("micro", (), (run,)))
    assert command(monkeypatch, "plan", "micro") == 0
    assert "data=austen is not prepared, so epochs are not known yet: python -m bench.data" in capsys.readouterr().out
    for verb in ("run", "plan"):
        assert command(monkeypatch, verb, "micro") == 2
        assert "epochs of data=austen, more than data.max_epochs=0.01" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_training_of_few_steps_is_refused_where_the_budget_asks_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = micro_run(tmp_path, "train")
    steps = prepare(run).plan.steps
    for least, status in ((steps, 0), (steps + 1, 2)):
        asked = micro_run(tmp_path, "train", f"budget.min_steps={least}")
        assert hash_of(identity(asked)) == hash_of(identity(run))
        monkeypatch.setattr(reproduce, "load_tier", lambda name, overrides, asked=asked: Tier("micro", (), (asked,)))
        assert command(monkeypatch, "plan", "micro") == status
    said = capsys.readouterr().err
    assert f"{steps} steps are fewer than budget.min_steps={steps + 1}; choose a larger budget, or a smaller size" in said


def test_what_was_published_is_still_known_by_its_configuration() -> None:
    published = {run.manifest.config_hash for run in read_runs([PUBLISHED]) if run.config["size"]["name"] == "nano"}
    assert published & load_tier("nano").config_hashes == load_tier("nano").config_hashes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "huge"], "there is no tier 'huge'; choose from: " + ", ".join(tier_names())),
        (["run", "smoke", "modle=mamba"], "there is no key 'modle'"),
        (["run", "smoke", "seeds=0"], "seeds=0 is not possible"),
    ],
)
def test_a_tier_that_is_not_possible_says_what_is(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err
