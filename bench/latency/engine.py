"""Models as they take part: built on the device with one implementation of their operation, run in one of four ways.

eager          PyTorch, launch by launch
compile        blocks and head by torch.compile (models.lm.LM.compile_inference)
graph          the whole call, the next token included, as one CUDA graph
compile_graph  a CUDA graph of what is compiled
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench.config import ConfigError, SizeConfig
from bench.timing import captured
from models.lm import LM, MixerFactory
from models.mixer import Size

EXECS = ("eager", "compile", "graph", "compile_graph")


@dataclass(frozen=True)
class Entrant:
    """A file of conf/model; ``layer``: its branches, to be called with a size. impl: what runs where no engine is named."""

    name: str
    backbone: str
    layer: Sequence[Any]
    impl: str = "reference"
    mini_batch: int = 0
    layers_factor: int = 1

    def build(self, size: SizeConfig, vocab: int, impl: str) -> LM:
        """The model with random weights, float32, on torch's default device.

        Raises:
            MissingImplementation: ``impl`` cannot be imported here.
        """
        layer: list[MixerFactory] = [
            partial(branch, impl=impl) if "impl" in branch.keywords else branch for branch in self.layer
        ]
        return LM(vocab, Size(size.width, size.layers * self.layers_factor, size.heads, size.ffn), layer)


@dataclass(frozen=True)
class Engine:
    """An entrant with an implementation and an exec. lm: what is timed. plain: the same model, eager, for what is not."""

    entrant: Entrant
    impl: str
    exec: str
    lm: LM
    plain: LM

    def ready(self, call: Callable[[], object], device: torch.device, warm_up: int = 3) -> Callable[[], object]:
        """The call as it is timed: itself, or a graph of it, for which it is run a few times."""
        return captured(call, device, warm_up) if self.exec.endswith("graph") else call


@dataclass
class Roster:
    """Every model of a run. Implementations of one model share its weights, which leave the device where others need room."""

    entrants: Mapping[str, Entrant]
    size: SizeConfig
    vocab: int
    device: torch.device
    dtype: torch.dtype
    seed: int

    def __post_init__(self) -> None:
        self._models: dict[str, dict[str, LM]] = {}
        self._at: dict[str, torch.device] = {}  # where a model is, all of it
        self._compiled: dict[tuple[str, str], LM] = {}

    def engine(self, name: str, impl: str, exec_: str) -> Engine:
        """What is compiled is compiled once.

        Raises:
            ConfigError: a graph on a CPU.
            MissingImplementation: ``impl`` cannot be imported here.
        """
        if exec_.endswith("graph") and self.device.type != "cuda":
            raise ConfigError(f"exec={exec_} needs a CUDA device: choose eager or compile, or run it with device=h100")
        lm = plain = self.lm(name, impl)
        if exec_.startswith("compile"):
            if (name, impl) not in self._compiled:
                self._compiled[name, impl] = copy(plain).compile_inference()
            lm = self._compiled[name, impl]
        return Engine(self.entrants[name], impl, exec_, lm, plain)

    def lm(self, name: str, impl: str) -> LM:
        """The model with the weights that the seed gives on this device, cast to the dtype that it computes in."""
        models = self._models.setdefault(name, {})
        if impl not in models:
            torch.manual_seed(self.seed)
            with self.device:
                made = self.entrants[name].build(self.size, self.vocab, impl).cast(self.dtype).eval()
            for other in list(models.values())[:1]:
                for path, parameter in other.named_parameters(remove_duplicate=False):
                    module, _, leaf = path.rpartition(".")
                    made.get_submodule(module).register_parameter(leaf, parameter)
                made.unite(other)
            models[impl] = made if models else made.unite()
            self._at.setdefault(name, self.device)
        return models[impl]

    def wide(self, name: str) -> LM:
        """The reference with the same rounded weights, in float32 if they are 16-bit, else in float64; not kept."""
        rounded = self.lm(name, "reference")
        with self.device:
            made = self.entrants[name].build(self.size, self.vocab, "reference")
        made.to(torch.float32 if self.dtype.itemsize == 2 else torch.float64).load_state_dict(rounded.state_dict())
        return made.eval()

    def fetch(self, name: str) -> None:
        """Puts a model's weights on the device."""
        self._move(name, self.device)

    def clear(self, name: str) -> None:
        """Takes the weights of all others from the device."""
        for other in self._models:
            if other != name:
                self._move(other, torch.device("cpu"))

    def _move(self, name: str, device: torch.device) -> None:
        models = list(self._models.get(name, {}).values())
        if not models or self._at.get(name) == device:
            return
        self._at.pop(name, None)  # memory may end half-way
        for parameter in models[0].parameters():
            parameter.data = parameter.data.to(device)
        models[0].unite()
        for lm in models[1:]:
            lm.unite(models[0])
        self._at[name] = device
