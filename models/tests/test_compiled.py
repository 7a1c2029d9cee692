"""Compiled blocks obey the law of inference, with functions that change states in place and Triton operations among them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ON_CPU = ["transformer", "ttt_linear:triton"]
ON_GPU = ["ttt_linear:triton", "ttt_mlp:triton", "ttt_linear_t:triton", "transformer:split_kv", "mamba", "mamba2"]


@pytest.mark.parametrize(
    ("backend", "models"), [("aot_eager", ON_CPU), pytest.param("inductor", ON_GPU, marks=pytest.mark.gpu)]
)
def test_a_beginning_and_steps_give_what_whole_sequences_do(backend: str, models: list[str]) -> None:
    """aot_eager traces and separates what changes a state as inductor does, without its compiler."""
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    words = [sys.executable, "-m", "models.tests.compiled", backend, *models]
    ended = subprocess.run(words, cwd=ROOT, env=os.environ | interpreted, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    told = [line.split() for line in ended.stdout.splitlines()]
    assert [name for name, _, _ in told] == [model.split(":")[0] for model in models]
    assert all(float(error) < 1e-4 and int(graphs) > 2 for _, error, graphs in told)
