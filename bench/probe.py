"""``python -m bench.probe devices|cpu|cuda [SKIP]``: what the doctor asks a process of its own, a JSON line for each answer.

``devices``: which there are. ``cpu``, ``cuda``: every implementation of every operation, on a small case, against its
reference in float64 (kernels/check.py). A line ``{"begun": NAME}`` stands before each answer: what a crash leaves open.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

from bench.doctor import Finding

NO_CUDA = "use device=cpu, or run it where there is an NVIDIA GPU and a CUDA build of torch (make setup TORCH_INDEX=…)"


def devices() -> Iterator[tuple[str, Callable[[], Finding]]]:
    """The CPU, and CUDA's first GPU."""
    yield "cpu", lambda: Finding("devices", "cpu", "ok", f"{platform.machine()}, {os.cpu_count()} cores")
    yield "cuda", _cuda


def _cuda() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("devices", "cuda", "absent", f"torch {torch.__version__} sees none", NO_CUDA)
    about = torch.cuda.get_device_properties(0)
    product = torch.ones(256, 256, device="cuda", dtype=torch.bfloat16)
    status = "ok" if bool((product @ product == 256).all()) else "broken"
    detail = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}, CUDA {torch.version.cuda}"
    return Finding("devices", "cuda", status, detail)


def kernels(device: str) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Every implementation; on a CPU those of Triton are interpreted, forward and step."""
    from kernels.op import all_ops

    for op in all_ops():
        for impl in op.impls:
            name = f"{op.name} {impl} {device}"
            yield name, partial(_tried, name, op.name, impl, device)


def _tried(name: str, op_name: str, impl: str, device: str) -> Finding:
    import torch

    from kernels.check import Broken, CheckFailed, Trial
    from kernels.op import Case, MissingImplementation, Pass, all_ops

    op = next(one for one in all_ops() if one.name == op_name)
    on_gpu, passes = device == "cuda", list[Pass](["fwd", "fwd_bwd", "step"])
    if not on_gpu and impl != "reference":
        passes.remove("fwd_bwd")
    case = Case(2, 100, 2, 64, dtype=torch.bfloat16) if on_gpu else Case(1, 18, 1, 16)
    try:
        op.load(impl)
        trial, worst = Trial(op, case, torch.device(device)), 0.0
        for mode in [mode for mode in passes if op.runs(impl, mode)]:
            verdict = trial.check(impl, mode)
            if not verdict.ok:
                return Finding("kernels", name, "broken", f"{mode}: {verdict}")
            worst = max(worst, *(error.value for error in verdict.errors))
    except MissingImplementation as error:
        return Finding("kernels", name, "absent" if not on_gpu else "missing", str(error.__cause__), op.impls[impl].cure)
    except (Broken, CheckFailed) as error:
        if not on_gpu and impl != "reference" and not op.impls[impl].is_ours:
            return Finding("kernels", name, "absent", "it is for CUDA devices", NO_CUDA)
        return Finding("kernels", name, "broken", str(error).splitlines()[0])
    return Finding("kernels", name, "ok", f"largest relative error {worst:.1e}")


def main() -> int:
    """Prints what is asked for, but the first SKIP answers."""
    parser = argparse.ArgumentParser(prog="python -m bench.probe", description=__doc__)
    parser.add_argument("what", choices=("devices", "cpu", "cuda"))
    parser.add_argument("skip", nargs="?", type=int, default=0)
    words = parser.parse_args()
    if words.what == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    asked = devices() if words.what == "devices" else kernels(words.what)
    for number, (name, answer) in enumerate(asked):
        if number >= words.skip:
            print(json.dumps({"begun": name}), flush=True)
            print(json.dumps(asdict(answer())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
