"""Where a training goes on: bit for bit, whatever moment it was killed at; what is damaged or another's is refused."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.checkpoints import INDEX, CorruptCheckpoint, _digest
from bench.config import TrainConfig
from bench.results import ROOT
from bench.tests.test_train import last, new_lm, optim, periodic, same, steps_of
from bench.train import Curve, train
from models.lm import LM

INTACT = TrainConfig(resume="last_intact")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trained(folder: Path, steps: int = 4, how: TrainConfig | None = None, of: str = "this") -> tuple[LM, Curve]:
    """A training whose every step leaves a checkpoint; it is planned for 4 steps and ends, as if killed, after ``steps``."""
    lm = new_lm("transformer")

    def stop(done: float, log: object) -> None:
        if done > steps / 4:
            raise KeyboardInterrupt

    try:
        curve = train(lm, steps_of(4), periodic(), optim(), folder, how=how, of=of, save_every_s=0, progress=stop).curve
    except KeyboardInterrupt:
        curve = []
    return lm, curve


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_so_many_are_kept(keep: int, tmp_path: Path) -> None:
    trained(tmp_path, how=TrainConfig(keep=keep))
    assert names(tmp_path) == [f"step-00000000{n}" for n in range(5 - keep, 5)]
    assert last(tmp_path)["step"] == 4


@pytest.mark.parametrize("damage", ["truncated", "flipped", "lost", "index", "about"])
def test_a_damaged_one_is_refused_and_the_one_before_it_read_only_if_asked_for(damage: str, tmp_path: Path) -> None:
    whole, curve = trained(tmp_path / "whole")
    folder = tmp_path / "checkpoints"
    trained(folder, steps=3)
    data = folder / "step-000000003" / {"index": INDEX, "about": "about.json"}.get(damage, "__0_0.distcp")
    content = data.read_bytes()
    if damage == "lost":
        data.unlink()
    elif damage == "flipped":
        data.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    else:
        data.write_bytes(content[:-7])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(CorruptCheckpoint, match=r"step-000000003 .*train\.resume=last_intact .*delete the folder .*anew"):
            trained(folder)
    assert {path: path.read_bytes() for path in before} == before
    lm, again = trained(folder, how=INTACT)
    assert again == curve and same(lm, whole)
    assert "refused-step-000000003" in names(folder)
    assert trained(folder)[1] == curve  # what was refused is out of the way


def test_where_none_is_intact_training_does_not_begin_anew_by_itself(tmp_path: Path) -> None:
    trained(tmp_path, steps=2)
    for path in tmp_path.glob("*/about.json"):
        path.write_text("{}")
    left = names(tmp_path)
    for _ in range(2):
        with pytest.raises(CorruptCheckpoint, match=r"no checkpoint in .* is intact; delete that folder"):
            trained(tmp_path, how=INTACT)
    assert names(tmp_path) == left


def test_another_trainings_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, steps=2)
    with pytest.raises(CorruptCheckpoint, match=r"is another training's \(this, not that\); train\.resume=last_intact"):
        trained(tmp_path, of="that")
    trained(tmp_path, steps=3)
    about = tmp_path / "step-000000003" / "about.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"version": 0}))
    with pytest.raises(CorruptCheckpoint, match="is of format"):
        trained(tmp_path)


def test_an_interruption_while_one_is_written_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: BaseException) -> Callable[..., None]:
        def save(*_: object) -> None:
            raise error

        return save

    curve = trained(tmp_path / "whole")[1]
    trained(tmp_path / "cut", steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fails(OSError("disk full")))
        with pytest.raises(RuntimeError, match="disk full"):
            trained(tmp_path / "cut")
        patch.setattr(torch, "save", fails(KeyboardInterrupt()))
        assert trained(tmp_path / "cut")[1] == []  # it ends as if killed
    assert trained(tmp_path / "cut")[1] == curve


def test_an_index_never_runs_code(tmp_path: Path) -> None:
    trained(tmp_path, steps=1)
    path = tmp_path / "step-000000001"
    (path / INDEX).write_bytes(pickle.dumps(print))
    about = json.loads((path / "about.json").read_text())
    about["files"][INDEX] = _digest(path / INDEX)
    (path / "about.json").write_text(json.dumps(about))
    with pytest.raises(CorruptCheckpoint, match=r"(?s)cannot be read .*builtins\.print, code that would run"):
        trained(tmp_path)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path

import torch

from bench.tests.test_checkpoints import names, trained
from bench.tests.test_train import same

torch.set_num_threads(1)
folder = Path(sys.argv[1])
whole, curve = trained(folder / "whole")
touched = 0


def count(event, args):  # all that this process does to its files, but for what it writes into them
    global touched
    if event in ("open", "os.mkdir", "os.rename", "shutil.rmtree") and str(folder) in str(args[0]):
        touched += 1
        if touched == limit:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(at, steps):  # whether it was; else how much it did
    global limit
    child = os.fork()
    if child == 0:
        limit = at
        sys.addaudithook(count)
        trained(folder / "killed", steps)
        (folder / "touched").write_text(str(touched))
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def done(steps):
    assert not killed(0, steps)
    shutil.rmtree(folder / "killed")
    return int((folder / "touched").read_text())


first, last = done(2), done(3)
left = []
for at in range(first, last + 1):
    assert killed(at, 3) or at == last
    left.append(names(folder / "killed"))
    lm, again = trained(folder / "killed")
    assert again == curve and same(lm, whole), at
    shutil.rmtree(folder / "killed")
print(sorted(set(map(tuple, left))))
"""


def test_killed_at_any_moment_of_writing_it_goes_on_to_the_same_bit(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    one, two, three = (f"step-00000000{n}" for n in (1, 2, 3))
    assert str((f".{three}.tmp", one, two)) in ended.stdout  # it was killed while it wrote,
    assert str((one, two, three)) in ended.stdout  # before what was too old went,
    assert str((f".{one}.old", two, three)) in ended.stdout  # and while it did
