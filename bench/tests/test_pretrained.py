"""A training run's folder gives back the model that was measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.config import ConfigError, from_record, identity, record
from bench.data.batches import heldout_windows
from bench.data.prepare import prepare
from bench.evaluate import window_nll
from bench.pretrained import load_pretrained
from bench.results import CorruptResults, read_run
from bench.run import describe, execute
from bench.tests.micro import MODELS, micro_run


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
    with pytest.raises(CorruptResults, match=r"lacks run\.json"):
        load_pretrained(tmp_path)
