"""Shows a board of runs at work: bars that move on a terminal, lines in a log file. Both say the same."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
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
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Bars(board, live).show


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

    def __init__(self, board: Board, live: Live) -> None:
        self.board, self.live, self.drawn = board, live, -math.inf

    def show(self, message: Message) -> None:
        """Notes it; draws what changed, twice a second at most."""
        board, now = self.board, time.monotonic()
        board.hear(message, now)
        if message.said:
            self._print(f"{board.jobs[message.job].label}: {message.said}")
        elif message.status:
            self._print(ending(board, message))
        if message.said or message.status or now - self.drawn > self.every_s:
            self.drawn = now
            self.live.update(bars(board, when(board.seconds_left(now), time.time())), refresh=True)

    def _print(self, text: str) -> None:
        self.live.console.print(Text(text), soft_wrap=True)


def bars(board: Board, left: str) -> Table:
    """Label, bar, share and note of each job that runs; of all, where they are more than one, what is ``left``."""
    table = Table.grid(padding=(0, 1))
    for overflow in ("ellipsis", "fold", "fold", "ellipsis"):
        table.add_column(no_wrap=True, overflow=overflow)
    one = len(board.jobs) == 1 and not board.before
    for job in board.running:
        known = board.latest[job]
        note = ", ".join(word for word in (known.note, left * one) if word)
        table.add_row(Text(board.jobs[job].label), _bar(known.fraction), f"{known.fraction:.0%}", Text(note))
    if not one:
        table.add_row(board.count, _bar(board.fraction), f"{board.fraction:.0%}", left)
    return table


def _bar(fraction: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=fraction, width=20)
