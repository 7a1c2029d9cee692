"""A model and its gradients over several processes: FSDP2, a group of parameters for each block, one for what is around them.

Blocks are gathered in the dtype that they compute in; embedding, final norm and head in float32, as their gradients add up
over chunks of tokens. What mixers keep in float32 (``Mixer.kept_wide``) is whole in every process, as FSDP would cast it
with its block: its gradients are averaged in one piece, in the order of the parameters. So operations see the dtypes that
they see in one process. With one process nothing here does anything but what PyTorch does.
"""

import warnings
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.distributed import is_first, mean, size
from models.lm import LM

# The blocks as modules of the model, where FSDP finds them; no names of parameters.
UNITS = "units"


def sharded(lm: LM) -> LM:
    """The model, after ``train_in``, with its parameters spread over the processes, in place; they are the first one's."""
    if size() == 1:
        return lm
    from torch.distributed import broadcast
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    for p in lm.parameters():
        broadcast(p.data, src=0)
    mesh = init_device_mesh(lm.embedding.weight.device.type, (size(),))
    wide = {p for mixer in lm.mixers for p in mixer.kept_wide()}
    narrow = MixedPrecisionPolicy(param_dtype=lm.computes_in, reduce_dtype=lm.embedding.weight.dtype, cast_forward_inputs=False)
    for block in lm.blocks:
        fully_shard(block, mesh=mesh, mp_policy=narrow, ignored_params=wide)
    lm.register_module(UNITS, nn.ModuleList(lm.blocks))
    inside = wide | {p for block in lm.blocks for p in block.parameters()}
    fully_shard(lm, mesh=mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), ignored_params=inside)
    register_fsdp_forward_method(lm, "nll")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # nothing writes into likelihoods
    return lm


def apart(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those that are spread and those that are whole, where there are any: an optimizer takes no group of both."""
    kept = list(parameters)
    halves = [p for p in kept if _is_spread(p)], [p for p in kept if not _is_spread(p)]
    return [half for half in halves if half]


def clip_gradients(lm: LM, most: float) -> None:
    """Scales all gradients so that their norm together is at most ``most``; first averages those of whole parameters."""
    if size() == 1:
        nn.utils.clip_grad_norm_(lm.parameters(), most)
        return
    spread: list[Tensor] = []
    whole: list[Tensor] = []
    for p in lm.parameters():
        if p.grad is not None:
            (spread if _is_spread(p) else whole).append(_local(p.grad))
    _average(whole)
    square = size() * mean(_square(spread))
    if whole:
        square += _square(whole)
    scale = (most / (square.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in (*spread, *whole):
        gradient *= scale


def _average(gradients: list[Tensor]) -> None:
    """The mean of each over the processes, in place."""
    if gradients:
        flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _square(gradients: list[Tensor]) -> Tensor:
    return nn.utils.get_total_norm(gradients).square()


def whole_state(lm: LM) -> dict[str, Tensor]:
    """``state_dict`` as one process would have it; for the first, nothing for the others, who take part in it."""
    if size() == 1:
        return lm.state_dict()
    found = {}
    for p in lm.parameters():
        value = cast(Any, p).full_tensor() if _is_spread(p) else p
        if is_first():
            found[p] = value.detach().cpu()
    named = lm.named_parameters(remove_duplicate=False) if is_first() else ()
    return {name: found[p] for name, p in named if not name.startswith(f"{UNITS}.")}


def _is_spread(tensor: Tensor) -> bool:
    return size() > 1 and isinstance(tensor, torch.distributed.tensor.DTensor)


def _local(tensor: Tensor) -> Tensor:
    return cast(Any, tensor).to_local() if _is_spread(tensor) else tensor
