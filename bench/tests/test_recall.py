"""Examples of recall: their exact length, what is said in them and where, and that a model that knows the answer is seen to."""

import re
from pathlib import Path

import numpy as np
import pytest

from bench.data import DataError
from bench.data.mqar import SPLITS, Alphabet, sequences, text
from bench.data.recall import CHAIN, KEYS, NOISE, TASKS, Example, Source
from bench.data.tokenizer import ByteTokenizer
from bench.results import read_run
from bench.run import describe, execute
from bench.tests.micro import micro_run

BYTES = ByteTokenizer()
SOURCE = Source(BYTES, BYTES.encode(NOISE), Alphabet())


def make(task: str, context: int, depth: float, seed: int = 0) -> Example:
    return TASKS[task](SOURCE, np.random.default_rng(seed), context, depth)


def words(example: Example) -> str:
    return BYTES.decode(example.context)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("context", [512, 1000, 4096])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_contexts_have_exactly_the_length_and_come_again(task: str, context: int, depth: float) -> None:
    example, again, other = make(task, context, depth), make(task, context, depth), make(task, context, depth, seed=1)
    assert len(example.context) == context
    assert np.array_equal(example.context, again.context)
    assert not np.array_equal(example.context, other.context)
    assert example.share(np.ones(len(example.answer), dtype=bool)) == 1
    assert example.share(np.zeros(len(example.answer), dtype=bool)) == 0


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("task", "keys"), [("needle", 1), ("multikey_needle", KEYS)])
def test_a_needle_stands_at_its_depth_and_its_question_begins_as_it_did(task: str, keys: int, depth: float) -> None:
    example = make(task, 2048, depth)
    said = re.findall(r" The special magic number for (\w+) is: (\d{4})\.", words(example))
    assert len(dict(said)) == keys
    question = re.search(r" The special magic number for (\w+) is:$", words(example))
    assert question is not None
    answer = BYTES.decode(example.answer)
    assert answer == f" {dict(said)[question[1]]}"
    place = words(example).index(question[0] + answer)
    assert place == pytest.approx(depth * (2048 - len(question[0])), abs=keys * 50)


def test_a_chain_hands_one_value_on() -> None:
    example = make("variable_tracking", 1024, 0.2)
    said = re.findall(r" VAR (\w{5}) = (?:VAR )?(\w{5})\.", words(example))
    names = [name for name, _ in said]
    assert len(said) == CHAIN
    assert [what for _, what in said[1:]] == names[:-1]
    assert words(example).endswith(f" These variables have the value {said[0][1]}:")
    assert BYTES.decode(example.answer) == " " + " ".join(names)


def test_mqar_asks_for_every_pair_at_the_end() -> None:
    alphabet, example = SOURCE.alphabet, make("mqar", 300, 0.5)
    whole = np.concatenate((example.context, example.answer))
    asked = whole[299:].reshape(-1, 2)
    said = whole[:299][whole[:299] <= 2 * alphabet.symbols].reshape(-1, 2)
    assert len(said) == len(example.parts) == alphabet.pairs
    assert sorted(map(tuple, said)) == sorted(map(tuple, asked))
    assert [int(token) for part in example.parts for token in example.answer[part]] == asked[:, 1].tolist()
    one_right = np.zeros(len(example.answer), dtype=bool)
    one_right[example.parts[0]] = True
    assert example.share(one_right) == 1 / alphabet.pairs


def test_what_does_not_fit_says_so() -> None:
    for task in TASKS:
        with pytest.raises(DataError, match="lengthen it"):
            make(task, 8, 0.5)
    with pytest.raises(DataError, match="9 pairs of 8 keys"):
        Alphabet(pairs=9, symbols=8)
    with pytest.raises(DataError, match="length=64,pairs=4"):
        text("pairs=4", "train")
    with pytest.raises(DataError, match="no split 'test'"):
        text("length=64", "test")
    with pytest.raises(DataError, match="no room for 4 pairs"):
        text("length=16", "train")


def test_training_sequences_are_windows_that_repeat_their_pairs() -> None:
    alphabet = Alphabet()
    tokens = BYTES.encode(text("length=64,pairs=4,symbols=16", "heldout"))
    assert np.array_equal(tokens, sequences(alphabet, 64, "heldout"))
    rows = tokens.reshape(SPLITS["heldout"][1], 64)
    for row in rows:
        keys = np.flatnonzero(row[:-1] <= alphabet.symbols)
        pairs = {(int(row[place]), int(row[place + 1])) for place in keys}
        assert len(pairs) == len({key for key, _ in pairs}) == alphabet.pairs
    noise = (rows > 2 * alphabet.symbols).mean(1)
    assert (noise < 0.05).mean() == pytest.approx(0.5, abs=0.1)  # half is dense
    assert 0.5 < noise[noise > 0.05].mean() < 0.9


@pytest.mark.parametrize("haystack", ["noise", "text"])
def test_rows_hold_every_example(haystack: str, tmp_path: Path) -> None:
    run = micro_run(tmp_path, "recall", "model=mamba", f"experiment.measure.haystack={haystack}")
    execute(run)
    rows = read_run(Path(run.results) / "recall" / describe(run).run_id).rows
    assert {(row.at["task"], row.at["context"], row.at["depth"]) for row in rows} == {
        (task, context, depth) for task in ("mqar", "needle") for context in (100, 150) for depth in (0.0, 1.0)
    }
    assert all(len(row.samples) == 2 and row.value == np.mean(row.samples) for row in rows)
