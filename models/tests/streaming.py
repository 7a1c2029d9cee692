"""The authors' JAX checkpoints, written from the description of their format alone, for tests of what reads them."""

from collections.abc import Mapping

import msgpack
import numpy as np

# Inside a layer: PyTorch name -> path, and the order of the axes that the array is stored in.
JAX_LAYER = {
    "seq_norm.weight": (["seq_norm", "kernel"], None),
    "ffn_norm.weight": (["ffn_norm", "kernel"], None),
    "mlp.gate_proj.weight": (["feed_forward", "w1", "kernel"], (1, 0)),
    "mlp.up_proj.weight": (["feed_forward", "w3", "kernel"], (1, 0)),
    "mlp.down_proj.weight": (["feed_forward", "w2", "kernel"], (1, 0)),
    "conv.norm.weight": (["conv", "conv_norm", "kernel"], None),
    "conv.conv.weight": (["conv", "conv1", "kernel"], (2, 1, 0)),
    "conv.conv.bias": (["conv", "conv1", "bias"], None),
}
JAX_TTT = {
    **{f"{name}_proj.weight": ([f"w{name}", "kernel"], (1, 0)) for name in "qkvog"},
    "conv_q.weight": (["conv_q", "kernel"], (2, 1, 0)),
    "conv_q.bias": (["conv_q", "bias"], None),
    "conv_k.weight": (["conv_k", "kernel"], (2, 1, 0)),
    "conv_k.bias": (["conv_k", "bias"], None),
    "learnable_ttt_lr_weight": (["learnable_ttt_lr/kernel"], (0, 2, 1)),
    "learnable_ttt_lr_bias": (["learnable_ttt_lr/bias"], None),
    "ttt_norm_weight": (["ttt_norm/scale"], None),
    "ttt_norm_bias": (["ttt_norm/bias"], None),
    "post_norm.weight": (["post_norm", "scale"], None),
    "post_norm.bias": (["post_norm", "bias"], None),
    "learnable_token_idx": (["learnable_token_idx"], None),
    "W1": (["ttt_dense_0"], None),
    "b1": (["ttt_bias_0"], None),
    "W2": (["ttt_dense_1"], None),
    "b2": (["ttt_bias_1"], None),
}


def jax_tree(params: Mapping[str, np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """Path -> array, of a tied model's parameters by PyTorch name."""
    tree: dict[tuple[str, ...], np.ndarray] = {
        ("model", "wte", "embedding"): params["model.embed_tokens.weight"],
        ("model", "ln_f", "kernel"): params["model.norm.weight"],
    }
    for name, array in params.items():
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            block = "seq_modeling_block."
            path, axes = JAX_TTT[rest.removeprefix(block)] if rest.startswith(block) else JAX_LAYER[rest]
            inside = ["seq_modeling_block", *path] if rest.startswith(block) else path
            tree["model", "h", layer, *inside] = array if axes is None else array.transpose(axes)
    return tree


def packed(array: np.ndarray, dtype: str = "bfloat16", code: int = 1) -> bytes:
    """flax.serialization.to_bytes of an array: bfloat16 is the upper half of float32."""
    halves = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    data = halves.tobytes() if dtype == "bfloat16" else array.astype(dtype).tobytes()
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb((array.shape, dtype, data))))


def pair(path: tuple[str, ...], value: bytes) -> bytes:
    return msgpack.packb((path, value))


def train_state(params: Mapping[str, np.ndarray]) -> bytes:
    """A whole training state: a step, the parameters, something of the optimizer."""
    tree = jax_tree(params)
    pairs = [pair(("step",), packed(np.array(7), "int32", code=3))]
    pairs += [pair(("params", "params", *path), packed(array)) for path, array in tree.items()]
    pairs += [pair(("opt_state", "1", "0", "mu", "params", *path), packed(0 * array)) for path, array in tree.items()]
    return b"".join(pairs)
