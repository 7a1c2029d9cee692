"""Everything but optional implementations and reports works where the optional packages are not installed."""

import subprocess
import sys

from bench.results import ROOT

CODE = """
import importlib, pkgutil, sys

OPTIONAL = ("triton", "wandb", "lm_eval", "mamba_ssm", "causal_conv1d", "flash_attn", "fla", "IPython", "datasets")
OPTIONAL += ("transformers", "safetensors", "msgpack", "mistral_common", "pyarrow", "sentencepiece", "tokenizers")
for name in OPTIONAL:
    sys.modules[name] = None  # importing it now fails as it does where it is not installed

import bench, kernels, models

for package in (kernels, models, bench):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".tests" not in module.name:
            try:
                print(importlib.import_module(module.name).__name__)
            except ImportError as error:  # a kernel, which nothing but the kernels beside it may import, or what stands apart
                is_apart = package is kernels or module.name in ("bench.lm_eval.model", "bench.tracking.log")
                if not is_apart or error.name.split(".")[0] not in OPTIONAL:
                    raise
                print(f"optional:{module.name}")

import torch

from bench.build import build_lm, size_of
from bench.compose import compose_run
from bench.config import CONF

for path in sorted(CONF.glob("*/*.yaml")):
    group = path.parent.name
    if group not in ("tier", "launcher"):
        run = compose_run([f"{group}={path.stem}"])
        with torch.device("meta"):
            build_lm(run.model, size_of(run.size, run.model), run.data.vocab)
        print(f"{group}={path.stem}")
"""


def test_every_module_and_every_choice_without_optional_packages() -> None:
    ended = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    seen = set(ended.stdout.split())
    assert {"optional:kernels.selective_scan.mamba_ssm", "optional:kernels.ttt_linear.fla_chunk"} <= seen
    needed = {f"kernels.{op}.reference" for op in ("ttt", "attention", "selective_scan", "ssd", "causal_conv", "gated_norm")}
    assert needed | {"kernels.check", "kernels.ttt_mlp", "bench.experiments.kernel_speed"} <= seen
    assert {"optional:bench.lm_eval.model", "bench.lm_eval.documents", "bench.experiments.lm_eval"} <= seen
    assert {"kernels.ttt.reference", "models.ttt", "bench.run", "bench.__main__", "bench.experiments.train"} <= seen
    assert {"optional:bench.tracking.log", "bench.tracking.process", "tracking=wandb"} <= seen
    assert {"model=ttt_mlp", "size=1.3b", "experiment=decode_latency", "device=h100"} <= seen
