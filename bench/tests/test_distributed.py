"""Two processes train what one does: the same losses, weights and rows, from each other's checkpoints; an error ends both."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import distributed
from bench.distributed import Uneven, check_shares, parts, share
from bench.hardware import NoDevice
from bench.pretrained import load_pretrained
from bench.results import ROOT, Row, Run, read_run, read_runs
from bench.run import describe, execute
from bench.tests.micro import micro_run, write_corpus
from bench.tests.pair import FAILURES, MODELS, STOP, train_model
from bench.tests.test_train import last, new_lm
from bench.train import load


def free_ports(count: int) -> list[str]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in found]


def pair(folder: Path) -> None:
    """Runs bench/tests/pair.py as two processes."""
    port, *ports = free_ports(1 + len(FAILURES))
    fixed = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "bench.tests.pair", str(folder), *ports]
    begun = [
        subprocess.Popen(words, cwd=ROOT, env={**os.environ, **fixed, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE)
        for rank in "01"
    ]
    said = [process.communicate(timeout=300)[1].decode() for process in begun]
    assert [process.returncode for process in begun] == [0, 0], said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have done all that bench/tests/pair.py does, from checkpoints of this one."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("pair")
    for place in (made, *(made / how for how in FAILURES)):
        place.mkdir(exist_ok=True)
        write_corpus(place / "corpus")
    for name in MODELS:
        train_model(new_lm(name), made / f"{name}-one", stop=STOP)
    pair(made)
    return made


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return load(folder / "found.pt")


def losses(curve: Any) -> list[float]:
    return [loss for _, loss in curve]


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_learn_what_one_does(name: str, found: dict[str, Any], tmp_path: Path) -> None:
    lm = new_lm(name).train_in(torch.float32, recompute=True)
    curve = train_model(lm, tmp_path)
    assert curve is not None
    assert [tokens for tokens, _ in found[name]["curve"]] == [tokens for tokens, _ in curve]
    assert losses(found[name]["curve"]) == pytest.approx(losses(curve), rel=1e-5)
    state, theirs = lm.state_dict(), found[name]["weights"]
    assert list(theirs) == list(state)
    for key, value in state.items():
        torch.testing.assert_close(theirs[key], value, rtol=0, atol=1e-3 * 1e-2)  # a thousandth of a step of AdamW


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_of_two_goes_on_in_one_and_back(name: str, folder: Path, found: dict[str, Any], tmp_path: Path) -> None:
    whole = train_model(new_lm(name), tmp_path)
    for how in ("one", "two"):
        assert last(folder / f"{name}-{how}")["step"] == STOP
    on = train_model(new_lm(name, seed=1), folder / f"{name}-two")
    assert on is not None and whole is not None
    assert losses(on) == pytest.approx(losses(whole), rel=1e-5)
    assert losses(found[name]["on"]) == pytest.approx(losses(whole), rel=1e-5)
    assert losses(found[name]["on"])[:STOP] == losses(whole)[:STOP]  # of this process, to the bit


@pytest.mark.parametrize("name", MODELS)
def test_operations_see_the_same_dtypes_and_what_is_trained_is_float32(name: str, found: dict[str, Any]) -> None:
    dtypes = found[name]["dtypes"]
    assert {kind for _, *kinds in dtypes["plain"] for kind in kinds} >= {"torch.bfloat16", "torch.float32"}
    assert dtypes["sharded"] == dtypes["plain"]
    assert dtypes["sharded parameters"] == dtypes["plain parameters"] == ["torch.float32 torch.float32"]


def rows_of(run: Run) -> dict[tuple[str, Any], Row]:
    return {(row.metric, row.at.get("tokens") if row.metric == "train_nll" else None): row for row in run.rows}


def test_a_run_of_two_has_the_rows_and_the_weights_of_one(folder: Path, found: dict[str, Any], tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train")
    execute(run)
    path = folder / "runs" / "train" / describe(micro_run(folder, "train")).run_id  # the same whatever the processes
    ours, theirs = read_run(tmp_path / "runs" / "train" / describe(run).run_id), read_run(path)
    assert (theirs.manifest.status, theirs.manifest.attempts, found["again"]) == ("done", 1, False)
    assert len(theirs.rows) == len(rows_of(theirs)) == len(ours.rows)  # each written once
    for place, row in rows_of(ours).items():
        if row.unit not in ("s", "token/s"):
            assert rows_of(theirs)[place].value == pytest.approx(row.value, rel=1e-5)
    assert not (path / "checkpoints").exists()
    assert load_pretrained(path).train_context == 32


def test_train_speed_tells_what_two_do_together(folder: Path) -> None:
    (run,) = (run for run in read_runs([folder / "runs"]) if run.manifest.experiment == "train_speed")
    found = rows_of(run)
    rate, time = found["throughput", None], found["latency", None]
    assert (rate.at["gpus"], rate.at["batch"], rate.at["micro_batch"]) == (2, 2, 1)
    assert rate.samples == pytest.approx([2 * 24 / seconds for seconds in time.samples])
    assert run.manifest.run_id != describe(micro_run(folder, "train_speed")).run_id  # another number of GPUs is another run


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("full", "oom", "error: rank 1 of 2: MemoryError: no more of it"),
        ("killed", "running", "error: another process ended, or cannot be reached"),
    ],
)
def test_what_happens_to_one_ends_both_and_is_said(how: str, status: str, said: str, folder: Path) -> None:
    assert said in (folder / f"{how}-0.err").read_text()
    assert [(folder / f"{how}-{rank}.code").read_text() for rank in "01"] == ["1", "-9" if how == "killed" else "1"]
    (left,) = read_runs([folder / how / "runs"])
    assert left.manifest.status == status
    assert any(row.metric == "failure" for row in left.rows) == (status == "oom")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 3, 7, 8])
@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_every_sequence_counts_once_and_all_have_as_many_parts(
    size: int, rows: int, micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, weight, counts = torch.arange(rows)[:, None], torch.zeros(rows), set()
    monkeypatch.setattr(distributed, "size", lambda: size)
    for rank in range(size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        mine = share(rows)
        made = list(parts(batch[mine.start : mine.stop], micro_batch, rows))
        counts.add(len(made))
        assert all(len(part) <= (micro_batch or rows) for part, _ in made)
        for part, share_of_it in made:  # the mean over processes of weighted means over a part
            weight.index_add_(0, part[:, 0], torch.full((len(part),), share_of_it / len(part) / size))
    assert len(counts) == 1
    torch.testing.assert_close(weight, torch.full((rows,), 1 / rows))


def test_a_process_without_a_gpu_says_how_many_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(NoDevice, match=r"process 2 of this host finds 2 GPUs; .*--nproc-per-node=2"):
        distributed._take_gpu(2)


def test_a_batch_that_does_not_divide_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    check_shares(7)
    monkeypatch.setattr(distributed, "size", lambda: 4)
    check_shares(8)
    with pytest.raises(Uneven, match=r"6 sequences cannot be shared evenly by 4 .*start 1, 2, 3, 6 of them, or .*batch_tokens"):
        check_shares(6)
