"""Our own format: config.json says all that rebuilds the model, model.safetensors holds its parameters by their own names.

    {"format": "ttt-bench", "version": 1, "vocab": V, "size": {"width", "layers", "heads", "ffn"}, "tied": …, "eps": …,
     "layer": [{"_target_": "models.x.X", …}, …], "tokenizer": name, file beside it or null, "train_context": tokens or null}

``layer`` is what conf/model says, without implementations: which runs is for those to say who load it.
"""

from dataclasses import asdict, fields
from typing import Any

from models.checkpoints.architecture import Architecture, Checkpoint
from models.checkpoints.config import CheckpointError, Config, values
from models.checkpoints.places import Place, as_is
from models.lm import LM
from models.mixer import Size

FORMAT, VERSION = "ttt-bench", 1
IGNORED: tuple[str, ...] = ()


def claims(config: Config) -> bool:
    """By its ``format``."""
    return config.get("format") == FORMAT


def architecture(config: Config) -> Architecture:
    """As it stands there."""
    found = values(config, {"version": (VERSION,), "vocab": int, "size": dict, "layer": list, "tied": bool, "eps": float})
    size = values(found["size"], {field.name: int for field in fields(Size)})
    if not found["layer"] or not all(isinstance(branch, dict) for branch in found["layer"]):
        raise CheckpointError("the config has a layer that is no list of branches")
    return Architecture(found["vocab"], Size(**size), found["layer"], found["tied"], found["eps"])


def places(lm: LM) -> dict[str, Place]:
    """The names of ``state_dict``; a tied head has none."""
    return {name: as_is(parameter, lm.size) for name, parameter in lm.named_parameters()}


def config(held: Checkpoint) -> dict[str, Any]:
    """The inverse of ``architecture``, with tokenizer and training context."""
    about = held.architecture
    layer = [{key: value for key, value in branch.items() if key != "impl"} for branch in about.layer]
    return {
        "format": FORMAT,
        "version": VERSION,
        "vocab": about.vocab,
        "size": asdict(about.size),
        "layer": layer,
        "tied": about.tied,
        "eps": about.eps,
        "tokenizer": held.tokenizer,
        "train_context": held.train_context,
    }
