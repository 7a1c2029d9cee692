"""The authors' JAX checkpoints (github.com/test-time-training/ttt-lm-jax, ttt/infra/checkpoint.py): read without JAX.

A file ``streaming_train_state`` or ``streaming_params`` (with ``_STEP`` behind it) is a msgpack stream of pairs

    [path of a parameter, as a list of strings], [flax's msgpack of one array: extension 1 with [shape, dtype, bytes]]

of the whole training state (parameters below "params", "params"; the optimizer's are passed over) or of parameters alone;
floats are bfloat16 as a rule. The shapes are all that tells the configuration: the pickle beside such a file is never read.
Nothing is written in this format.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoints.config import CheckpointError
from models.checkpoints.files import optional
from models.checkpoints.places import Names, Place, as_is, axis_after_heads, reversed_axes
from models.checkpoints.ttt import BASE_LR
from models.layers import SwiGLU
from models.mixer import Mixer, Size
from models.short_conv import ShortConv
from models.ttt import TTT

FILES = "streaming_*"
REMARKS = ("inner learning rate, rotary base and eps of the norms are the authors' presets: the file does not say them",)

# Of "learnable_ttt_lr/kernel" and the three like it the last slash is part of one string of the path.
_TTT = {
    "q.weight": "wq/kernel",
    "k.weight": "wk/kernel",
    "v.weight": "wv/kernel",
    "o.weight": "wo/kernel",
    "gate.weight": "wg/kernel",
    "conv_q.weight": "conv_q/kernel",
    "conv_q.bias": "conv_q/bias",
    "conv_k.weight": "conv_k/kernel",
    "conv_k.bias": "conv_k/bias",
    "token_factor": "learnable_token_idx",
    "lr_weight": "learnable_ttt_lr/kernel",
    "lr_bias": "learnable_ttt_lr/bias",
    "norm_weight": "ttt_norm/scale",
    "norm_bias": "ttt_norm/bias",
    "post_norm.weight": "post_norm/scale",
    "post_norm.bias": "post_norm/bias",
    "inner_weights.0": "ttt_dense_0",
    "inner_biases.0": "ttt_bias_0",
    "inner_weights.1": "ttt_dense_1",
    "inner_biases.1": "ttt_bias_1",
}
_PARTS: Mapping[type[Mixer], Mapping[str, str]] = {
    ShortConv: {
        "norm.weight": "conv/conv_norm/kernel",
        "mixer.conv.weight": "conv/conv1/kernel",
        "mixer.conv.bias": "conv/conv1/bias",
    },
    TTT: {
        "norm.weight": "seq_norm/kernel",
        **{f"mixer.{ours}": f"seq_modeling_block/{theirs}" for ours, theirs in _TTT.items()},
    },
    SwiGLU: {
        "norm.weight": "ffn_norm/kernel",
        "mixer.gate.weight": "feed_forward/w1/kernel",
        "mixer.up.weight": "feed_forward/w3/kernel",
        "mixer.down.weight": "feed_forward/w2/kernel",
    },
}
_HEAD_ROWS = ("learnable_ttt_lr/bias", "ttt_bias_0", "ttt_bias_1")


def _axis_at_the_end(parameter: Tensor, size: Size) -> Place:
    """[H, D, 1] of [H, D]."""
    return as_is(parameter.unsqueeze(-1), size)


NAMES = Names(
    embedding="model/wte/embedding",
    norm="model/ln_f/kernel",
    head="lm_head/kernel",
    layer="model/h/{}/",
    parts=_PARTS,
    layouts={
        **{name: reversed_axes for part in _PARTS.values() for name in part.values() if name.endswith("/kernel")},
        **{f"seq_modeling_block/{name}": axis_after_heads for name in _HEAD_ROWS},
        "seq_modeling_block/learnable_ttt_lr/kernel": _axis_at_the_end,
        "lm_head/kernel": reversed_axes,
    },
)
"""Path, its strings joined by slashes -> place."""

_DTYPES = {name: getattr(torch, name) for name in ("bfloat16", "float16", "float32", "float64")}


def config_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A TTTConfig: what the shapes tell, and the authors' presets for what they do not (base_lr, rope_theta, eps).

    Raises:
        CheckpointError: they are not of a TTT model.
    """
    block = "model/h/0/seq_modeling_block/"
    vocab, width = _shape(tensors, NAMES.embedding, 2)
    heads, _, _ = _shape(tensors, block + "learnable_ttt_lr/kernel", 3)
    _, ffn = _shape(tensors, "model/h/0/feed_forward/w1/kernel", 2)
    (mini_batch,) = _shape(tensors, block + "learnable_token_idx", 1)
    layer, is_gated = "mlp" if block + "ttt_dense_1" in tensors else "linear", block + "wg/kernel" in tensors
    return {
        "model_type": "ttt",
        "ttt_layer_type": layer,
        "share_qk": is_gated,
        "use_gate": is_gated,
        "pre_conv": "model/h/0/conv/conv1/kernel" in tensors,
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": len({name.split("/")[2] for name in tensors if name.startswith("model/h/")}),
        "num_attention_heads": heads,
        "mini_batch_size": mini_batch,
        "ttt_base_lr": BASE_LR[layer],
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": NAMES.head not in tensors,
    }


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> torch.Size:
    if name not in tensors or tensors[name].ndim != axes:
        found = f"has shape {list(tensors[name].shape)}" if name in tensors else "is missing"
        raise CheckpointError(f"this is no TTT model of the authors' JAX code: {name}, of {axes} axes there, {found}")
    return tensors[name].shape


