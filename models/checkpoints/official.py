"""Weights of the authors' PyTorch model (github.com/test-time-training/ttt-lm-pytorch), by its state-dict names.

A layer of that model is (short convolution), TTT, SwiGLU, as our branches are, so that an official name is the number of the
layer and what PARTS says of the branch's parameter.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.layers import SwiGLU
from models.lm import LM, MixerFactory
from models.mixer import Mixer, Size
from models.short_conv import ShortConv
from models.ttt import TTT

_TTT = {
    "q.weight": "q_proj.weight",
    "k.weight": "k_proj.weight",
    "v.weight": "v_proj.weight",
    "o.weight": "o_proj.weight",
    "gate.weight": "g_proj.weight",
    "conv_q.weight": "conv_q.weight",
    "conv_q.bias": "conv_q.bias",
    "conv_k.weight": "conv_k.weight",
    "conv_k.bias": "conv_k.bias",
    "token_factor": "learnable_token_idx",
    "lr_weight": "learnable_ttt_lr_weight",
    "lr_bias": "learnable_ttt_lr_bias",
    "norm_weight": "ttt_norm_weight",
    "norm_bias": "ttt_norm_bias",
    "post_norm.weight": "post_norm.weight",
    "post_norm.bias": "post_norm.bias",
    "inner_weights.0": "W1",
    "inner_biases.0": "b1",
    "inner_weights.1": "W2",
    "inner_biases.1": "b2",
}

PARTS: Mapping[type[Mixer], Mapping[str, str]] = {
    ShortConv: {
        "norm.weight": "conv.norm.weight",
        "mixer.conv.weight": "conv.conv.weight",
        "mixer.conv.bias": "conv.conv.bias",
    },
    TTT: {
        "norm.weight": "seq_norm.weight",
        **{f"mixer.{ours}": f"seq_modeling_block.{theirs}" for ours, theirs in _TTT.items()},
    },
    SwiGLU: {
        "norm.weight": "ffn_norm.weight",
        "mixer.gate.weight": "mlp.gate_proj.weight",
        "mixer.up.weight": "mlp.up_proj.weight",
        "mixer.down.weight": "mlp.down_proj.weight",
    },
}
"""For each mixer: a branch's parameter -> its official name inside ``model.layers.n.``."""

# The authors keep these with an axis of length 1 after the heads: [H, 1, D], [H, 1], [H, 1, O].
HEAD_ROWS = ("learnable_ttt_lr_weight", "learnable_ttt_lr_bias", "b1", "b2")

LAYERS = ("linear", "mlp")
BACKBONES = ("transformer", "mamba")
COUNTS = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "vocab_size", "mini_batch_size")
CONFIG_KEYS = ("layer", "backbone", *COUNTS, "base_lr", "rope_theta", "norm_eps", "tied_embeddings")


def build(config: Mapping[str, Any]) -> LM:
    """The float32 model that ``config`` describes, in eval mode, with random weights; its keys are CONFIG_KEYS.

    Raises:
        ValueError: a key is missing, the layer or the backbone is unknown, or a number is not valid.
    """
    if missing := [key for key in CONFIG_KEYS if key not in config]:
        raise ValueError(f"the config lacks {', '.join(missing)}")
    for key, known in (("layer", LAYERS), ("backbone", BACKBONES)):
        if config[key] not in known:
            raise ValueError(f"the config has {key} '{config[key]}'; supported: {', '.join(known)}")
    for key in COUNTS:
        if not isinstance(config[key], int) or config[key] < 1:
            raise ValueError(f"the config has {key} {config[key]!r}, which must be a whole number of at least 1")
    size = Size(*(config[key] for key in COUNTS[:4]))
    ttt = partial(
        TTT,
        inner=config["layer"],
        backbone=config["backbone"],
        base_lr=config["base_lr"],
        mini_batch=config["mini_batch_size"],
        rope_theta=config["rope_theta"],
    )  # norm_eps is not for TTT: the authors' inner and post norms have 1e-6 whatever the RMSNorms have
    layer: list[MixerFactory] = [ttt, SwiGLU]
    if config["backbone"] == "mamba":
        layer.insert(0, ShortConv)
    return LM(config["vocab_size"], size, layer, tied=config["tied_embeddings"], eps=config["norm_eps"]).eval()


def parameters(lm: LM) -> dict[str, Tensor]:
    """Official name -> parameter of ``lm``. With tied embeddings the head is the embedding under a second name."""
    named: dict[str, Tensor] = {
        "model.embed_tokens.weight": lm.embedding.weight,
        "model.norm.weight": lm.norm.weight,
        "lm_head.weight": lm.head.weight,
    }
    in_layer = len(lm.branches) // lm.size.layers
    for i, branch in enumerate(lm.branches):
        part = PARTS[type(lm.mixers[i])]
        named |= {f"model.layers.{i // in_layer}.{part[ours]}": p for ours, p in branch.named_parameters()}
    return named


def load(lm: LM, params: Mapping[str, np.ndarray]) -> None:
    """Copies arrays, by their official names, into ``lm``, in the dtype and on the device that it has.

    With tied embeddings ``lm_head.weight`` may be left out.

    Raises:
        ValueError: names that are missing, left over, of another shape, or a head that differs from the embedding it is
            tied to; ``lm`` is then left as it was.
    """
    named = parameters(lm)
    is_tied = lm.head.weight is lm.embedding.weight
    optional = {"lm_head.weight"} if is_tied else set()
    wrong = [f"missing {name}" for name in sorted(named.keys() - params.keys() - optional)]
    wrong += [f"left over {name}" for name in sorted(params.keys() - named.keys())]
    for name in sorted(named.keys() & params.keys()):
        actual, expected = list(params[name].shape), _official_shape(name, named[name])
        if actual != expected:
            wrong.append(f"{name} has shape {actual}, the model has {expected}")
    if not wrong and optional & params.keys() and not _is_tied(params):
        wrong.append("lm_head.weight differs from model.embed_tokens.weight, but the embeddings are tied")
    if wrong:
        raise ValueError("the parameters do not fit the model: " + "; ".join(wrong))
    with torch.no_grad():
        for name, array in params.items():
            named[name].copy_(torch.tensor(array).view_as(named[name]))


def _official_shape(name: str, parameter: Tensor) -> list[int]:
    shape = list(parameter.shape)
    return [shape[0], 1, *shape[1:]] if name.rpartition(".")[2] in HEAD_ROWS else shape


def _is_tied(params: Mapping[str, np.ndarray]) -> bool:
    return np.array_equal(params["lm_head.weight"], params["model.embed_tokens.weight"])
