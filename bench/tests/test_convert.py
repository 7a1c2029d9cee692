"""Conversions appear whole, verified, and only where nothing is overwritten."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import convert, golden
from bench.pretrained import load_pretrained, read_model
from bench.results import ROOT
from bench.run import describe, execute
from bench.tests.micro import micro_run
from models.checkpoints import read, write
from models.checkpoints.config import CheckpointError
from models.checkpoints.files import read_tensors, write_folder
from models.lm import LM

REFERENCE = ROOT / "models" / "tests" / "golden" / "ttt_mlp_transformer_backbone.npz"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Transformer's training run."""
    run = micro_run(tmp_path_factory.mktemp("convert"), "train", "model=transformer")
    execute(run)
    return Path(run.results) / "train" / describe(run).run_id


def command(*words: object) -> int:
    return convert.main([str(word) for word in words])


@torch.no_grad()
def logits(lm: LM) -> torch.Tensor:
    return lm(torch.arange(20)[None])


def test_a_run_to_ours_to_theirs_and_back(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run_folder, tmp_path / "ours") == 0
    read_line, written, verified = capsys.readouterr().out.splitlines()
    assert "a training run, 1 x (Attention + SwiGLU), width 32, vocabulary 256" in read_line
    assert written.startswith(f"written   {tmp_path / 'ours'}: ours, ")
    assert "the same logits to the last bit" in verified
    assert command(tmp_path / "ours", tmp_path / "llama", "--to", "llama") == 0
    assert command(tmp_path / "llama", tmp_path / "again", "--tokenizer", "bytes") == 0
    first, last = load_pretrained(run_folder), load_pretrained(tmp_path / "again")
    assert torch.equal(logits(first.lm), logits(last.lm))
    assert (last.name, last.tokenizer.name, last.train_context) == ("again", "bytes", first.train_context)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "llama", "ours"]


def test_nothing_is_overwritten_unless_told(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "ours"
    assert command(run_folder, target) == 0
    before = read_tensors(target)
    write_folder(target, {}, {})
    assert command(run_folder, target) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert read_tensors(target) == {}
    assert command(run_folder, target, "--overwrite") == 0
    assert read_tensors(target).keys() == before.keys()
    (target / "notes.txt").touch()
    assert command(run_folder, target, "--overwrite") == 1
    assert "holds other files (notes.txt)" in capsys.readouterr().err
    assert command(run_folder, run_folder, "--overwrite") == 1
    assert (run_folder / "weights.pt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_what_fails_leaves_nothing(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run_folder, tmp_path / "in" / "x", "--to", "mamba") == 1
    assert "a layer of that format is Mamba or Mamba2; of this model it is Attention + SwiGLU" in capsys.readouterr().err
    assert command(run_folder, tmp_path / "x", "--tokenizer", "none") == 1
    assert "there is no tokenizer 'none'" in capsys.readouterr().err
    assert command(run_folder, tmp_path / "x", "--reference", REFERENCE) == 1
    assert "the reference has 97 logits for each token, the model 256" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_converted(run_folder: Path, tmp_path: Path) -> None:
    held = read_model(run_folder)
    with torch.no_grad():
        held.lm.norm.weight[0] = torch.nan
    broken = tmp_path / "broken"
    write(held, broken, "ours")
    with pytest.raises(CheckpointError, match="not all finite"):
        list(convert.convert(broken, tmp_path / "x"))


def test_a_reference_file_is_converted_and_its_logits_are_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "short.npz"
    with np.load(REFERENCE) as file:
        np.savez(source, **dict(file) | {key: file[key][:, :3] for key in ("input_ids", "logits")})
    assert command(source, tmp_path / "ours") == 1
    assert "--train-context TOKENS" in capsys.readouterr().err
    assert command(source, tmp_path / "ours", "--train-context", "2048") == 0
    assert "reference its logits are met, relative errors forward" in capsys.readouterr().out
    assert golden.compare(read(tmp_path / "ours").lm.double(), golden.read(source)).ok
    assert command(tmp_path / "ours", tmp_path / "ttt", "--to", "ttt", "--reference", source) == 0
    with np.load(source) as file:
        np.savez(tmp_path / "other.npz", **dict(file) | {"logits": file["logits"] * 1.001})
    assert command(tmp_path / "ours", tmp_path / "x", "--reference", tmp_path / "other.npz") == 1
    assert "its logits are not those of the reference" in capsys.readouterr().err


def test_a_tokenizers_file_goes_with_the_model(run_folder: Path, tmp_path: Path) -> None:
    assert command(run_folder, tmp_path / "llama", "--to", "llama") == 0
    (tmp_path / "llama" / "tokenizer.json").write_text("{}")
    assert command(tmp_path / "llama", tmp_path / "ours") == 0
    assert command(tmp_path / "ours", tmp_path / "again") == 0
    assert read_model(tmp_path / "again").tokenizer == "tokenizer.json"
    shutil.rmtree(tmp_path / "llama")
    assert (tmp_path / "again" / "tokenizer.json").read_text() == "{}"
