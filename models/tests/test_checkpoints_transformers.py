"""Llama and Mamba against transformers' own models with the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

from models.checkpoints import read, write
from models.checkpoints.config import CheckpointError

VOCAB = 96
TOKENS = torch.randint(VOCAB, (2, 37), generator=torch.Generator().manual_seed(0))
MAMBA = {"d_model": 40, "n_layer": 2, "vocab_size": 93, "ssm_cfg": {"d_state": 8}, "rms_norm": True, "residual_in_fp32": True}
MAMBA_2 = MAMBA | {
    "d_model": 64,
    "d_intermediate": 0,
    "ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 16, "chunk_size": 8},
    "attn_layer_idx": [],
    "attn_cfg": {},
    "tie_embeddings": True,
}


def noisy(model: Any) -> Any:
    """In float64, with noise on every parameter."""
    generator = torch.Generator().manual_seed(1)
    model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return model


def agree(ours: Tensor, theirs: Tensor) -> None:
    """Theirs keep tables and states in float32."""
    assert (ours - theirs).abs().max() < 1e-6 * theirs.abs().max()


def llama(**options: Any) -> Any:
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "rms_norm_eps": 1e-3}
    return noisy(LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **size, **options)))


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_llama_both_ways(tied: bool, tmp_path: Path) -> None:
    theirs = llama(tie_word_embeddings=tied, rope_theta=500.0, max_position_embeddings=77)
    expected = theirs(TOKENS).logits
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")  # several files
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    held = read(tmp_path / "theirs")
    assert held.train_context == 77
    agree(held.lm(TOKENS), expected)
    write(held, tmp_path / "ours", "llama")
    back, report = LlamaForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    agree(back.double()(TOKENS).logits, expected)


def mamba() -> Any:
    return MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=40, state_size=8, num_hidden_layers=2))


def mamba2() -> Any:
    heads = {"num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 16}
    size = {"vocab_size": VOCAB, "hidden_size": 64, "state_size": 16, "num_hidden_layers": 2}
    return Mamba2ForCausalLM(Mamba2Config(**size, **heads, tie_word_embeddings=True))


@torch.no_grad()
@pytest.mark.parametrize("second", [False, True], ids=["mamba", "mamba2"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_mamba(second: bool, file: str, tmp_path: Path) -> None:
    """transformers has state-spaces' names but for the embedding's."""
    theirs = noisy(mamba2() if second else mamba())
    tensors = {name.replace("embeddings", "embedding"): tensor for name, tensor in theirs.state_dict().items()}
    config = MAMBA_2 if second else MAMBA
    (tmp_path / "config.json").write_text(json.dumps(config))
    if file.endswith(".bin"):
        torch.save(tensors, tmp_path / file)
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / file)
    held = read(tmp_path)
    agree(held.lm(TOKENS), theirs(TOKENS).logits)
    write(held, tmp_path / "again", "mamba")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["vocab_size"] == VOCAB and "norm_epsilon" not in written
    assert torch.equal(read(tmp_path / "again").lm(TOKENS), held.lm(TOKENS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_key_value_heads": 2}, r"num_key_value_heads=2 \(grouped queries: fewer keys than its 4 queries\)"),
        ({"attention_bias": True, "mlp_bias": True}, r"attention_bias=True .*; mlp_bias=True"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, r"rope_type='linear' \(rotary"),
        ({"head_dim": 8}, "head_dim=8"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ],
)
def test_a_llama_that_ours_is_not_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    llama(**options).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"our models do not have {message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rms_norm": False, "d_intermediate": 8}, "rms_norm=False .*; d_intermediate=8"),
        ({"attn_layer_idx": [1]}, r"attn_layer_idx=\[1\] \(layers of attention\)"),
        ({"ssm_cfg": {"dt_rank": 2}}, "dt_rank=2"),
        ({"ssm_cfg": {"layer": "Mamba2", "ngroups": 2, "rmsnorm": False}}, "ngroups=2 .*; rmsnorm=False"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "layer 'Mamba3'; supported: Mamba1, Mamba2"),
        ({"ssm_cfg": {"expand": 1.5}}, "expand 1.5, which must be a whole number"),
        ({"ssm_cfg": 3}, "ssm_cfg 3, which must be an object"),
    ],
)
def test_a_mamba_that_ours_is_not_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MAMBA | changes))
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_transformers_variant_of_mamba_is_called_so(tmp_path: Path) -> None:
    MambaConfig(vocab_size=VOCAB, hidden_size=40).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="transformers' variant"):
        read(tmp_path)
