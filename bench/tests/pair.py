"""What one of two processes does for test_distributed.py: ``python -m bench.tests.pair FOLDER PORT PORT``, as of torchrun.

Failures come first, each in a process that is forked for it and meets the other's at one of the ports.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import bench.train
from bench import distributed
from bench.budget import Plan, plan
from bench.config import TrainConfig
from bench.run import execute
from bench.sharding import sharded, whole_state
from bench.tests.micro import micro_run, micro_words
from bench.tests.test_train import CONTEXT, ROWS, new_lm, optim, periodic, stop_at
from bench.train import Curve, save, train
from models.lm import LM

FAILURES = ("full", "killed")
MODELS = ("ttt_linear", "mamba")
STEPS, STOP = 4, 2
Seen = list[tuple[str, ...]]


def uneven() -> Plan:
    """The last batch has 3 sequences, so that two processes of one at a time have two parts, one of them of none."""
    return plan(
        lambda n: n, target_flops=ROWS * CONTEXT * (STEPS - 1 + 0.3), tokens=None, batch_tokens=ROWS * CONTEXT, context=CONTEXT
    )


def train_model(lm: LM, checkpoints: Path, stop: int | None = None) -> Curve | None:
    """A training that goes on where one in ``checkpoints`` ended; with ``stop`` it saves every step and ends after that one."""
    how = TrainConfig(micro_batch=1, checkpoint="block")
    options: dict[str, Any] = {} if stop is None else {"save_every_s": 0, "progress": stop_at((stop + 1) / STEPS)}
    try:
        return train(lm, uneven(), periodic(), optim(), checkpoints, how=how, **options).curve
    except KeyboardInterrupt:
        return None


class Record(TorchDispatchMode):
    """The dtypes of the tensors that each operation is given; not of casts, nor of what a tensor only says the kind of."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if not any(word in name for word in ("_to_copy", "detach", "alias", "new_zeros")):
            self.seen.append((name, *(str(x.dtype) for x in args if isinstance(x, Tensor))))
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded(lm: LM) -> Iterator[Seen]:
    """What the mixers' own operations see forward, below whatever surrounds their blocks."""
    seen: Seen = []

    def within(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            with Record(seen):
                return forward(x)

        return run

    for mixer in lm.mixers:
        mixer.forward = within(mixer.forward)  # type: ignore[method-assign, assignment]
    yield seen


def dtypes(name: str) -> dict[str, Any]:
    """Of bfloat16 with FSDP and without: what operations see, and of what is trained weights and gradients."""
    found: dict[str, Any] = {}
    tokens = torch.arange(2 * 9).view(2, 9) % 16
    for key, spread in (("plain", lambda lm: lm), ("sharded", sharded)):
        lm = spread(new_lm(name).train_in(torch.bfloat16))
        with recorded(lm) as seen:
            lm.nll(tokens[:, :-1], tokens[:, 1:]).mean().backward()
        found[key] = seen
        found[f"{key} parameters"] = sorted({f"{p.dtype} {p.grad.dtype}" for p in lm.parameters() if p.grad is not None})
    return found


def failed(how: str, folder: Path, port: str) -> int:
    """The exit code of ``python -m bench`` with rank 1 out of memory or killed at its fourth step; a file has what it said."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    update, calls, rank = bench.train.update, [0], os.environ["RANK"]

    def fail(*arguments: Any, **options: Any) -> float:
        calls[0] += 1
        if rank == "1" and calls[0] == 4:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("no more of it")
        return update(*arguments, **options)

    bench.train.update = fail
    os.environ["MASTER_PORT"] = port
    os.dup2(os.open(folder / f"{how}-{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = ["bench", *micro_words(folder / how, "train")]
    runpy.run_module("bench", run_name="__main__", alter_sys=True)
    sys.exit(0)


def main(folder: Path) -> None:
    """Everything, and what the first process found of it in FOLDER/found.pt."""
    found: dict[str, Any] = {}
    for name in MODELS:
        lm = sharded(new_lm(name).train_in(torch.float32, recompute=True))
        curve = train_model(lm, folder / "none")
        found[name] = {"curve": curve, "weights": whole_state(lm), "dtypes": dtypes(name)}
        train_model(sharded(new_lm(name)), folder / f"{name}-two", stop=STOP)
        found[name]["on"] = train_model(sharded(new_lm(name, seed=1)), folder / f"{name}-one")
    run = micro_run(folder, "train")
    for one in (run, micro_run(folder, "train_speed")):
        execute(one)
    found["again"] = execute(run).is_new
    if distributed.is_first():
        save(found, folder / "found.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    at, *ports = sys.argv[1:]
    for how, port in zip(FAILURES, ports, strict=True):
        code = failed(how, Path(at), port)
        Path(at, f"{how}-{os.environ['RANK']}.code").write_text(str(code))
    with distributed.joined("cpu"):
        main(Path(at))
