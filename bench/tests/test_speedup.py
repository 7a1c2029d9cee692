"""Rates of several GPUs beside those of one, where both are of one place."""

from pathlib import Path

import pytest

from bench.results import At, Manifest, Row, open_run
from bench.speedup import main


def write(root: Path, gpus: int, batch: int, rate: float, memory: float) -> None:
    fields = {"git_sha": "x", "dirty": False, "sources": "x", "versions": {}, "device": "H100", "seed": 0, "started": ""}
    manifest = Manifest(run_id=f"r{gpus}-{batch}", experiment="train_speed", config_hash="x", **fields)  # type: ignore[arg-type]
    at: At = {"model": "ttt_mlp", "size": "1.3b", "context": 8192, "batch": batch, "gpus": gpus}
    with open_run(root, manifest, {}) as recorder:
        recorder.write(Row(metric="peak_memory", value=memory, unit="byte", at=at))
        recorder.write(Row(metric="throughput", value=rate, unit="token/s", at=at))
        recorder.finish("done")


def test_efficiency_is_of_the_same_batch_or_of_the_same_share_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 1, 4, 1000.0, 60 * 2**30)
    write(tmp_path, 2, 4, 1500.0, 35 * 2**30)
    write(tmp_path, 2, 8, 1900.0, 50 * 2**30)
    said = []
    for words in ([], ["--weak"]):
        assert main([str(tmp_path), *words]) == 0
        said.append([line.split()[3:] for line in capsys.readouterr().out.splitlines()[1:]])
    assert said[0] == [
        ["4", "1", "1,000", "1,000", "100.0%", "60.0"],
        ["4", "2", "1,500", "750", "75.0%", "35.0"],
        ["8", "2", "1,900", "950", "50.0"],
    ]
    assert [line[1:5] for line in said[1]] == [
        ["2", "1,500", "750", "35.0"],
        ["1", "1,000", "1,000", "100.0%"],
        ["2", "1,900", "950", "95.0%"],
    ]


def test_without_such_rows_it_says_what_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "experiment=train_speed" in capsys.readouterr().err
