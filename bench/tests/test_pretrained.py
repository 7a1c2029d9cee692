"""A training run's folder gives back the model that was measured."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bench.config import ConfigError, from_record, identity, record
from bench.data import DataError
from bench.data.batches import heldout_windows
from bench.data.prepare import prepare
from bench.evaluate import window_nll
from bench.pretrained import load_pretrained
from bench.results import CorruptResults, read_run
from bench.run import describe, execute
from bench.tests.micro import MODELS, micro_run
from models.checkpoints import write
from models.checkpoints.architecture import Architecture, Checkpoint
from models.checkpoints.config import CheckpointError
from models.mixer import Size


@pytest.mark.parametrize("model", MODELS)
def test_the_model_of_a_folder_scores_the_held_out_text_as_its_run_did(model: str, tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", f"model={model}")
    folder = Path(run.results) / "train" / describe(run).run_id
    execute(run)
    loaded = load_pretrained(folder)
    windows = heldout_windows(prepare(run.data).documents("heldout"), loaded.train_context)
    losses = [float(loss.mean(dtype="float64")) for loss in window_nll(loaded.lm, windows, run.device.tokens_at_once)]
    (row,) = [row for row in read_run(folder).rows if row.metric == "nll"]
    assert list(row.samples) == losses
    assert (loaded.name, loaded.lm.training) == (folder.name, False)


def test_a_size_that_was_matched_is_matched_again(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "model=transformer", "match=ffn", "match.tolerance=0.2")
    execute(run)
    loaded = load_pretrained(Path(run.results) / "train" / describe(run).run_id)
    assert loaded.lm.size.ffn != run.size.ffn


def test_a_record_gives_the_run_back(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "optim.lr=0.5", "device.dtype=bfloat16")
    again = from_record(record(run))
    assert identity(again) == identity(run)
    assert replace(again, results=run.results) == run
    with pytest.raises(ConfigError, match="this version"):
        from_record({**record(run), "modle": 1})


def test_a_folder_without_weights_says_what_is_wanted(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "state_vs_context")
    execute(run)
    with pytest.raises(CorruptResults, match="training run that is done"):
        load_pretrained(Path(run.results) / "state_vs_context" / describe(run).run_id)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_pretrained(tmp_path)


def test_a_folders_configuration_runs_no_code(tmp_path: Path) -> None:
    run = micro_run(tmp_path, "train", "model=mamba")
    execute(run)
    folder = Path(run.results) / "train" / describe(run).run_id
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["layer"][0] = {"_target_": "pathlib.Path.touch", "_args_": [str(tmp_path / "ran")]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match="no mixer of models/"):
        load_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_a_converted_model_says_what_it_lacks(tmp_path: Path) -> None:
    about = Architecture(200, Size(8, 1, 1, 8), [{"_target_": "models.attention.Attention"}])
    held = Checkpoint(about, about.build(), "test", train_context=16)
    write(held, tmp_path / "ours", "ours")
    with pytest.raises(DataError, match="does not say its tokenizer; name one"):
        load_pretrained(tmp_path / "ours")
    with pytest.raises(DataError, match="'bytes' has 256 tokens, the model knows 200"):
        load_pretrained(tmp_path / "ours", tokenizer="bytes")
    write(replace(held, train_context=None), tmp_path / "none", "ours")
    with pytest.raises(CheckpointError, match="--train-context"):
        load_pretrained(tmp_path / "none", tokenizer="bytes")
