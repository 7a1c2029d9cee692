"""Agreement with outputs of the authors' code, and what the loader says of parameters that do not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import golden
from models.checkpoints import ttt
from models.layers import RMSNorm
from models.ttt import TTT

GOLDEN = Path(__file__).parent / "golden"
LINEAR_MAMBA = GOLDEN / "ttt_linear_mamba_backbone.npz"
MLP_TRANSFORMER = GOLDEN / "ttt_mlp_transformer_backbone.npz"
TTT_0 = "model.layers.0.seq_modeling_block."

Arrays = dict[str, np.ndarray]
Changed = Callable[..., Path]


def arrays_of(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def with_config(arrays: Arrays, **changes: Any) -> Arrays:
    return arrays | {"config": np.array(json.dumps(json.loads(arrays["config"].item()) | changes))}


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """``changed(change, source)`` writes what ``change`` makes of the source's arrays."""

    def write(change: Callable[[Arrays], Arrays], source: Path = LINEAR_MAMBA) -> Path:
        path = tmp_path / "changed.npz"
        np.savez(path, allow_pickle=True, **change(arrays_of(source)))
        return path

    return write


def truncated(arrays: Arrays, length: int) -> Arrays:
    return arrays | {key: arrays[key][:, :length] for key in ("input_ids", "logits")}


def without(arrays: Arrays, *keys: str) -> Arrays:
    return {key: value for key, value in arrays.items() if key not in keys}


def test_reference_files_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(LINEAR_MAMBA), str(MLP_TRANSFORMER)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["file", "layer", "backbone", "L"]
    assert [row.split()[:4] for row in rows] == [
        ["ttt_linear_mamba_backbone", "linear", "mamba", "45"],
        ["ttt_mlp_transformer_backbone", "mlp", "transformer", "45"],
    ]
    assert all(row.endswith("ok") for row in rows)


@pytest.mark.parametrize("length", [1, 16])
def test_short_references_pass(changed: Changed, length: int) -> None:
    assert golden.main([str(changed(lambda arrays: truncated(arrays, length)))]) == 0


@pytest.mark.parametrize("path", [LINEAR_MAMBA, MLP_TRANSFORMER], ids=["linear-mamba", "mlp-transformer"])
def test_every_parameter_matters(path: Path) -> None:
    """Noise on any one parameter fails the comparison: none is loaded into a place that nothing reads."""
    reference = golden.read(path)
    lm = golden.build(reference)
    with torch.no_grad():
        for name, place in ttt.places(lm).items():
            parameter = place.view
            before = parameter.clone()
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=1e-2)
            error = (lm(reference.tokens) - reference.logits).abs().max() / reference.logits.abs().max()
            parameter.copy_(before)
            assert error > golden.TOLERANCE, name


@pytest.mark.parametrize("noise", [1e-3, np.nan])
def test_a_changed_parameter_fails(changed: Changed, capsys: pytest.CaptureFixture[str], noise: float) -> None:
    name = f"param/{TTT_0}W1"
    path = changed(lambda arrays: truncated(arrays, 20) | {name: arrays[name] * np.float32(1 + noise)})
    assert golden.main([str(path)]) == 1
    assert capsys.readouterr().out.rstrip().endswith("FAIL")


