"""Llama-style Transformers of Hugging Face (LlamaForCausalLM), by their state-dict names.

Their rotary positions turn dims m and m + F/2 of a head together, ours 2m and 2m + 1: rows of q and k are in another order.
"""

from typing import Any

from models.attention import Attention
from models.checkpoints.architecture import Architecture, Checkpoint, expect
from models.checkpoints.config import Config, refuse, values
from models.checkpoints.places import Names, Place, half_split
from models.layers import SwiGLU
from models.lm import LM
from models.mixer import Size

NAMES = Names(
    embedding="model.embed_tokens.weight",
    norm="model.norm.weight",
    head="lm_head.weight",
    layer="model.layers.{}.",
    parts={
        Attention: {
            "norm.weight": "input_layernorm.weight",
            **{f"mixer.{name}.weight": f"self_attn.{name}_proj.weight" for name in ("q", "k", "v", "o")},
        },
        SwiGLU: {
            "norm.weight": "post_attention_layernorm.weight",
            **{f"mixer.{name}.weight": f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")},
        },
    },
    layouts={"self_attn.q_proj.weight": half_split, "self_attn.k_proj.weight": half_split},
)
# A table that older conversions keep.
IGNORED: tuple[str, ...] = ("rotary_emb.inv_freq",)


def claims(config: Config) -> bool:
    """By its ``model_type``."""
    return config.get("model_type") == "llama"


def architecture(config: Config) -> Architecture:
    """Of a LlamaConfig, with transformers' defaults for what it leaves out."""
    said = {"rope_theta": 10_000.0, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, **config}
    for rope in ("rope_scaling", "rope_parameters"):  # of transformers before and since version 5
        said |= values(config, {rope: dict})[rope] if config.get(rope) is not None else {}
    counts = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    kinds = {"vocab_size": int, "rope_theta": float, "rms_norm_eps": float, "tie_word_embeddings": bool}
    found = values(said, {**dict.fromkeys(counts, int), **kinds})
    size = Size(*(found[key] for key in counts))
    refuse(
        said,
        {
            "num_key_value_heads": (size.heads, f"grouped queries: fewer keys than its {size.heads} queries"),
            "head_dim": (size.head_dim, "heads that are not the width's parts"),
            "attention_bias": (False, "biases of q, k, v and o"),
            "mlp_bias": (False, "biases of the feed-forward layers"),
            "hidden_act": ("silu", "another activation of the feed-forward layers"),
            "rope_type": ("default", "rotary positions that are scaled"),
            "type": ("default", "rotary positions that are scaled"),
            "partial_rotary_factor": (1.0, "rotary positions of some dims only"),
        },
    )
    attention = {"_target_": "models.attention.Attention", "rope_theta": found["rope_theta"]}
    layer = [attention, {"_target_": "models.layers.SwiGLU"}]
    return Architecture(found["vocab_size"], size, layer, found["tie_word_embeddings"], found["rms_norm_eps"])


def places(lm: LM) -> dict[str, Place]:
    """By their name."""
    return NAMES.places(lm)


def remarks(_: Config) -> tuple[str, ...]:
    """None."""
    return ()


def config(held: Checkpoint) -> dict[str, Any]:
    """A LlamaConfig's."""
    lm = held.lm
    expect(lm, [Attention, SwiGLU])
    attention = lm.mixers[0]
    assert isinstance(attention, Attention)
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": lm.head.out_features,
        "hidden_size": lm.size.width,
        "intermediate_size": lm.size.ffn,
        "num_hidden_layers": lm.size.layers,
        "num_attention_heads": lm.size.heads,
        "num_key_value_heads": lm.size.heads,
        "hidden_act": "silu",
        "rms_norm_eps": lm.norm.eps,
        "rope_theta": attention.rope.theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": lm.head.weight is lm.embedding.weight,
        **({} if held.train_context is None else {"max_position_embeddings": held.train_context}),
    }
