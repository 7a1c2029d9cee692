"""The processes that train one model, one a GPU, as torchrun starts them; of a single process nothing here asks anything.

    torchrun --nproc-per-node=2 -m bench experiment=train …

All run the same code and meet in the same collectives in the same order. The first alone writes; what it alone can know, it
tells the others (``told``). NCCL between GPUs, gloo between CPUs and for what is told.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from bench.hardware import NoDevice
from bench.results import Follower, Recorder

T = TypeVar("T")

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
# How often one process looks what another says; how long a failed one waits until the first has recorded that, and then until
# it has said so: torchrun ends all others as soon as one has ended.
LOOK_EVERY_S, HEARD_WITHIN_S, SAID_WITHIN_S = 0.3, 15.0, 2.0


class Uneven(ValueError):
    """A batch that the processes cannot share."""


class LostProcess(RuntimeError):
    """Another process of the training ended, or cannot be reached; the run is left to go on from its last checkpoint."""


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started, and takes the GPU of this one's LOCAL_RANK, while the block runs.

    Raises:
        NoDevice: this host has fewer GPUs than processes.
        LostProcess: the block failed because another process ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device == "cuda":
        _take_gpu(int(os.environ["LOCAL_RANK"]))
    base, number, count = _rendezvous()
    base.add(f"joined {number}", 1)
    dist.init_process_group(BACKENDS[device], store=PrefixStore("groups", _store()), rank=number, world_size=count)
    try:
        yield
    except Exception as error:
        _part(number)
        if is_loss(error):
            raise LostProcess(f"another process ended, or cannot be reached ({error}); the same command goes on") from error
        raise
    dist.destroy_process_group()  # after an error others may still wait in it


def _part(number: int) -> None:
    """After an error: the first process says so to the others, which wait for that."""
    with suppress(dist.DistError):  # the first has ended before
        if number == 0:
            _store().set("heard", "")
        else:
            _await("heard", HEARD_WITHIN_S)
            time.sleep(SAID_WITHIN_S)


def _take_gpu(local: int) -> None:
    found = torch.cuda.device_count()
    if local >= found:
        raise NoDevice(f"process {local} of this host finds {found} GPUs; start one process a GPU: --nproc-per-node={found}")
    torch.cuda.set_device(local)


@cache
def _rendezvous() -> tuple[Store, int, int]:
    """What torchrun's environment says: where processes leave words for each other, this one's number, how many there are."""
    return next(rendezvous("env://"))


def _store() -> Store:
    """Words of this job, of the several that one process may run after another."""
    base, number, _ = _rendezvous()
    return PrefixStore(f"job {base.add(f'joined {number}', 0)}", base)


def told(make: Callable[[], T]) -> T:
    """What ``make`` gives in the first process, in all of them; an error there is raised in all."""
    if size() == 1:
        return make()
    said: list[Any] = [None, None]
    if is_first():
        try:
            said[0] = make()
        except Exception as error:  # noqa: BLE001  raised below, in every process
            said[1] = error
    dist.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise said[1]
    return said[0]


def gathered(value: T) -> list[T]:
    """The value of each process, in their order, in all of them."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes, which all have as the same bits; in place."""
    if size() > 1:
        dist.all_reduce(value)
        value /= size()
    return value


def check_shares(rows: int) -> None:
    """Raises Uneven where the processes cannot have equal shares of a batch of ``rows`` sequences."""
    if rows % size():
        possible = ", ".join(str(n) for n in range(1, rows + 1) if rows % n == 0)
        raise Uneven(
            f"a batch of {rows} sequences cannot be shared evenly by {size()} processes, and it is the same whatever their "
            f"number; start {possible} of them, or change optim.batch_tokens (of train_speed: experiment.measure.batch)"
        )


def share(rows: int) -> range:
    """Which of the ``rows`` sequences of a batch this process takes; one at least, which ``parts`` may give no weight."""
    each = -(-rows // size())
    first = min(rank() * each, rows - 1)
    return range(first, max(first + 1, min((rank() + 1) * each, rows)))


def parts(tokens: Int[Tensor, "B T"], micro_batch: int, rows: int) -> Iterator[tuple[Int[Tensor, "b T"], float]]:
    """The share of this process in a batch of ``rows`` sequences, ``micro_batch`` at a time (0: all), each with its weight.

    Weights are such that the mean over processes of the sum of weighted means is the mean over the batch. All processes
    have as many parts, since all meet in each: where one has no sequence left, a part of weight 0.
    """
    each = -(-rows // size())
    mine = max(0, min(each, rows - rank() * each))
    at_once = micro_batch or each
    for first in range(0, each, at_once):
        part = tokens[first : min(first + at_once, mine)]
        yield (part, len(part) * size() / rows) if first < mine else (tokens[:1], 0.0)


@contextmanager
def shared(opened: AbstractContextManager[Recorder]) -> Iterator[Recorder]:
    """The recorder that the first process opens, and for the others one that writes nothing.

    These leave the block when the first has left it.
    """
    with ExitStack() as stack:
        recorder = told(lambda: stack.enter_context(opened))
        ended = told(lambda: f"ended {_store().add('opened', 1)}") if size() > 1 else ""
        yield recorder if is_first() else Follower(recorder.folder, recorder.manifest, recorder.rows)
    if size() > 1 and is_first():
        _store().set(ended, "")
    elif size() > 1:
        _await(ended)


def _await(word: str, limit_s: float = float("inf")) -> None:
    """Waits until some process says ``word``: by looking, as the first may need longer than any collective waits."""
    start = time.monotonic()
    while time.monotonic() - start < limit_s and not _store().check([word]):
        time.sleep(LOOK_EVERY_S)


@contextmanager
def watched(record: Callable[[str, str], None]) -> Iterator[None]:
    """While the block runs in the first process, what another one reports ends it: after ``record``(status, cause)."""
    if size() == 1 or not is_first():
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over, record), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(over: threading.Event, record: Callable[[str, str], None]) -> None:
    store = _store()
    while not over.wait(LOOK_EVERY_S):
        if not store.check(["failure"]) or over.wait(SAID_WITHIN_S):  # its own error, of the same cause, says more
            continue
        status, cause = json.loads(store.get("failure"))
        record(status, cause)
        print(f"error: {cause}", file=sys.stderr, flush=True)
        store.set("heard", "")
        os._exit(1)  # the block waits for a process that will not come


def report(status: str, cause: str) -> None:
    """Tells the first process that this one failed."""
    with suppress(dist.DistError):  # the first has ended before
        _store().set("failure", json.dumps([status, f"rank {rank()} of {size()}: {cause}"]))


def is_loss(error: Exception) -> bool:
    """Whether an error says only that another process is gone; gloo's is a plain RuntimeError."""
    return size() > 1 and (isinstance(error, dist.DistError) or "/gloo/" in str(error))
