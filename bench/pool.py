"""Worker processes for a tier: each runs one cell at a time, a death is noticed, timing cells run alone.

Workers end with their parent, kill -9 of it included, so that a restart finds no cell held.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from bench.config import RunConfig
from bench.progress import Message

PROGRESS_EVERY_S = 0.5
LEAVE_S = 5.0
GOOD = ("done",)
LEFT = ("partial", "left")


@dataclass
class _Worker:
    """A process; ``words``: what it writes to standard output and standard error; card: the GPU that it sees, "" for all."""

    process: BaseProcess
    pipe: Connection
    words: Connection
    card: str = ""
    cell: int | None = None


@dataclass
class Pool:
    """Runs ``cells`` in their order on ``workers`` processes.

    ``needs[i]`` is the cell that must be done before cell i begins; where it fails, cell i ends as "blocked". max_minutes is
    for all together: cells that it leaves no time end as "left". Where cells want a GPU, each worker has one, by turns.
    """

    cells: Sequence[RunConfig]
    needs: Sequence[int | None]
    workers: int

    def run(self) -> Iterator[Message]:
        """What happens, as it happens, until every cell has ended."""
        self._waiting, self._ended = list(range(len(self.cells))), dict[int, str]()
        self._began = time.monotonic()
        self._crew: list[_Worker] = []
        try:
            while len(self._ended) < len(self.cells):
                for message in self._begin():
                    yield self._noted(message)
                busy = [worker for worker in self._crew if worker.cell is not None]
                ends = [end for worker in busy for end in (worker.pipe, worker.words)]
                ready = wait(ends) if busy else ()  # none would be waited for for ever
                for worker in busy:
                    yield from _said(worker)
                    if worker.pipe in ready:
                        yield self._noted(self._receive(worker))
        finally:
            _end(self._crew)

    def _noted(self, message: Message) -> Message:
        if message.status:
            self._ended[message.job] = message.status
        return message

    def _begin(self) -> list[Message]:
        """Gives work to idle workers; also returns the cells that never can begin."""
        left = [c for c in self._waiting if self._minutes(c) <= 0 or self._ended.get(self._need(c)) in LEFT]
        self._waiting = [c for c in self._waiting if c not in left]
        blocked = [c for c in self._waiting if self._ended.get(self._need(c), "done") not in GOOD]
        self._waiting = [c for c in self._waiting if c not in blocked]
        begun = [Message(c, status="left", cause="max_minutes are over") for c in left]
        while (cell := self._next()) is not None:
            worker = self._idle()
            self._waiting.remove(cell)
            worker.cell = cell
            minutes = self._minutes(cell)
            worker.pipe.send((cell, replace(self.cells[cell], max_minutes=minutes if minutes < math.inf else None)))
            begun.append(Message(cell))
        return begun + [Message(c, status="blocked", cause="its training did not succeed") for c in blocked]

    def _minutes(self, cell: int) -> float:
        """That the cell may take if it begins now."""
        limit = self.cells[cell].max_minutes
        return math.inf if limit is None else limit - (time.monotonic() - self._began) / 60

    def _need(self, cell: int) -> int:
        need = self.needs[cell]
        return -1 if need is None else need

    def _next(self) -> int | None:
        at_work = [worker.cell for worker in self._crew if worker.cell is not None]
        if len(at_work) >= self.workers or any(self.cells[c].experiment.timing for c in at_work):
            return None
        ready = [c for c in self._waiting if self._need(c) == -1 or self._need(c) in self._ended]
        quick = [c for c in ready if not self.cells[c].experiment.timing]
        if quick:
            return quick[0]
        alone = not at_work and len(ready) == len(self._waiting)
        return ready[0] if ready and alone else None

    def _idle(self) -> _Worker:
        idle = [worker for worker in self._crew if worker.cell is None and worker.process.is_alive()]
        return idle[0] if idle else self._hire()

    def _hire(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        if multiprocessing.get_start_method() == "loky":  # joblib's, of which a new process knows nothing
            multiprocessing.set_start_method("spawn", force=True)
        (ours, theirs), (words, spoken) = context.Pipe(), context.Pipe(duplex=False)
        card = self._card()
        process = context.Process(target=_work, args=(theirs, spoken, card), daemon=True)
        process.start()
        theirs.close()
        spoken.close()
        worker = _Worker(process, ours, words, card)
        self._crew.append(worker)
        return worker

    def _card(self) -> str:
        """The GPU that fewest workers have."""
        cards = _cards() if any(cell.device.type == "cuda" for cell in self.cells) else [""]
        return min(cards, key=[worker.card for worker in self._crew].count)

    def _receive(self, worker: _Worker) -> Message:
        assert worker.cell is not None
        cell = worker.cell
        try:
            message: Message = worker.pipe.recv()
        except (EOFError, OSError):  # between messages, or within one
            worker.process.join()
            self._crew.remove(worker)
            cause = f"its process ended with exit code {worker.process.exitcode} (-9: killed, by hand or for memory)"
            return Message(cell, status="killed", cause=cause)
        if message.status:
            worker.cell = None
        return message


def _end(crew: Sequence[_Worker]) -> None:
    """Workers without a cell leave by themselves, and clean up; the others, and those that take long, are killed."""
    idle = [worker for worker in crew if worker.cell is None]
    for worker in idle:
        with suppress(OSError):  # it died
            worker.pipe.send(None)
    until = time.monotonic() + LEAVE_S
    for worker in idle:
        worker.process.join(max(0.0, until - time.monotonic()))
    for worker in crew:
        worker.process.kill()
        worker.process.join()


def _cards() -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them; none: [""]."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [str(n) for n in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    return named or [""]


def _said(worker: _Worker) -> Iterator[Message]:
    """Lines that a worker wrote since."""
    assert worker.cell is not None
    while worker.words.poll() and (text := os.read(worker.words.fileno(), 1 << 16)):
        for line in text.decode(errors="replace").splitlines():
            yield Message(worker.cell, said=line)


def _work(pipe: Connection, words: Connection, card: str) -> None:
    """A worker's life: cells come through the pipe, messages go back; its standard output and standard error are ``words``."""
    if card:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # Ctrl-C, Slurm's: for the parent, which ends its workers
        signal.signal(number, signal.SIG_IGN)
    for stream in (1, 2):
        os.dup2(words.fileno(), stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from bench.run import execute, status_of  # torch: imported once a worker

    while (given := pipe.recv()) is not None:
        cell, run = given
        told = 0.0

        def progress(fraction: float, note: str = "", cell: int = cell) -> None:
            nonlocal told
            if time.monotonic() - told > PROGRESS_EVERY_S:
                told = time.monotonic()
                _tell(pipe, Message(cell, fraction, note))

        try:
            manifest = execute(run, progress).manifest
            _tell(pipe, Message(cell, 1.0, status=manifest.status, cause=manifest.cause))
        except Exception as error:  # noqa: BLE001  whatever it was, its status is recorded and the other cells go on
            _tell(pipe, Message(cell, status=status_of(error), cause=f"{type(error).__name__}: {error}"))


def _tell(pipe: Connection, message: Message) -> None:
    try:
        pipe.send(message)
    except OSError:  # the parent is gone: an end like a kill, not a failure of the run
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
