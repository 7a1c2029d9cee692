"""Weights of every origin, both ways; against files and models that are made from the formats' descriptions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench import golden
from models.checkpoints import ORIGINS, read, write
from models.checkpoints.architecture import Checkpoint
from models.checkpoints.config import CheckpointError
from models.checkpoints.files import read_tensors
from models.lm import LM
from models.mixer import Size
from models.tests.conftest import MODELS, architecture, perturb
from models.tests.streaming import jax_tree, packed, pair, train_state

GOLDEN = Path(__file__).parent / "golden"
LINEAR_MAMBA = GOLDEN / "ttt_linear_mamba_backbone.npz"
MLP_TRANSFORMER = GOLDEN / "ttt_mlp_transformer_backbone.npz"
FAMILY = {"mamba": "mamba", "mamba2": "mamba", "transformer": "llama"} | {m: "ttt" for m in MODELS if m.startswith("ttt")}
SIZE = Size(width=24, layers=2, heads=2, ffn=40)


def made(name: str, tied: bool = True, eps: float = 1e-6) -> Checkpoint:
    """The model of conf/model/<name>.yaml with noise on every parameter, in float32."""
    about = replace(architecture(name, SIZE, 29), tied=tied, eps=eps)
    return Checkpoint(about, perturb(about.build()).float().eval(), "test", "bytes", 32)


@torch.no_grad()
def logits(lm: LM) -> Tensor:
    tokens = torch.randint(lm.head.out_features, (2, 21), generator=torch.Generator().manual_seed(0))
    return lm(tokens)


@torch.no_grad()
def gives(lm: LM, reference: golden.Reference) -> bool:
    """Whether the logits are those of the authors' code, as bench.golden tells (here of all positions at once only)."""
    error = (lm.double()(reference.tokens) - reference.logits).abs().max() / reference.logits.abs().max()
    return bool(error <= golden.TOLERANCE)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_comes_back_from_its_own_format_and_that_of_its_family(model: str, tied: bool, tmp_path: Path) -> None:
    held = made(model, tied, eps=1e-5)
    for origin in ("ours", FAMILY[model]):
        write(held, tmp_path / origin, origin)
        back = read(tmp_path / origin)
        assert torch.equal(logits(back.lm), logits(held.lm))
        assert back.origin == origin and not back.lm.training
        assert (back.lm.head.weight is back.lm.embedding.weight) == tied
    # and from theirs to ours: what the foreign config says is all that there is to say
    write(back, tmp_path / "again", "ours")
    assert torch.equal(logits(read(tmp_path / "again").lm), logits(held.lm))


@pytest.mark.parametrize("model", MODELS)
def test_another_family_refuses_a_model(model: str, tmp_path: Path) -> None:
    for origin in ORIGINS.keys() - {"ours", FAMILY[model]}:
        with pytest.raises(CheckpointError, match=r"a layer of that format is .* of this model it is"):
            write(made(model), tmp_path / origin, origin)
        assert not (tmp_path / origin).exists()


def test_our_format_keeps_tokenizer_and_context_but_no_implementation(tmp_path: Path) -> None:
    held = made("transformer")
    write(held, tmp_path / "ours", "ours")
    back = read(tmp_path / "ours")
    assert (back.tokenizer, back.train_context) == ("bytes", 32)
    assert "impl" not in (tmp_path / "ours" / "config.json").read_text()
    assert read_tensors(tmp_path / "ours").keys() == held.lm.state_dict().keys()


def test_what_is_wider_than_float32_stays_so(tmp_path: Path) -> None:
    held = made("mamba")
    held.lm.cast(torch.float64)
    write(held, tmp_path / "ours", "ours")
    assert torch.equal(logits(read(tmp_path / "ours").lm), logits(held.lm))


