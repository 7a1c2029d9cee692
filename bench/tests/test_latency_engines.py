"""Which engine goes on after a trial, and where a model's weights are when memory was short."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from bench.latency.engine import Roster
from bench.latency.match import fastest
from bench.results import Row
from bench.tests.micro import micro_run
from models.lm import LM

CPU = torch.device("cpu")


def test_of_ways_that_are_as_fast_the_graph_goes_on() -> None:
    def tried(times: dict[str, float]) -> object:
        return fastest([Row(metric="latency", value=t, unit="s", at={"exec": name}) for name, t in times.items()])[0].at["exec"]

    assert tried({"eager": 2.0, "compile": 1.0, "compile_graph": 1.01}) == "compile_graph"
    assert tried({"eager": 2.0, "compile": 1.0, "compile_graph": 1.03}) == "compile"
    assert fastest([]) == []


def test_a_model_that_memory_stopped_half_way_to_the_device_gets_there_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = instantiate(micro_run(tmp_path, "latency").experiment.measure)
    roster = Roster(about.models, about.sized, about.vocab, CPU, torch.float32, seed=0)
    lm, roster.device = roster.lm("ttt_linear", "reference"), torch.device("cpu", 0)  # another one, as it were
    with monkeypatch.context() as patch:
        patch.setattr(LM, "unite", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            roster.fetch("ttt_linear")
    for mixer in lm.mixers:
        mixer.settled = None
    roster.fetch("ttt_linear")
    assert any(mixer.settled is not None for mixer in lm.mixers)
