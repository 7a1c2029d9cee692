"""Progress: what is known, and the two ways to show it: bars on a terminal, which Ctrl-C leaves clean, lines in a log file."""

import fcntl
import math
import os
import pickle
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.config import RunConfig
from bench.progress import Board, Job, Message, standing, when
from bench.results import ROOT
from bench.tests.micro import micro_run

# The pool of a tier, with cells that say something of their own.
TIER = """
import pickle, sys
from pathlib import Path
from bench.reproduce import run_tier, survey
from bench.tier import Tier

if __name__ == "__main__":
    try:
        failures = run_tier(survey(Tier("micro", (), pickle.loads(Path(sys.argv[1]).read_bytes()))), 2)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    sys.exit(len(failures))
"""
# A terminal that is the session's own, so that Ctrl-C reaches whatever runs there, also where the tests run in the background.
SESSION = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
SHOWN, HIDDEN = "\x1b[?25h", "\x1b[?25l"  # the cursor


def test_a_board_tells_how_far_all_is_and_what_is_left() -> None:
    board = Board([Job("a", 40), Job("b", 60), Job("timed", 10, alone=True)], workers=2, before=2)
    assert (board.count, board.seconds_left(0), board.fraction) == ("2/5", 60 + 10, 2 / 5)
    board.hear(Message(0), 100)
    board.hear(Message(1, 0.5, "loss 2.5"), 110)
    assert board.running == [0, 1]
    assert standing(board, 1) == "b 50%, loss 2.5"
    board.hear(Message(0, 1.0, status="done"), 120)
    assert (board.count, board.running, board.fraction) == ("3/5", [1], 3.5 / 5)
    assert board.ended == {0: 20}  # half of what was expected
    assert board.seconds_left(120) == 10 + 10 / 2  # b as fast as it went, the other as the forecasts were off
    board.hear(Message(1, said="a warning"), 125)
    assert board.latest[1].fraction == 0.5


def test_where_no_forecast_is_known_what_is_done_tells_what_is_left() -> None:
    board = Board([Job("a")])
    board.hear(Message(0), 0)
    board.hear(Message(0, 0.01), 1)
    assert math.isinf(board.seconds_left(1)) and when(board.seconds_left(1), 0) == ""
    board.hear(Message(0, 0.25), 10)
    assert board.seconds_left(10) == 30
    board.hear(Message(0, 0.0, "its own work, after the training"), 50)
    board.hear(Message(0, 0.5), 60)
    assert board.seconds_left(60) == 10
    assert re.fullmatch(r"left 1\.5 min, ends \d\d:\d\d", when(90, time.time()))


def pickled(folder: Path, runs: Sequence[RunConfig]) -> str:
    path = folder / "runs.pickle"
    path.write_bytes(pickle.dumps(tuple(runs)))
    return str(path)


def on_a_terminal(command: Sequence[str], enough: Callable[[str], bool]) -> tuple[int, str]:
    """Exit status and drawing of a command on a terminal of 100 columns; Ctrl-C is pressed where there is ``enough``."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
    words = [sys.executable, "-c", SESSION, sys.executable, *command]
    with subprocess.Popen(words, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_NONBLOCK)
        drawn, is_pressed, until = "", False, time.monotonic() + 120
        while time.monotonic() < until:
            try:
                ready = select.select([ours], [], [], 0.5)[0]
                part = os.read(ours, 1 << 16).decode(errors="replace") if ready else None
            except OSError:  # the other end is closed
                break
            drawn += part or ""
            if part == "":
                break
            if not is_pressed and enough(drawn):
                is_pressed = True
                os.write(ours, b"\x03")
        process.kill()
    os.close(ours)
    return process.returncode, drawn


def plain(drawn: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


def test_a_terminal_shows_bars_and_what_ended_above_them(tmp_path: Path) -> None:
    runs = [micro_run(tmp_path, "state_vs_context"), micro_run(tmp_path, "train", "data.path=/nowhere")]
    status, drawn = on_a_terminal(["-c", TIER, pickled(tmp_path, runs)], lambda _: False)
    assert status == 1, drawn
    text = plain(drawn)
    assert "2 cells, 0 done before, 2 to do" in text
    assert re.search(r"done +state_vs_context ttt_linear tiny tiny_1 s0, \d+ s", text)
    assert re.search(r"failed +train ttt_linear tiny tiny_1 s0, \d+ s \(DataError: there is no corpus '/nowhere'", text)
    assert re.search(r"[01]/2 .*━.* \d+%", text)
    assert drawn.count(HIDDEN) == 1 and drawn.rindex(SHOWN) > drawn.rindex(HIDDEN)
    assert "\x1b[2K" in drawn[drawn.rindex("━") :]  # the bars are wiped away


@pytest.mark.parametrize("kind", ["a run", "a tier"])
def test_ctrl_c_leaves_a_clean_terminal(kind: str, tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "budget.flops=1e11")
    words = [
        "experiment=train",
        "size=tiny",
        "optim=tiny",
        "budget=tiny_1",
        "budget.flops=1e12",
        "data.max_epochs=inf",
        f"results={tmp_path / 'runs'}",
    ]
    command = ["-m", "bench", *words] if kind == "a run" else ["-c", TIER, pickled(tmp_path, [run])]
    status, drawn = on_a_terminal(command, lambda text: "loss" in text)
    assert status == (130 if kind == "a run" else 1), plain(drawn)
    assert re.search(r"train ttt_linear tiny tiny_1 s0 .*━.* \d+% loss \d", plain(drawn))
    assert "interrupted" in plain(drawn)
    assert "Traceback" not in plain(drawn)
    assert drawn.rindex(SHOWN) > drawn.rindex(HIDDEN)


def test_a_log_file_gets_lines(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train")
    ended = subprocess.run(
        [sys.executable, "-c", TIER, pickled(tmp_path, [run])], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    first, *between, last = ended.stdout.splitlines()
    assert first == "1 cells, 0 done before, 1 to do"
    assert re.fullmatch(r"\[ +1/1\] done +train ttt_linear tiny tiny_1 s0, \d+ s \| left 0\.0 min, ends \d\d:\d\d", last)
    assert all(re.match(r"\[ +0/1\] running +train ttt_linear tiny tiny_1 s0 \d+%", line) for line in between)
    assert "\x1b" not in ended.stdout + ended.stderr


def test_what_a_worker_writes_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = micro_run(tmp_path, "state_vs_context", "tracking=wandb", f"tracking.dir={tmp_path / 'file' / 'x'}")
    command = [sys.executable, "-c", TIER, pickled(tmp_path, [run])]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.fullmatch(r"state_vs_context ttt_linear tiny tiny_1 s0: note: W&B failed: .*Not a directory.*\n", ended.stderr)
    assert "1/1] done" in ended.stdout
