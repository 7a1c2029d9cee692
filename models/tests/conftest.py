"""Every model of conf/model, small: a test that takes ``build`` runs once for each, and each mini-batch size given."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf

if not torch.cuda.is_available():  # before triton is imported, which models.lm does by way of torch
    os.environ.setdefault("TRITON_INTERPRET", "1")

from models.checkpoints.architecture import Architecture
from models.lm import LM, Branch
from models.mixer import Size

CONF = Path(__file__).parents[2] / "conf" / "model"
MODELS = sorted(path.stem for path in CONF.glob("*.yaml"))

Build = Callable[..., LM]


def load(path: Path) -> Any:
    """A file of conf/."""
    return OmegaConf.load(path)


def architecture(name: str, size: Size, vocab: int, mini_batch: int = 16, impl: str = "reference") -> Architecture:
    """The model of conf/model/<name>.yaml, with ``layers_factor`` applied to the layers."""
    config = load(CONF / f"{name}.yaml")
    layers = size.layers * config.get("layers_factor", 1)
    chosen = OmegaConf.merge(config, {"impl": impl, "mini_batch": mini_batch})
    plain = cast(dict[str, Any], OmegaConf.to_container(chosen, resolve=True))
    return Architecture(vocab, replace(size, layers=layers), plain["layer"])


def build_model(*args: Any, **options: Any) -> LM:
    """Of ``architecture``'s arguments."""
    return architecture(*args, **options).build()


def has_mini_batch(name: str) -> bool:
    """Whether a model of conf/model works in mini-batches."""
    return "mini_batch" in load(CONF / f"{name}.yaml")


def branches(model: LM) -> list[Branch]:
    """The residual branches, from input to output."""
    return cast(list[Branch], list(model.branches))


def perturb(model: LM, scale: float = 0.2) -> LM:
    """The model in float64 with noise on every parameter, so that zeros, ones and equal rows hide no term."""
    model.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=scale)
    return model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """On tensors this small more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(params=MODELS)
def build(request: pytest.FixtureRequest) -> Build:
    """``build(size, vocab, mini_batch=16)`` makes one of the models."""
    return lambda *args, **options: build_model(request.param, *args, **options)
