"""What the card says of itself while a model is timed: clock, temperature, power, energy, and why it slows down (NVML).

nvidia-ml-py is asked for on a CUDA device only. https://docs.nvidia.com/deploy/nvml-api/
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from kernels.op import MissingImplementation

POLLED_EVERY_S = 0.05
# nvmlClocksEventReasons; those that are no throttling: nothing to do, and a clock that someone chose.
REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
HARMLESS = 0x001 | 0x002 | 0x100


@dataclass(frozen=True)
class Reading:
    """One look at the card: SM clock (Hz), temperature (°C), power (W), mask of reasons for its clock."""

    clock_hz: float
    temperature_c: float
    power_w: float
    reasons: int


@dataclass
class Log:
    """All that was read while one model was timed; energy in J, None where the card does not count it."""

    readings: list[Reading] = field(default_factory=list)
    energy_j: float | None = 0.0


def reasons_of(mask: int) -> tuple[str, ...]:
    """The reasons for throttling in a mask, by name; a bit that is not known by its value."""
    bits = [1 << place for place in range(mask.bit_length()) if mask >> place & 1]
    return tuple(REASONS.get(bit, f"reason_{bit:#x}") for bit in bits if not bit & HARMLESS)


def throttled(readings: Sequence[Reading]) -> dict[str, float]:
    """Each reason for throttling that was seen, and the share of the readings that it was in."""
    seen = [reason for reading in readings for reason in reasons_of(reading.reasons)]
    return {reason: seen.count(reason) / len(readings) for reason in sorted(set(seen))}


def medians(readings: Sequence[Reading]) -> dict[str, float]:
    """Of clock_hz, temperature_c and power_w."""
    return {name: median(getattr(one, name) for one in readings) for name in ("clock_hz", "temperature_c", "power_w")}


class Meter:
    """The card of a CUDA device.

    Raises:
        MissingImplementation: nvidia-ml-py is not installed.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise MissingImplementation(
                f"nvidia-ml-py, which reads clocks and power, cannot be imported ({error}): run `make setup EXTRAS=gpu`"
            ) from error
        pynvml.nvmlInit()
        self.nvml: Any = pynvml
        uuid = torch.cuda.get_device_properties(device).uuid
        self.card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

    @contextmanager
    def watch(self, log: Log) -> Iterator[None]:
        """Reads the card into ``log`` from beginning to end, at least once."""
        ended, before = threading.Event(), self._energy_j()

        def poll() -> None:
            while True:
                log.readings.append(self._read())
                if ended.wait(POLLED_EVERY_S):
                    return

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            after = self._energy_j()
            known = log.energy_j is not None and before is not None and after is not None
            log.energy_j = log.energy_j + after - before if known else None  # type: ignore[operator]

    def _read(self) -> Reading:
        nvml, card = self.nvml, self.card
        return Reading(
            clock_hz=1e6 * nvml.nvmlDeviceGetClockInfo(card, nvml.NVML_CLOCK_SM),
            temperature_c=nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU),
            power_w=nvml.nvmlDeviceGetPowerUsage(card) / 1e3,
            reasons=nvml.nvmlDeviceGetCurrentClocksEventReasons(card),
        )

    def _energy_j(self) -> float | None:
        try:
            return float(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.card)) / 1e3
        except self.nvml.NVMLError_NotSupported:
            return None
