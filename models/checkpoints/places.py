"""Foreign names and layouts of parameters: where each tensor of a file belongs in a model of ours.

A foreign layout is a view of our parameter (transposed, with an axis more, its rows in another order), so that one description
serves both ways: reading copies into the view, writing copies out of it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from models.lm import LM
from models.mixer import Mixer, Size


class Place(NamedTuple):
    """A parameter seen as the file lays it out; ``shape`` is the file's, where it merges axes that the view has apart.

    is_alias: another name of a parameter that has one, which a file may leave out.
    """

    view: Tensor
    shape: tuple[int, ...]
    is_alias: bool = False


Layout = Callable[[Tensor, Size], Place]


def as_is(parameter: Tensor, _: Size) -> Place:
    """In our own layout."""
    return Place(parameter, tuple(parameter.shape))


def reversed_axes(parameter: Tensor, size: Size) -> Place:
    """Kernels of JAX: [in, out] of a product, [taps, 1, channels] of a convolution."""
    return as_is(parameter.permute(*reversed(range(parameter.ndim))), size)


def axis_after_heads(parameter: Tensor, size: Size) -> Place:
    """[H, 1, ...] of [H, ...]."""
    return as_is(parameter.unsqueeze(1), size)


def half_split(parameter: Tensor, size: Size) -> Place:
    """Rows of q or k [H F, D] of a model that rotates dims m and m + F/2 together, where ours rotates 2m and 2m + 1."""
    view = parameter.unflatten(0, (size.heads, size.head_dim // 2, 2)).transpose(1, 2)
    return Place(view, tuple(parameter.shape))


@dataclass(frozen=True)
class Names:
    """What an origin calls the parameters outside the layers, the n-th layer (``layer``, with {}), and those of its branches.

    parts: for each mixer, a branch's parameter -> its name inside the layer. layouts: of those names that are not as ours.
    """

    embedding: str
    norm: str
    head: str
    layer: str
    parts: Mapping[type[Mixer], Mapping[str, str]]
    layouts: Mapping[str, Layout] = field(default_factory=dict)

    def places(self, lm: LM) -> dict[str, Place]:
        """Foreign name -> place in ``lm``."""
        found = {name: as_is(p, lm.size) for name, p in ((self.embedding, lm.embedding.weight), (self.norm, lm.norm.weight))}
        is_tied = lm.head.weight is lm.embedding.weight
        found[self.head] = self._place(self.head, lm.head.weight, lm.size)._replace(is_alias=is_tied)
        in_layer = len(lm.branches) // lm.size.layers
        for i, branch in enumerate(lm.branches):
            part, layer = self.parts[type(lm.mixers[i])], self.layer.format(i // in_layer)
            found |= {layer + part[ours]: self._place(part[ours], p, lm.size) for ours, p in branch.named_parameters()}
        return found

    def _place(self, name: str, parameter: Tensor, size: Size) -> Place:
        return self.layouts.get(name, as_is)(parameter, size)


def misfits(places: Mapping[str, Place], tensors: Mapping[str, Tensor]) -> list[str]:
    """What of ``tensors`` is missing, left over, of another shape or no floating-point numbers: all of it, in words."""
    wrong = [f"missing {name}" for name in _by_layer(n for n in places.keys() - tensors.keys() if not places[n].is_alias)]
    wrong += [f"left over {name}" for name in _by_layer(tensors.keys() - places.keys())]
    for name in sorted(places.keys() & tensors.keys()):
        actual, expected = list(tensors[name].shape), list(places[name].shape)
        if actual != expected:
            wrong.append(f"{name} has shape {actual}, the model has {expected}")
        if not tensors[name].is_floating_point():
            wrong.append(f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')}, not floating-point numbers")
    return wrong


def _by_layer(names: Iterable[str]) -> list[str]:
    """Names that differ in the number of a layer only, as one with a star."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(re.sub(r"(?<=[./])\d+(?=[./])", "*", name, count=1), []).append(name)
    return [found[0] if len(found) == 1 else f"{starred} ({len(found)})" for starred, found in alike.items()]


@torch.no_grad()
def fill(places: Mapping[str, Place], tensors: Mapping[str, Tensor]) -> list[str]:
    """Copies tensors that fit into a model, in its own dtype; returns the aliases that differ from what they are tied to."""
    for name, tensor in tensors.items():
        if not places[name].is_alias:
            view = places[name].view
            view.copy_(tensor.reshape(view.shape))
    aliases = [name for name in tensors if places[name].is_alias]
    return [name for name in aliases if not torch.equal(places[name].view, tensors[name].to(places[name].view))]


def export(places: Mapping[str, Place]) -> dict[str, Tensor]:
    """The model's parameters by foreign name, in foreign layout: copies, of which no two share memory."""
    return {name: place.view.detach().reshape(place.shape).contiguous().clone() for name, place in places.items()}