def read(path: Path) -> dict[str, Tensor]:
    """The parameters by path, in the dtype that they are stored in; of all else one array is held at a time.

    Raises:
        CheckpointError: it is no such file, or is truncated or damaged.
    """
    found: dict[str, Tensor] = {}
    for keys, packed in _pairs(path):
        is_state = keys[:2] == ["params", "params"]
        if is_state or keys[0] in ("model", "lm_head"):
            name = "/".join(keys[2:] if is_state else keys)
            if name in found:
                raise CheckpointError(f"{path} holds {name} twice")
            found[name] = _array(packed, f"{path}, {name}")
    if not found:
        raise CheckpointError(f"{path} holds no parameters, neither below params/params nor below model")
    return found


def _pairs(path: Path) -> Iterator[tuple[list[str], bytes]]:
    for entry in _objects(path):
        match entry:
            case [list() as keys, bytes() as packed] if keys and all(isinstance(key, str) for key in keys):
                yield keys, packed
            case _:
                raise CheckpointError(f"{path} holds something else than pairs of a path and an array")


def _objects(path: Path) -> Iterator[object]:
    """What the stream holds; a length that a header claims is bounded by the file's, before memory is taken for it."""
    msgpack, size = optional("msgpack"), path.stat().st_size
    with path.open("rb") as file:
        if file.read(1) != b"\x92":  # an array of two
            raise CheckpointError(f"{path} is no streaming checkpoint of the authors' JAX code: it does not begin as one")
        file.seek(0)
        unpacker = msgpack.Unpacker(
            file, max_buffer_size=size, max_str_len=1024, max_array_len=64, max_map_len=0, max_ext_len=0, max_bin_len=size
        )
        end = 0
        try:
            for found in unpacker:
                end = unpacker.tell()
                yield found
        except (msgpack.UnpackException, ValueError) as error:
            raise CheckpointError(f"{path} is damaged after byte {end} ({_said(error)})") from error
        if end != size:
            raise CheckpointError(f"{path} is truncated: what begins at byte {end} of {size} has no end")


def _array(packed: bytes, where: str) -> Tensor:
    msgpack = optional("msgpack")
    limits = {"max_array_len": 64, "max_map_len": 0}
    try:
        code, content = msgpack.unpackb(packed, ext_hook=lambda code, data: (code, data), **limits)
        shape, dtype, data = msgpack.unpackb(content, **limits)
        axes, kind = torch.Size(shape), _DTYPES[dtype]
    except (msgpack.UnpackException, LookupError, TypeError, ValueError) as error:
        cause = f"{_said(error)}; an array over 1 GiB, which flax cuts into pieces, is not read"
        raise CheckpointError(f"{where} is no array of floats ({cause})") from error
    if code != 1 or not data or len(data) != math.prod(axes) * kind.itemsize or min(axes) < 1:
        raise CheckpointError(f"{where} is no whole array: extension {code}, {dtype} {shape}, {len(data)} bytes")
    return torch.frombuffer(bytearray(data), dtype=kind).view(axes)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
