"""What all origins of weights share: an architecture as plain values, the model that it makes, and what reads and writes it."""

import importlib
import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from models.checkpoints.config import CheckpointError, Config
from models.checkpoints.places import Place
from models.lm import LM, MixerFactory
from models.mixer import Mixer, Size


@dataclass(frozen=True)
class Architecture:
    """All that rebuilds a language model but its weights; ``layer`` is the list of branches of conf/model."""

    vocab: int
    size: Size
    layer: Sequence[Config]
    tied: bool = True
    eps: float = 1e-6

    def build(self, impl: str | None = None) -> LM:
        """The model with random weights; ``impl`` in place of the implementations that ``layer`` names.

        Raises:
            CheckpointError: a branch is not a mixer of this package, or has other options.
        """
        return LM(self.vocab, self.size, [_factory(branch, impl) for branch in self.layer], self.tied, self.eps)

    def sketch(self, tensors: Mapping[str, Tensor]) -> LM:
        """The model on ``meta``, so that no claim of a config takes memory, or more time than the file is long.

        Raises:
            CheckpointError: it makes no model, or one that cannot be that of ``tensors``.
        """
        most = sum(tensor.numel() for tensor in tensors.values())
        size = self.size
        if size.layers > len(tensors) or max(self.vocab, size.width, size.ffn) > most:
            asked = f"vocab {self.vocab}, width {size.width}, {size.layers} layers, feed-forward width {size.ffn}"
            raise CheckpointError(f"the config asks for {asked}; the file has {most} numbers in {len(tensors)} tensors")
        try:
            with torch.device("meta"):
                return self.build("reference")
        except CheckpointError:
            raise
        except (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:  # of its options
            raise CheckpointError(f"the config makes no model ({type(error).__name__}: {error})") from error


def _factory(branch: Config, impl: str | None) -> MixerFactory:
    options = {key: value for key, value in branch.items() if key not in ("_target_", "_partial_")}
    kind = mixer_class(branch.get("_target_"))
    if impl is not None and "impl" in inspect.signature(kind).parameters:
        options["impl"] = impl
    return partial(kind, **options)


def mixer_class(target: object) -> type[Mixer]:
    """The mixer that ``_target_`` names. Only this package is looked into: a config runs no other code, whatever it says.

    Raises:
        CheckpointError: it is no ``models.x.X``.
    """
    module, _, name = str(target).rpartition(".")
    if re.fullmatch(r"models\.\w+", module) and importlib.util.find_spec(module) is not None:
        found = getattr(importlib.import_module(module), name, None)
        if inspect.isclass(found) and issubclass(found, Mixer):
            return found
    raise CheckpointError(f"the config names a layer '{target}', which is no mixer of models/")


@dataclass(frozen=True)
class Checkpoint:
    """A model read, in eval mode, and whence.

    tokenizer, train_context (tokens): what the origin says of its text. remarks: what its users should know.
    """

    architecture: Architecture
    lm: LM
    origin: str
    tokenizer: str | None = None
    train_context: int | None = None
    remarks: tuple[str, ...] = ()


class Origin(Protocol):
    """A family of checkpoints: config.json and the names and layouts of its tensors. A module is one."""

    IGNORED: tuple[str, ...]
    """Ends of names that hold no parameter."""

    def claims(self, config: Config) -> bool:
        """Whether a config.json is of this family."""

    def architecture(self, config: Config) -> Architecture:
        """Of the model that a config.json describes. Raises CheckpointError where ours cannot be that."""

    def places(self, lm: LM) -> dict[str, Place]:
        """Every tensor of the file, by its name there."""

    def remarks(self, config: Config, /) -> tuple[str, ...]:
        """What a config.json says that is right, but not what one expects."""

    def config(self, held: Checkpoint) -> dict[str, Any]:
        """The inverse of ``architecture``. Raises CheckpointError where the model is not of this family."""


def expect(lm: LM, *known: Sequence[type[Mixer]]) -> list[type[Mixer]]:
    """The mixers of one layer.

    Raises:
        CheckpointError: they are none of ``known``.
    """
    kinds = [type(mixer) for mixer in lm.mixers[: len(lm.mixers) // lm.size.layers]]
    if kinds not in map(list, known):
        here, *there = (" + ".join(kind.__name__ for kind in layer) for layer in (kinds, *known))
        raise CheckpointError(f"a layer of that format is {' or '.join(there)}; of this model it is {here}")
    return kinds
