"""lm-eval scores our models as it scores its own: beside its ``hf`` model with the same weights, on our local tasks."""

import json
import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.config import ConfigError, training
from bench.data import DataError
from bench.data.batches import heldout_windows
from bench.data.shards import Document
from bench.data.tokenizer import ByteTokenizer
from bench.evaluate import window_nll
from bench.experiments.lm_eval import evaluate
from bench.pretrained import Pretrained
from bench.results import read_run
from bench.run import describe, execute
from bench.tests.micro import micro_run
from models.attention import Attention
from models.layers import SwiGLU
from models.lm import LM
from models.mixer import Size

SIZE, CONTEXT = Size(width=16, layers=2, heads=2, ffn=24), 40
WORDS = ["state", "reads", "ttt", "a", "the", "layer", "mamba", "whère", "of"]


@pytest.fixture(scope="module")
def ours() -> Any:
    """A Llama-style model with random weights, large enough that it writes various things, as BenchLM."""
    from bench.lm_eval.model import BenchLM

    torch.manual_seed(0)
    lm = LM(256, SIZE, [Attention, SwiGLU], tied=False)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        lm.head.weight[128:] = 0  # what it writes is text
    return BenchLM(Pretrained("llama", lm.eval(), ByteTokenizer(), CONTEXT), batch_size=3)


@pytest.fixture(scope="module")
def theirs(ours: Any) -> Any:
    """lm-eval's model for transformers, of the same weights."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=llama(ours.model.lm), tokenizer=byte_tokenizer(), batch_size=2, max_length=CONTEXT, device="cpu")


def llama(lm: LM) -> Any:
    """The weights in transformers' Llama, which rotates dims m and m + F/2 where we rotate 2m and 2m + 1."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=SIZE.width,
        intermediate_size=SIZE.ffn,
        num_hidden_layers=SIZE.layers,
        num_attention_heads=SIZE.heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    state = {"model.embed_tokens.weight": lm.embedding.weight, "model.norm.weight": lm.norm.weight}
    for layer in range(SIZE.layers):
        attention, ffn = lm.branches[2 * layer : 2 * layer + 2]
        names = {
            "input_layernorm": attention.norm,
            "post_attention_layernorm": ffn.norm,
            **{f"self_attn.{name}_proj": getattr(attention.mixer, name) for name in "qkvo"},
            **{f"mlp.{name}_proj": getattr(ffn.mixer, name) for name in ("gate", "up", "down")},
        }
        state |= {f"model.layers.{layer}.{name}.weight": module.weight for name, module in names.items()}
    halves = torch.arange(SIZE.width).view(SIZE.heads, -1, 2).transpose(1, 2).flatten()
    rotated = ("q_proj.weight", "k_proj.weight")
    loaded = {name: weight[halves] if name.endswith(rotated) else weight for name, weight in state.items()}
    model.load_state_dict({**loaded, "lm_head.weight": lm.head.weight})
    return model


def byte_tokenizer() -> Any:
    """A token per byte, as ours, with GPT-2's printable character for each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    vocab = {chr(byte if byte in printable else next(others)): byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=next(c for c, byte in vocab.items() if byte == 0))


def text(words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """A file for each local task."""
    lambada = [{"context": text(3 + n, n), "continuation": WORDS[n % 9]} for n in range(12)]
    choices = [{"query": text(2 + n, n), "choices": [text(m + 1, n + m) for m in range(3)], "gold": n % 3} for n in range(7)]
    for name, rows in (("lambada", lambada), ("choices", choices)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "long.txt").write_text(text(40, 1))
    (tmp_path / "short.txt").write_text(text(4, 2))
    return {
        "lambada": str(tmp_path / "lambada.jsonl"),
        "choices": str(tmp_path / "choices.jsonl"),
        "texts": [str(tmp_path / "long.txt"), str(tmp_path / "short.txt")],
    }


TASKS = ("heldout", "lambada_local", "choices_local")


def test_scores_are_those_of_lm_evals_own_model(ours: Any, theirs: Any, files: dict[str, Any]) -> None:
    mine, reference = (evaluate(model, TASKS, files) for model in (ours, theirs))
    for task in TASKS:
        for key, value in reference["results"][task].items():
            if isinstance(value, float):
                assert mine["results"][task][key] == pytest.approx(value, rel=1e-4), (task, key)
        for one, other in zip(mine["samples"][task], reference["samples"][task], strict=True):
            for (response,), (expected,) in zip(one["resps"], other["resps"], strict=True):
                assert response == pytest.approx(expected, rel=1e-4), task
    assert 0 < mine["results"]["choices_local"]["acc,none"] < 1


def test_texts_that_are_written_are_those_of_lm_evals_own_model(ours: Any, theirs: Any) -> None:
    options: list[dict[str, Any]] = [{"until": ["\n"], "max_gen_toks": 9}, {"until": [], "max_gen_toks": 9}]
    asked = [request(text(words, words), option) for words in (1, 2, 9) for option in options]
    assert ours.generate_until(asked) == theirs.generate_until(asked)
    whole = ours.generate_until([request("of", options[1])])[0]
    stop = next(character for character in whole if character != whole[0])
    assert ours.generate_until([request("of", {"until": [stop], "max_gen_toks": 9})]) == [whole[: whole.index(stop)]]
    with pytest.raises(ConfigError, match="greedy"):
        ours.generate_until([request("of", {"do_sample": True, "temperature": 1.0})])


def request(*args: Any) -> Any:
    return SimpleNamespace(args=args)


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_scores_move_neither_with_batch_size_nor_with_order(ours: Any, batch_size: int) -> None:
    from bench.lm_eval.model import BenchLM

    asked = [request(text(n % 7, n), " " + text(1 + n % 3, n + 1)) for n in range(20)]
    shuffled = random.Random(batch_size).sample(range(20), 20)
    found = BenchLM(ours.model, batch_size=batch_size).loglikelihood([asked[n] for n in shuffled], disable_tqdm=True)
    for place, (value, is_greedy) in zip(shuffled, found, strict=True):
        expected, was_greedy = ours.loglikelihood([asked[place]], disable_tqdm=True)[0]
        assert (value, is_greedy) == (pytest.approx(expected, rel=1e-5), was_greedy)


def test_a_text_of_whole_windows_has_the_bits_per_byte_of_our_own_row(ours: Any) -> None:
    """The separator before it, and windows that begin where ours do."""
    tokens = ByteTokenizer().encode(text(99, 3))[: 5 * CONTEXT]
    document = Document("text", np.concatenate(([np.uint8(0)], tokens)), len(tokens))
    losses = np.concatenate(window_nll(ours.model.lm, heldout_windows([document], CONTEXT), 4096))
    (value,) = ours.loglikelihood_rolling([request(tokens.tobytes().decode())])
    assert value == pytest.approx(-losses.sum(dtype="float64"), rel=1e-6)


def test_what_is_longer_than_max_length(ours: Any) -> None:
    """Of a context the end is read, as by lm-eval's own model; a continuation that is too long is refused."""
    (cut,), (short,) = (ours.loglikelihood([request("x" * n + "of the", " state")], disable_tqdm=True) for n in (900, 90))
    assert cut == pytest.approx(short)
    with pytest.raises(ConfigError, match="max_length=41"):
        ours.loglikelihood([request("x", "y" * 41)], disable_tqdm=True)


