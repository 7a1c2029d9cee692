"""Our own format: config.json says all that rebuilds the model, model.safetensors holds its parameters by their own names.

    {"format": "ttt-bench", "version": 1, "vocab": V, "size": {"width", "layers", "heads", "ffn"}, "tied": …, "eps": …,
     "layer": [{"_target_": "models.x.X", …}, …], "tokenizer": name, file beside it or null, "train_context": tokens or null}

``layer`` is what conf/model says but for the implementations, which are for those to choose who load it.
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from models.checkpoints.architecture import Architecture, Checkpoint
from models.checkpoints.config import CheckpointError, Config, values
from models.checkpoints.places import Place
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
    if config.get("tokenizer") is not None:
        name = values(config, {"tokenizer": str})["tokenizer"]
        if Path(name).name != name:
            raise CheckpointError(f"the config has tokenizer '{name}', which must be a name, or that of a file beside it")
    if not found["layer"] or not all(isinstance(branch, dict) for branch in found["layer"]):
        raise CheckpointError("the config has a layer that is no list of branches")
    return Architecture(found["vocab"], Size(**size), found["layer"], found["tied"], found["eps"])


def places(lm: LM) -> dict[str, Place]:
    """The names of ``state_dict``."""
    named = lm.named_parameters(remove_duplicate=False)
    is_tied = lm.head.weight is lm.embedding.weight
    return {name: Place(p, tuple(p.shape), is_alias=is_tied and name == "head.weight") for name, p in named}


def remarks(_: Config) -> tuple[str, ...]:
    """None."""
    return ()


def config(held: Checkpoint) -> dict[str, Any]:
    """The inverse of ``architecture``, with tokenizer and training context."""
    about = held.architecture
    layer = [{key: value for key, value in branch.items() if key not in ("_partial_", "impl")} for branch in about.layer]
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
