"""The machine: its name, the memory that it has used, and the versions of what measures."""

import gc
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "triton", "numpy", "hydra-core", "mamba-ssm", "flash-attn", "fla-core")


OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)


class NoDevice(RuntimeError):
    """The device that was asked for is not here."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was missing when an error arose; the capture of a graph hides that behind an error of its own."""
    while error is not None and not isinstance(error, OUT_OF_MEMORY):
        error = error.__context__
    return error is not None


@cache
def device_name(type_: str) -> str:
    """The accelerator's or the processor's own name.

    Raises:
        NoDevice: there is no such device here.
    """
    if type_ == "cuda":
        if not torch.cuda.is_available():
            raise NoDevice("device.type=cuda, but torch sees no CUDA GPU here; use device=cpu, or run it where there is one")
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def begin_peak(device: torch.device) -> None:
    """Frees what earlier work left on a GPU; what it allocates at most is counted from here on."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most that was allocated on a GPU since ``begin_peak``; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