def test_wrong_arguments_say_what_is_possible(ours: Any, tmp_path: Path) -> None:
    from bench.lm_eval.model import BenchLM

    with pytest.raises(ConfigError, match="number of sequences"):
        BenchLM(ours.model, batch_size="auto")
    with pytest.raises(ConfigError, match="choose from: float32"):
        BenchLM(ours.model, dtype="float8")
    for task, told, message in (
        ("lambada_local", {}, "experiment.measure.lambada=FILE"),
        ("choices_local", {"choices": str(tmp_path / "none.jsonl")}, "there is no file"),
        ("heldout", {}, "give path="),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(ours, [task], told)
    (tmp_path / "bad.jsonl").write_text('{"context": "a"}\n')
    with pytest.raises(DataError, match="row 1 lacks a field of lambada_local: context, continuation"):
        evaluate(ours, ["lambada_local"], {"lambada": str(tmp_path / "bad.jsonl")})
    (tmp_path / "bad.jsonl").write_text("context\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        evaluate(ours, ["lambada_local"], {"lambada": str(tmp_path / "bad.jsonl")})


def test_rows_and_the_command_line_tell_the_same(
    tmp_path: Path, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.tasks

    from bench.lm_eval.__main__ import main

    measured = [f"experiment.measure.{key}={files[key]}" for key in ("lambada", "choices")]
    tasks = "experiment.measure.tasks=[heldout,lambada_local,choices_local]"
    run = micro_run(tmp_path, "lm_eval", "model=mamba", tasks, *measured)
    execute(run)
    rows = read_run(Path(run.results) / "lm_eval" / describe(run).run_id).rows
    found = {(row.at["task"], row.metric, row.at.get("per")): row for row in rows}
    accuracy = found["lambada_local", "acc", None]
    assert (accuracy.unit, accuracy.at["documents"], len(accuracy.samples)) == ("1", 12, 12)
    assert accuracy.value == np.mean(accuracy.samples)
    assert found["lambada_local", "acc_stderr", None].value == pytest.approx(
        np.std(accuracy.samples, ddof=1) / np.sqrt(12), rel=1e-6
    )
    perplexity = found["lambada_local", "perplexity", None]
    assert perplexity.value == pytest.approx(np.exp(np.mean(perplexity.samples)))
    bits, sizes = found["heldout", "bits_per_byte", "byte"], found["heldout", "targets", "byte"]
    assert (bits.unit, sizes.samples) == ("bit/byte", (700.0, 450.0))
    assert bits.value == pytest.approx(np.average(bits.samples, weights=sizes.samples) / np.log(2))
    trained = Path(run.results) / "train" / describe(training(run)).run_id
    words = ["--model", "ttt_bench", "--model_args", f"path={trained}", "--tasks", "lambada_local", "--batch_size", "2"]
    told = ["--metadata", json.dumps({"lambada": files["lambada"]}), "--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *words, *told])
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    main()  # without lm-eval's own tasks, whose index takes half a minute
    (told_there,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(told_there.read_text())["results"]["lambada_local"]
    assert theirs["perplexity,none"] == pytest.approx(perplexity.value, rel=1e-5)
