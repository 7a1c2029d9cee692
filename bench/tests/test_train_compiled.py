"""Training by torch.compile and by CUDA graphs, in processes without the checks of shapes, which do not compile."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import ConfigError, TrainConfig
from bench.results import ROOT
from bench.tests.test_train import new_lm, optim, periodic, steps_of
from bench.train import train
from kernels import selective_scan
from kernels.tests.optional import loaded

COMPILED = """
import sys
from pathlib import Path

import torch

from bench.config import TrainConfig
from bench.tests.test_train import new_lm, optim, periodic, steps_of
from bench.train import train

torch.set_num_threads(1)
folder = Path(sys.argv[1])
lm = new_lm("transformer", layers=3).train_in(torch.float32, recompute=True, compiled=True)
same = train(lm, steps_of(3), periodic(), optim(), folder / "compiled", how=TrainConfig(compile=True)).curve
eager = train(new_lm("transformer", layers=3), steps_of(3), periodic(), optim(), folder / "eager").curve
assert all(abs(a - b) < 1e-5 for (_, a), (_, b) in zip(same, eager, strict=True)), (same, eager)
from torch._dynamo.utils import counters
assert counters["stats"]["unique_graphs"] == 2, counters  # one for all blocks, one for the likelihood; none for the last batch
assert not counters["graph_break"], counters
import models.lm
models.lm.RECOMPILE_LIMIT = 1
lm = new_lm("transformer").train_in(torch.float32, compiled=True)
try:
    train(lm, steps_of(2), periodic(), optim(), folder / "other", how=TrainConfig(compile=True, micro_batch=1))
except torch._dynamo.exc.FailOnRecompileLimitHit:
    pass
else:
    raise AssertionError("it went on uncompiled")
"""


def test_compiled_blocks_train_alike_and_share_one_graph(tmp_path: Path) -> None:
    """In a process of its own, as the checks of shapes that tests add do not compile."""
    words = [sys.executable, "-c", COMPILED, str(tmp_path)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


GRAPHED = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bench.build import build_lm
from bench.config import TrainConfig
from bench.tests.test_train import VOCAB, config_of, optim, periodic, steps_of
from bench.train import train
from models.lm import LM
from models.mixer import Size

folder, model, impl, compiled = Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4] == "True"


def trained(graph: bool) -> tuple[list[float], LM]:
    torch.compiler.reset()
    torch.manual_seed(0)
    lm = build_lm(replace(config_of(model), impl=impl), Size(width=64, layers=2, heads=2, ffn=48), VOCAB).to("cuda")
    lm.train_in(torch.bfloat16, compiled=compiled)
    how = TrainConfig(micro_batch=3, compile=compiled, graph=graph)
    curve = train(lm, steps_of(5), periodic(), optim(), folder / f"{graph}", how=how).curve
    return [loss for _, loss in curve], lm


(expected, lm), (found, again) = trained(False), trained(True)
torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
assert expected[-1] < expected[0]
for p, q in zip(lm.parameters(), again.parameters(), strict=True):
    torch.testing.assert_close(p, q, rtol=0, atol=1e-2 * 1e-2)  # a hundredth of a step of AdamW
"""


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        *("ttt_linear triton", "ttt_mlp triton", "ttt_linear reference", "transformer reference", "mamba reference"),
        "mamba mamba_ssm",
    ],
)
def test_a_graph_trains_as_its_calls_do(model: str, compiled: bool, tmp_path: Path) -> None:
    """Micro-batches of 3, 3 and 2, of which the last is no graph's; a last batch of 3 and 1."""
    if model == "mamba mamba_ssm":
        loaded(selective_scan.OP, "mamba_ssm")
    words = [sys.executable, "-c", GRAPHED, str(tmp_path), *model.split(), str(compiled)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_graph_is_for_one_gpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.graph=true wants a GPU, not device.type=cpu; leave it out"):
        train(new_lm("transformer"), steps_of(2), periodic(), optim(), tmp_path / "c", how=TrainConfig(graph=True))
