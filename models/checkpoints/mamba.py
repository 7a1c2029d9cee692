"""Mamba and Mamba-2 of state-spaces (github.com/state-spaces/mamba: MambaLMHeadModel), by their state-dict names.

config.json is that of their MambaConfig. A vocabulary padded to a multiple is a vocabulary of that many. What only says how
they compute or begin (fused_add_norm, chunk_size, dt_min, …) changes no weight; of residual_in_fp32 this holds in float32
alone: in bfloat16 our residual stream is bfloat16.
"""

import math
from typing import Any

from models.checkpoints.architecture import Architecture, Checkpoint, expect
from models.checkpoints.config import CheckpointError, Config, refuse, values
from models.checkpoints.places import Names, Place
from models.lm import LM
from models.mamba import Mamba
from models.mamba2 import Mamba2
from models.mixer import Size

_SHARED = {
    "norm.weight": "norm.weight",
    "mixer.in_proj.weight": "mixer.in_proj.weight",
    "mixer.conv.weight": "mixer.conv1d.weight",
    "mixer.conv.bias": "mixer.conv1d.bias",
    "mixer.a_log": "mixer.A_log",
    "mixer.d": "mixer.D",
    "mixer.out_proj.weight": "mixer.out_proj.weight",
}
NAMES = Names(
    embedding="backbone.embedding.weight",
    norm="backbone.norm_f.weight",
    head="lm_head.weight",
    layer="backbone.layers.{}.",
    parts={
        Mamba: {
            **_SHARED,
            "mixer.x_proj.weight": "mixer.x_proj.weight",
            "mixer.dt_proj.weight": "mixer.dt_proj.weight",
            "mixer.dt_proj.bias": "mixer.dt_proj.bias",
        },
        Mamba2: {**_SHARED, "mixer.dt_bias": "mixer.dt_bias", "mixer.norm_weight": "mixer.norm.weight"},
    },
)
IGNORED: tuple[str, ...] = ()

# Their RMSNorm's, which no MambaConfig says.
_EPS = 1e-5
_LM_FIXED: dict[str, tuple[object, str]] = {
    "rms_norm": (True, "LayerNorm instead of RMSNorm"),
    "d_intermediate": (0, "feed-forward layers"),
    "attn_layer_idx": ([], "layers of attention"),
}
_FIXED: dict[str, tuple[object, str]] = {
    "bias": (False, "biases of the projections"),
    "conv_bias": (True, "a convolution without bias"),
}
_FIXED_2: dict[str, tuple[object, str]] = {
    "ngroups": (1, "groups of B and C"),
    "D_has_hdim": (False, "a D for each channel"),
    "rmsnorm": (True, "no norm after the gate"),
    "norm_before_gate": (False, "the norm before the gate"),
    "dt_limit": ([0.0, math.inf], "a limit of dt"),
    "d_ssm": (None, "a scan of some channels only"),
}


def claims(config: Config) -> bool:
    """By the keys that it cannot do without, or as what transformers made of one."""
    return {"d_model", "n_layer"} <= config.keys() or config.get("model_type") in ("mamba", "mamba2")


def architecture(config: Config) -> Architecture:
    """Of a MambaConfig, with their defaults for what it leaves out.

    ``norm_epsilon`` is a key of ours, for models whose norms have another eps than theirs: their own code refuses it.
    """
    if "d_model" not in config:
        raise CheckpointError(
            "this is transformers' variant of a Mamba (its name ends in -hf); take the original, of state-spaces"
        )
    config = {"pad_vocab_size_multiple": 8, "tie_embeddings": True, "norm_epsilon": _EPS, "ssm_cfg": {}, **config}
    kinds = {"d_model": int, "n_layer": int, "vocab_size": int, "pad_vocab_size_multiple": int, "tie_embeddings": bool}
    found = values(config, {**kinds, "norm_epsilon": float, "ssm_cfg": dict})
    refuse(config, _LM_FIXED)
    vocab = math.ceil(found["vocab_size"] / found["pad_vocab_size_multiple"]) * found["pad_vocab_size_multiple"]
    size = Size(found["d_model"], found["n_layer"], heads=1, ffn=1)  # of which these blocks take neither
    return Architecture(vocab, size, [_block(found["ssm_cfg"], size)], found["tie_embeddings"], found["norm_epsilon"])


def _block(ssm: Config, size: Size) -> dict[str, Any]:
    is_second = values({"layer": "Mamba1", **ssm}, {"layer": ("Mamba1", "Mamba2")})["layer"] == "Mamba2"
    refuse(ssm, {**_FIXED, **_FIXED_2} if is_second else {**_FIXED, "dt_rank": (_rank(ssm, size), "a rank of dt of its own")})
    found = {"d_state": 128 if is_second else 16, "expand": 2, "d_conv": 4, "headdim": 64, **ssm}
    taken = values(found, {"d_state": int, "expand": int, "d_conv": int, "headdim": int})
    block = {"d_state": taken["d_state"], "expand": taken["expand"], "taps": taken["d_conv"]}
    if is_second:
        return {"_target_": "models.mamba2.Mamba2", **block, "head_dim": taken["headdim"]}
    return {"_target_": "models.mamba.Mamba", **block}


def _rank(ssm: Config, size: Size) -> object:
    return "auto" if ssm.get("dt_rank") == "auto" else math.ceil(size.width / 16)


def places(lm: LM) -> dict[str, Place]:
    """By their name."""
    return NAMES.places(lm)


def remarks(config: Config) -> tuple[str, ...]:
    """Of norms that are not theirs."""
    if config.get("norm_epsilon", _EPS) == _EPS:
        return ()
    return (f"norm_epsilon {config['norm_epsilon']:g} is a key of ours: mamba-ssm, whose norms have {_EPS:g}, refuses it",)


def config(held: Checkpoint) -> dict[str, Any]:
    """A MambaConfig's, the vocabulary without padding."""
    lm = held.lm
    expect(lm, [Mamba], [Mamba2])
    block = lm.mixers[0]
    assert isinstance(block, Mamba | Mamba2)
    ssm: dict[str, Any] = {"d_state": block.d_state, "expand": block.inner // lm.size.width, "d_conv": block.conv.taps}
    second = {"headdim": block.head_dim} if isinstance(block, Mamba2) else {}
    return {
        "d_model": lm.size.width,
        "n_layer": lm.size.layers,
        "vocab_size": lm.head.out_features,
        "ssm_cfg": {"layer": "Mamba2" if second else "Mamba1", **ssm, **second},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": lm.head.weight is lm.embedding.weight,
        **({} if lm.norm.eps == _EPS else {"norm_epsilon": lm.norm.eps}),
    }