@pytest.mark.parametrize("model", ["mamba", "mamba2"])
def test_norms_that_are_not_mamba_ssms_are_said(model: str, tmp_path: Path) -> None:
    assert write(made(model, eps=1e-5), tmp_path / "theirs", "mamba") == ()
    (remark,) = write(made(model, eps=1e-6), tmp_path / "ours", "mamba")
    assert "mamba-ssm" in remark and "norm_epsilon" in json.loads((tmp_path / "ours" / "config.json").read_text())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A whole training state, as the authors write it."""
    path = tmp_path / "streaming_train_state_7"
    path.write_bytes(train_state(golden.read(LINEAR_MAMBA).params))
    return path


def test_a_streaming_train_state_gives_the_logits_of_the_authors_code(state: Path) -> None:
    for path in (state, state.parent):
        held = read(path)
        assert gives(held.lm, golden.read(LINEAR_MAMBA))
        assert (held.origin, held.train_context) == ("ttt (JAX)", None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_streaming_params_give_the_logits_of_the_authors_code(dtype: str, tmp_path: Path) -> None:
    tree, path = jax_tree(golden.read(MLP_TRANSFORMER).params), tmp_path / "streaming_params"
    path.write_bytes(b"".join(pair(name, packed(array, dtype)) for name, array in tree.items()))
    held = read(path)
    assert gives(held.lm, golden.read(MLP_TRANSFORMER))
    write(held, tmp_path / "ttt", "ttt")
    assert gives(read(tmp_path / "ttt").lm, golden.read(MLP_TRANSFORMER))


def test_an_untied_streaming_checkpoint_has_a_head_of_its_own(tmp_path: Path) -> None:
    reference = golden.read(MLP_TRANSFORMER)
    tree = jax_tree(reference.params) | {("lm_head", "kernel"): -2 * reference.params["lm_head.weight"].T}
    path = tmp_path / "streaming_params"
    path.write_bytes(b"".join(pair(name, packed(array)) for name, array in tree.items()))
    expected = replace(reference, logits=-2 * reference.logits)
    assert gives(read(path).lm, expected)


def ttt_folder(folder: Path, **changes: Any) -> Path:
    """A PyTorch conversion of the TTT-MLP of the reference file, with its config.json changed (None takes a key away)."""
    config = {
        "model_type": "ttt",
        "ttt_layer_type": "mlp",
        "ttt_base_lr": 0.1,
        "hidden_size": 64,
        "intermediate_size": 96,
        "vocab_size": 97,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "mini_batch_size": 16,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-6,
        "share_qk": False,
        "use_gate": False,
        "pre_conv": False,
        "max_position_embeddings": 2048,
    } | changes
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    save_file(
        {name: torch.tensor(array) for name, array in golden.read(MLP_TRANSFORMER).params.items()}, folder / "model.safetensors"
    )
    return folder


def test_a_pytorch_conversion_gives_the_logits_of_the_authors_code(tmp_path: Path) -> None:
    held = read(ttt_folder(tmp_path / "ttt"))
    assert (held.train_context, held.remarks) == (2048, ())
    assert gives(held.lm, golden.read(MLP_TRANSFORMER))


def test_the_default_inner_learning_rate_of_a_ttt_mlp_is_remarked(tmp_path: Path) -> None:
    (remark,) = read(ttt_folder(tmp_path / "ttt", ttt_base_lr=1)).remarks
    assert "ttt_base_lr is 1, the authors trained TTT-MLP with 0.1" in remark


def test_the_convolution_of_a_block_may_stand_without_the_gate(tmp_path: Path) -> None:
    held = made("ttt_linear_t")
    layer = [{"_target_": "models.short_conv.ShortConv"}, *held.architecture.layer]
    about = replace(held.architecture, layer=layer)
    lm = perturb(about.build()).float().eval()
    write(replace(held, architecture=about, lm=lm), tmp_path / "ttt", "ttt")
    assert torch.equal(logits(read(tmp_path / "ttt").lm), logits(lm))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttt_base_lr": None, "rope_theta": None}, "the config lacks ttt_base_lr, rope_theta"),
        ({"use_gate": True}, "share_qk without use_gate"),
        ({"conv_kernel": 8, "hidden_act": "relu"}, r"hidden_act='relu' \(another activation.*; conv_kernel=8"),
        ({"ttt_layer_type": "conv"}, "ttt_layer_type 'conv'; supported: linear, mlp"),
        ({"num_attention_heads": 5}, "5 heads do not divide width 64"),
        ({"num_hidden_layers": 10**12}, "the config asks for .* 1000000000000 layers"),
        ({"vocab_size": 2**62}, "the config asks for vocab 4611686018427387904"),
        ({"intermediate_size": True}, "intermediate_size True, which must be a whole number"),
        ({"hidden_size": "64"}, "hidden_size '64', which must be a whole number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan, which must be a number over 0"),
        ({"model_type": "gpt2", "ttt_layer_type": None}, "model_type 'gpt2'; checkpoints of ours, ttt, mamba, llama are read"),
        ({"max_position_embeddings": -1}, "max_position_embeddings -1, which must be"),
    ],
)
def test_a_config_that_does_not_fit_says_why(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(ttt_folder(tmp_path / "ttt", **changes))


def test_misfits_are_named_all_at_once(tmp_path: Path) -> None:
    folder = ttt_folder(tmp_path / "ttt")
    tensors = read_tensors(folder)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:3].clone()
    tensors["model.layers.1.ffn_norm.weight"] = torch.ones(64, dtype=torch.int8)
    del tensors["model.embed_tokens.weight"]
    for n in range(2):
        tensors[f"model.layers.{n}.rotary_emb.inv_freq"] = torch.ones(8)  # known to hold no parameter
        tensors[f"model.layers.{n}.extra"] = tensors.pop(f"model.layers.{n}.seq_modeling_block.W2")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        read(folder)
    assert str(error.value) == (
        "the tensors do not fit the model: missing model.embed_tokens.weight; "
        "missing model.layers.*.seq_modeling_block.W2 (2); left over model.layers.*.extra (2); "
        "model.layers.1.ffn_norm.weight holds int8, not floating-point numbers; "
        "model.norm.weight has shape [3], the model has [64]"
    )


def test_a_head_that_is_not_the_embedding_is_not_tied_to_it(tmp_path: Path) -> None:
    folder = ttt_folder(tmp_path / "ttt", tie_word_embeddings=True)
    tensors = read_tensors(folder)
    save_file(tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from the embedding"):
        read(folder)
