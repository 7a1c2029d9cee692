"""What is published reads as what was measured, whatever form it has."""

from pathlib import Path

import pytest

from bench import publish
from bench.results import CorruptResults, Run, read_run
from bench.tests.synthetic_runs import Bench


def measured(tmp_path: Path) -> Run:
    bench = Bench(tmp_path / "runs")
    return bench.write("train", "mamba", bench.train("mamba", "nano_3", 0))


@pytest.mark.parametrize("is_many", [False, True])
def test_rows_are_the_same_whether_many_or_few(is_many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = measured(tmp_path)
    size = (run.folder / "rows.jsonl").stat().st_size
    monkeypatch.setattr(publish, "MANY", size if is_many else size + 1)
    folder = publish.publish(run, tmp_path / "published")
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "run.json", "rows.jsonl" + ".gz" * is_many}
    assert read_run(folder).rows == run.rows
    packed = {path.name: path.read_bytes() for path in folder.iterdir()}
    publish.publish(run, tmp_path / "published")  # again, in its place
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == packed


def test_compressed_rows_that_are_cut_or_changed_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MANY", 1)
    folder = publish.publish(measured(tmp_path), tmp_path / "published")
    path = folder / "rows.jsonl.gz"
    whole = path.read_bytes()
    changed = bytes(byte ^ 1 if n == len(whole) // 2 else byte for n, byte in enumerate(whole))
    for damaged in (whole[: len(whole) // 2], whole[:-1], changed, b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptResults, match=r"rows\.jsonl\.gz is damaged .*restore it, or delete the folder"):
            read_run(folder)
    path.unlink()
    with pytest.raises(CorruptResults, match=r"holds 0 rows"):
        read_run(folder)
