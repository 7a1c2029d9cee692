"""Weights of the authors' PyTorch model (github.com/test-time-training/ttt-lm-pytorch), by its state-dict names.

A layer of that model is (short convolution), TTT, SwiGLU, as our branches are, so that an official name is the number of the
layer and what NAMES says of the branch's parameter. Its config.json is that of its TTTConfig; reference files (bench/golden.py)
say the same in the words of CONFIG_KINDS.
"""

from collections.abc import Mapping
from typing import Any

from models.checkpoints.architecture import Architecture, Checkpoint, expect
from models.checkpoints.config import CheckpointError, Config, Kind, refuse, values
from models.checkpoints.places import Names, Place, axis_after_heads
from models.layers import SwiGLU
from models.lm import LM
from models.mixer import Size
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
# The authors keep these with an axis of length 1 after the heads: [H, 1, D], [H, 1], [H, 1, O].
_HEAD_ROWS = ("learnable_ttt_lr_weight", "learnable_ttt_lr_bias", "b1", "b2")

NAMES = Names(
    embedding="model.embed_tokens.weight",
    norm="model.norm.weight",
    head="lm_head.weight",
    layer="model.layers.{}.",
    parts={
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
    },
    layouts={f"seq_modeling_block.{name}": axis_after_heads for name in _HEAD_ROWS},
)
# Tables that the authors' code makes anew; some conversions keep them.
IGNORED: tuple[str, ...] = ("rotary_emb.inv_freq", "seq_modeling_block.token_idx")

CONFIG_KINDS: Mapping[str, Kind] = {
    "layer": ("linear", "mlp"),
    "backbone": ("transformer", "mamba"),
    "hidden_size": int,
    "num_layers": int,
    "num_heads": int,
    "intermediate_size": int,
    "vocab_size": int,
    "mini_batch_size": int,
    "base_lr": float,
    "rope_theta": float,
    "norm_eps": float,
    "tied_embeddings": bool,
}
# Those that a config.json calls otherwise; ``backbone`` is three flags there.
_RENAMED = {
    "layer": "ttt_layer_type",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "base_lr": "ttt_base_lr",
    "norm_eps": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
}
_KEYS = {key: _RENAMED.get(key, key) for key in CONFIG_KINDS if key != "backbone"}
_FIXED = {"hidden_act": ("silu", "another activation of the feed-forward layers"), "conv_kernel": (4, "longer convolutions")}
_INNER_EPS = 1e-6
BASE_LR = {"linear": 1.0, "mlp": 0.1}
"""Of the authors' models (paper, section 2.7)."""


def described(config: Config, pre_conv: bool | None = None) -> Architecture:
    """From the words of CONFIG_KINDS; the block-level convolution goes with the Mamba backbone unless ``pre_conv`` says."""
    found = values(config, CONFIG_KINDS)
    ttt = {
        "_target_": "models.ttt.TTT",
        "inner": found["layer"],
        "backbone": found["backbone"],
        "base_lr": found["base_lr"],
        "mini_batch": found["mini_batch_size"],
        "rope_theta": found["rope_theta"],
    }  # norm_eps is not for TTT: the authors' inner and post norms have 1e-6 whatever the RMSNorms have
    has_conv = found["backbone"] == "mamba" if pre_conv is None else pre_conv
    convolution = [{"_target_": "models.short_conv.ShortConv"}] if has_conv else []
    size = Size(*(found[key] for key in ("hidden_size", "num_layers", "num_heads", "intermediate_size")))
    layer = [*convolution, ttt, {"_target_": "models.layers.SwiGLU"}]
    return Architecture(found["vocab_size"], size, layer, found["tied_embeddings"], found["norm_eps"])


def claims(config: Config) -> bool:
    """By its ``model_type``, or by a key that no other has."""
    return config.get("model_type") == "ttt" or "ttt_layer_type" in config


def architecture(config: Config) -> Architecture:
    """Of a TTTConfig. Only ``tie_word_embeddings`` may be left out, as transformers does where it is true.

    The rest may not, as that class's defaults are not the authors' models: base_lr 1 for TTT-MLP too, no Mamba backbone.
    """
    refuse(config, _FIXED)
    config = {"tie_word_embeddings": True, **config}
    flags = values(config, {"share_qk": bool, "use_gate": bool, "pre_conv": bool})
    if flags["share_qk"] != flags["use_gate"]:
        raise CheckpointError("our models do not have share_qk without use_gate, nor use_gate without share_qk")
    values(config, {theirs: CONFIG_KINDS[ours] for ours, theirs in _KEYS.items()})
    ours = {ours: config[theirs] for ours, theirs in _KEYS.items()}
    return described(ours | {"backbone": "mamba" if flags["use_gate"] else "transformer"}, flags["pre_conv"])


def places(lm: LM) -> dict[str, Place]:
    """By official name."""
    return NAMES.places(lm)


def remarks(config: Config) -> tuple[str, ...]:
    """Of the inner learning rate that conversions forget to set."""
    if config["ttt_layer_type"] == "linear" or config["ttt_base_lr"] == BASE_LR["mlp"]:
        return ()
    rates = f"ttt_base_lr is {config['ttt_base_lr']:g}, the authors trained TTT-MLP with {BASE_LR['mlp']:g}"
    return (f"{rates}; 1 is only their code's default: if it is wrong in config.json, so are all logits",)


def config(held: Checkpoint) -> dict[str, Any]:
    """A TTTConfig's."""
    lm = held.lm
    kinds = expect(lm, [ShortConv, TTT, SwiGLU], [TTT, SwiGLU])
    ttt = next(mixer for mixer in lm.mixers if isinstance(mixer, TTT))
    if ttt.eps != _INNER_EPS:
        raise CheckpointError(f"the authors' inner norm has eps {_INNER_EPS}, this one {ttt.eps}")
    found = {
        "layer": ttt.inner,
        "hidden_size": lm.size.width,
        "num_layers": lm.size.layers,
        "num_heads": lm.size.heads,
        "intermediate_size": lm.size.ffn,
        "vocab_size": lm.head.out_features,
        "mini_batch_size": ttt.mini_batch,
        "base_lr": ttt.base_lr,
        "rope_theta": ttt.rope.theta,
        "norm_eps": lm.norm.eps,
        "tied_embeddings": lm.head.weight is lm.embedding.weight,
    }
    return {
        "model_type": "ttt",
        "architectures": ["TTTForCausalLM"],
        **{_KEYS[key]: value for key, value in found.items()},
        **{key: value for key, (value, _) in _FIXED.items()},
        **dict.fromkeys(("share_qk", "use_gate"), ttt.is_gated),
        "pre_conv": ShortConv in kinds,
        **({} if held.train_context is None else {"max_position_embeddings": held.train_context}),
    }