def test_a_step_that_differs_from_forward_fails() -> None:
    """An error after a prefill is found, with its split: here the state of every prefill of 3 tokens is spoilt."""
    reference = golden.read(MLP_TRANSFORMER)
    short = golden.Reference(reference.config, reference.tokens[:, :20], reference.logits[:, :20], reference.params)
    lm = golden.build(short)
    prefill = lm.mixers[0].prefill

    def spoilt(x: torch.Tensor, state: Any) -> torch.Tensor:
        out = prefill(x, state)
        if x.shape[1] == 3:
            state.inner.weights[0].mul_(1.01)
        return out

    lm.mixers[0].prefill = spoilt  # type: ignore[method-assign]
    errors = golden.compare(lm, short)
    assert errors.forward < golden.TOLERANCE
    assert (errors.steps_split, errors.chunks_split, errors.ok) == (3, 3, False)
    assert min(errors.steps, errors.chunks) > golden.TOLERANCE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: without(a, f"param/{TTT_0}W1"), f"missing {TTT_0}W1"),
        (lambda a: a | {"param/model.extra": np.zeros(3)}, "left over model.extra"),
        (lambda a: a | {f"param/{TTT_0}b1": np.zeros((4, 16))}, rf"{TTT_0}b1 has shape \[4, 16\], the model has \[4, 1, 16\]"),
        (lambda a: a | {"param/lm_head.weight": np.zeros((97, 64))}, "lm_head.weight differs"),
        (lambda a: without(with_config(a, tied_embeddings=False), "param/lm_head.weight"), "missing lm_head.weight"),
        (lambda a: with_config(a, layer="conv"), "layer 'conv'; supported: linear, mlp"),
        (lambda a: with_config(a, backbone="rnn"), "backbone 'rnn'; supported: transformer, mamba"),
        (lambda a: with_config(a, num_heads=5), "5 heads do not divide width 64"),
        (lambda a: with_config(a, mini_batch_size=0), "mini_batch_size 0, which must be"),
        (lambda a: a | {"config": np.array('{"layer": "mlp"}')}, "the config lacks backbone, hidden_size"),
        (lambda a: a | {"config": np.array("[1]")}, "config is not a JSON object"),
        (lambda a: without(a, "logits", "config"), "the file lacks config, logits"),
        (lambda a: a | {"logits": a["logits"][:, 1:]}, "input_ids .* and logits .* are not"),
        (lambda a: a | {"input_ids": a["input_ids"] + 97}, "input_ids are not all between 0 and 96"),
        (lambda a: a | {"logits": np.pad(a["logits"], ((0, 0), (0, 0), (0, 1)))}, "vocab_size is 97"),
        (lambda a: a | {"config": np.array({}, dtype=object)}, "allow_pickle=False"),
    ],
)
def test_a_file_that_does_not_fit_says_why(changed: Changed, change: Callable[[Arrays], Arrays], message: str) -> None:
    path = changed(change)
    with pytest.raises(ValueError, match=message):
        golden.build(golden.read(path))


def test_a_file_that_cannot_be_read_fails_and_the_others_are_still_checked(
    tmp_path: Path, changed: Changed, capsys: pytest.CaptureFixture[str]
) -> None:
    text, damaged = tmp_path / "text.npz", tmp_path / "damaged.npz"
    text.write_text("no archive")
    content = bytearray(LINEAR_MAMBA.read_bytes())
    content[5000] ^= 0xFF
    damaged.write_bytes(content)
    good = changed(lambda arrays: truncated(arrays, 3))
    assert golden.main([str(tmp_path / "none.npz"), str(text), str(damaged), str(good)]) == 1
    _, *bad, last = capsys.readouterr().out.splitlines()
    for line, message in zip(bad, ("No such file", "not an .npz file", "damaged"), strict=True):
        assert message in line
    assert last.endswith("ok")


def test_untied_embeddings_have_a_head_of_their_own() -> None:
    reference = golden.read(LINEAR_MAMBA)
    untied = reference.params | {"lm_head.weight": -2 * reference.params["lm_head.weight"]}
    lm = golden.build(replace(reference, config=reference.config | {"tied_embeddings": False}, params=untied))
    torch.testing.assert_close(lm(reference.tokens), -2 * golden.build(reference)(reference.tokens))


def test_tied_embeddings_need_no_head() -> None:
    reference = golden.read(LINEAR_MAMBA)
    lm = golden.build(replace(reference, params=without(reference.params, "lm_head.weight")))
    assert lm.head.weight is lm.embedding.weight


def test_norm_eps_is_that_of_the_rms_norms_alone() -> None:
    lm = ttt.described(golden.read(MLP_TRANSFORMER).config | {"norm_eps": 1e-3}).build()
    assert {module.eps for module in lm.modules() if isinstance(module, RMSNorm)} == {1e-3}
    assert {module.eps for module in lm.modules() if isinstance(module, TTT | torch.nn.LayerNorm)} == {1e-6}
