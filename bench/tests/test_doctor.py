"""What is missing, broken or crashes is told as that, with its cure, and decides the exit status as it should."""

import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench import doctor
from bench.config import CONF
from bench.doctor import CORE, Finding, experiments, probed, report, requirements, tiers
from bench.tier import tier_names
from kernels.op import all_ops

NO_GPU = Finding("devices", "cuda", "absent", cure="use device=cpu")


def examined(text: str, extra: str = "reports", module: str = "yaml") -> Finding:
    return doctor._package(extra, Requirement(text), {"pyyaml": module})


def test_a_package_that_is_here_missing_or_of_another_version() -> None:
    assert examined("pyyaml>=6").status == "ok"
    missing = examined("no-such-package>=1")
    assert (missing.status, missing.cure) == ("missing", "make setup EXTRAS=reports")
    assert not missing.is_fault
    assert examined("no-such-package>=1", CORE).is_fault
    old = examined("pyyaml>=999")
    assert old.is_fault
    assert old.detail.endswith("is not >=999")


@pytest.mark.parametrize(
    ("code", "words"), [("raise ImportError('no libcuda')", "ImportError: no libcuda"), ("import os; os.abort()", "signal 6")]
)
def test_a_package_that_cannot_be_imported_is_broken(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fragile.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    found = examined("pyyaml>=6", module="fragile")
    assert found.is_fault
    assert words in found.detail


def test_the_requirements_are_those_of_the_project_but_tools() -> None:
    found = {(extra, one.name) for extra, one in requirements()}
    assert {(CORE, "torch"), (CORE, "hydra-core"), ("eval", "lm-eval"), ("reports", "wandb")} <= found
    assert not {extra for extra, _ in found} & {"dev", "notebooks"}


def test_a_kernel_that_crashes_is_a_line_and_those_after_it_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fla.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    names = [f"{op.name} {impl} cpu" for op in all_ops() for impl in op.impls]
    first = names.index("ttt_linear fla_chunk cpu")
    found = {one.name: one for one in probed("cpu", first)}
    assert list(found) == names[first:]
    crashed = [one for name, one in found.items() if "fla" in name]
    assert all(one.status == "broken" and "signal 6" in one.detail for one in crashed)
    assert {one.status for one in found.values() if one not in crashed} == {"ok"}


def test_a_probe_that_cannot_begin_ends() -> None:
    (found,) = probed("abacus")
    assert (found.name, found.status) == ("abacus", "broken")


def test_an_experiment_and_a_tier_say_what_they_need() -> None:
    lacking = Finding("packages", "lm-eval", "missing", extra="eval")
    assert {one.name for one in experiments([lacking])} == {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    found = {one.name: one for one in tiers([NO_GPU])}
    assert list(found) == tier_names()
    assert found["nano"].status == "ok"
    assert (found["kernels"].status, found["kernels"].detail) == ("absent", "needs a cuda device")
    assert found["kernels"].cure == NO_GPU.cure


def test_the_report_names_what_is_to_mend() -> None:
    fine = [Finding("packages", "torch", "ok", "2.13", extra=CORE), NO_GPU]
    text = report(fine)
    assert "not here  cuda     -> use device=cpu" in text
    assert text.endswith("all that is here works")
    broken = Finding("kernels", "ttt_linear triton cpu", "broken", "fwd: output 2e-01")
    assert report([*fine, broken]).endswith("to mend: ttt_linear triton cpu")
