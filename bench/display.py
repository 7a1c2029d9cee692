"""Shows a board of runs at work: bars that move on a terminal, lines in a log file. Both say the same."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from bench.progress import Board, Message, ending, standing, when

Show = Callable[[Message], None]


@contextmanager
def shown(board: Board) -> Iterator[Show]:
    """What notes a message on the board and shows it, on standard output.

    It draws only when it is called: where a run is timed in this process, nothing else moves.
    """
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(board).show
        return
    with Bars(board, console) as bars:
        yield bars.show


class Lines:
    """A line where a job ends, and every ten seconds one on those that run."""

    every_s = 10.0

    def __init__(self, board: Board) -> None:
        self.board, self.told = board, time.monotonic()

    def show(self, message: Message) -> None:
        """Notes it; prints what is due."""
        board, now = self.board, time.monotonic()
        board.hear(message, now)
        if message.said:
            print(f"{board.jobs[message.job].label}: {message.said}", file=sys.stderr, flush=True)
        elif message.status:
            self._say(ending(board, message), now)
        elif now - self.told > self.every_s:
            self._say("running  " + "; ".join(standing(board, job) for job in board.running), now)

    def _say(self, text: str, now: float) -> None:
        self.told = now
        left = when(self.board.seconds_left(now), time.time())
        print(f"[{self.board.count:>7}] {text}{' | ' * bool(left)}{left}", flush=True)


class Bars:
    """A bar for each job that runs and one for all; what ended, and what a job says, stands above them."""

    every_s = 0.5

    def __init__(self, board: Board, console: Console) -> None:
        self.board, self.drawn = board, 0.0
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self.tasks: dict[int, TaskID] = {}
        self.all = self.progress.add_task("", total=1.0, note="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, message: Message) -> None:
        """Notes it; draws what changed, twice a second at most."""
        board, now = self.board, time.monotonic()
        board.hear(message, now)
        if message.said:
            self._print(f"{board.jobs[message.job].label}: {message.said}")
        elif message.status:
            self._print(ending(board, message))
            if message.job in self.tasks:
                self.progress.remove_task(self.tasks.pop(message.job))
        if message.status or message.said or now - self.drawn > self.every_s:
            self.drawn = now
            self._draw(now)

    def _print(self, text: str) -> None:
        self.progress.console.print(Text(text), soft_wrap=True)

    def _draw(self, now: float) -> None:
        board = self.board
        for job in board.running:
            known = board.latest[job]
            if job not in self.tasks:
                self.tasks[job] = self.progress.add_task(board.jobs[job].label, total=1.0)
            self.progress.update(self.tasks[job], completed=known.fraction, note=known.note)
        left = when(board.seconds_left(now), time.time())
        self.progress.update(self.all, description=board.count, completed=board.fraction, note=left)
        self.progress.refresh()
