"""A continuation is what the model says, one token after another."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import generate
from bench.data.tokenizer import get_tokenizer
from bench.run import describe, execute
from bench.tests.micro import MODELS, micro_run
from models.lm import LM
from models.mixer import Size
from models.tests.conftest import architecture

GREEDY = generate.sampler(0, 0, 0)


def model(name: str) -> LM:
    torch.manual_seed(0)
    return architecture(name, Size(16, 1, 1, 16), 40).build().eval()


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_continuation_is_that_of_the_whole_text(name: str) -> None:
    lm, tokens = model(name), [3, 1, 4, 1, 5]
    made = list(generate.continuation(lm, tokens, 19, GREEDY, vocab=40))
    for token in made:
        assert token == int(lm(torch.tensor([tokens]))[0, -1].argmax())
        tokens.append(token)


def test_a_seed_tells_what_is_drawn() -> None:
    def drawn(seed: int, temperature: float = 1.0, top_k: int = 0) -> list[int]:
        return list(generate.continuation(model("mamba"), [1], 30, generate.sampler(temperature, top_k, seed), vocab=40))

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0, top_k=1) == drawn(1, top_k=1) == drawn(0, temperature=0) == drawn(0, temperature=1e-6)


def test_draws_follow_the_logits() -> None:
    logits = torch.tensor([2.0, -torch.inf, 0.0, 1.0])
    pick = generate.sampler(0.5, 3, 0)
    counts = np.bincount([pick(logits) for _ in range(4000)], minlength=4) / 4000
    expected = (logits / 0.5).softmax(0).numpy()
    assert counts[1] == 0
    assert np.abs(counts - expected).max() < 4 * 0.5 / 4000**0.5  # four standard errors
    assert {generate.sampler(10.0, 2, seed)(logits) for seed in range(40)} == {0, 3}


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    made = generate.continuation(model("transformer"), [1], 60, generate.sampler(9.0, 0, 0), vocab=7)
    assert max(made) == 6


def test_a_character_is_shown_once_it_is_whole() -> None:
    shown = list(generate.pieces(iter("aé€".encode()), get_tokenizer("bytes")))
    assert [piece for piece in shown if piece] == ["a", "é", "€"]
    assert "".join(generate.pieces(iter(b"a\xc3"), get_tokenizer("bytes"))) == "a\N{REPLACEMENT CHARACTER}"


def test_speed_is_of_the_steps_alone() -> None:
    seconds: list[float] = []
    assert list(generate.timed(iter([5, 6, 7]), seconds)) == [5, 6, 7]
    assert len(seconds) == 3
    assert generate.speed(9, [2.0, 0.25, 0.25]) == "prefill of 9 tokens 2.000 s; 2 steps in 0.500 s, 4.0 tokens/s"
    assert generate.speed(9, [2.0]) == "prefill of 9 tokens 2.000 s"


def test_the_command_continues_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = micro_run(tmp_path, "train", "model=transformer")
    execute(run)
    words = [str(Path(run.results) / "train" / describe(run).run_id), "--tokens", "8", "--temperature", "0"]
    assert generate.main([*words, "--prompt", "ttt reads"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("\n") and "prefill of 9 tokens" in said.err and "7 steps in" in said.err
    monkeypatch.setattr("sys.stdin", io.StringIO("ttt reads"))
    assert generate.main([*words, "--stdin"]) == 0
    assert capsys.readouterr().out == said.out
    assert generate.main([*words, "--prompt", ""]) == 1
    assert capsys.readouterr().err == "error: the prompt holds no token; give a text\n"


@pytest.mark.parametrize("option", ["--tokens=0", "--temperature=-1", "--temperature=nan", "--top-k=-1", "--top-k=x"])
def test_options_that_are_not_possible_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generate.main(["model", "--prompt", "a", option])
    assert "is not possible" in capsys.readouterr().err or option.endswith("x")
