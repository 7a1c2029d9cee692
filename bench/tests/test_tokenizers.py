"""Tokenizers of other packages, and one trained here: ids, frames of documents, what is missing is said. Needs extra data."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from bench.data import DataError
from bench.data.batches import TrainBatches
from bench.data.bpe import train_bpe
from bench.data.corpus import TRAINED
from bench.data.prepare import prepare
from bench.data.sources import read
from bench.data.tokenizer import dtype_of, get_tokenizer
from bench.results import ROOT
from bench.tests.test_corpus import book, books

TEXTS = ["plain text\n\nof “two” lines", "£ é 漢 \U0001f600 tab\t  spaces ", "<s> is text </s>, so is <unk>"]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    file = tmp_path / "trained.json"
    file.write_text(train_bpe([book(n) for n in range(5)], 300))
    return file


@pytest.mark.parametrize("name", ["bpe_300", "mistral-32k", "bytes"])
def test_a_text_comes_back_and_no_special_token_is_made_of_it(name: str, trained: Path) -> None:
    tokenizer = get_tokenizer(name, trained)
    assert tokenizer.name == name
    assert (tokenizer.vocab, tokenizer.bos, tokenizer.eos) == {
        "bpe_300": (300, 0, 1),
        "mistral-32k": (32_000, 1, 2),
        "bytes": (256, None, 0),
    }[name]
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert tokens.dtype == dtype_of(tokenizer.vocab) and tokens.max() < tokenizer.vocab
        assert not {tokenizer.bos, tokenizer.eos} & set(tokens.tolist())
        assert tokenizer.decode(tokens) == text == tokenizer.decode(tokens.astype(np.int64))


def test_a_file_of_either_package_is_a_tokenizer(trained: Path, tmp_path: Path) -> None:
    assert (
        get_tokenizer(str(trained)).encode("a layer").tolist() == get_tokenizer("bpe_300", trained).encode("a layer").tolist()
    )
    import mistral_common

    model = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    own = shutil.copy(model, tmp_path / "own.model")
    assert get_tokenizer(str(own)).encode("a layer").tolist() == get_tokenizer("mistral-32k").encode("a layer").tolist()


def test_a_file_that_is_no_tokenizer_says_so(trained: Path, tmp_path: Path) -> None:
    for name, message in (("bad.json", "is no file of the package tokenizers"), ("bad.model", "is no model of sentencepiece")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(DataError, match=message):
            get_tokenizer(str(tmp_path / name))
    file = json.loads(trained.read_text())
    file["added_tokens"] = []
    file["model"]["vocab"] = {word: n for word, n in file["model"]["vocab"].items() if word != "</s>"}
    trained.write_text(json.dumps(file))
    with pytest.raises(DataError, match=r"no token that ends a document: one of </s>"):
        get_tokenizer(str(trained))
    with pytest.raises(DataError, match=r"bpe_300 is trained on its data; make it: python -m bench\.data prepare"):
        get_tokenizer("bpe_300")


def test_ids_take_the_narrowest_type() -> None:
    assert [dtype_of(vocab) for vocab in (256, 257, 65_536, 65_537)] == [np.uint8, np.uint16, np.uint16, np.uint32]


def test_training_is_a_function_of_the_texts(trained: Path) -> None:
    texts = [book(n) for n in range(5)]
    assert train_bpe(iter(texts), 300) == trained.read_text()
    assert train_bpe(texts[1:], 300) != trained.read_text()
    words = [
        sys.executable,
        "-c",
        "from bench.tests.test_tokenizers import *; print(train_bpe([book(n) for n in range(5)], 300))",
    ]
    ended = subprocess.run(words, cwd=ROOT, env={"TOKENIZERS_PARALLELISM": "false"}, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == trained.read_text()


def test_too_many_pieces_and_too_few() -> None:
    with pytest.raises(DataError, match=r"makes only \d+ pieces of the 4096; choose data\.tokenizer=bpe_\d+ or less"):
        train_bpe(["a b"], 4096)
    with pytest.raises(DataError, match="bpe_100 has no room for 256 bytes"):
        train_bpe(["a b"], 100)


def test_it_is_trained_on_training_documents_alone_and_kept_for_them(tmp_path: Path) -> None:
    data = books(tmp_path, tokenizer="bpe_300", vocab=300, validation_share=0.6)
    corpus = prepare(data)
    texts = [text.text for split, text in read(data, ["train"]) if split == "train"]
    assert 0 < len(texts) < 6
    (kept,) = (tmp_path / "cache").glob("bpe_300-*.json")
    assert kept.read_text() == train_bpe(texts, 300) == (corpus.folder / TRAINED).read_text()
    kept.write_text(kept.read_text() + " ")
    other = prepare(
        books(tmp_path, tokenizer="bpe_300", vocab=300, validation_share=0.6, heldout=["train-0*"], max_overlap=1.0)
    )
    assert (other.folder / TRAINED).read_text() == kept.read_text()


@pytest.mark.parametrize(("name", "vocab"), [("bpe_300", 300), ("mistral-32k", 32_000)])
def test_documents_are_framed_and_bos_is_no_target(name: str, vocab: int, tmp_path: Path) -> None:
    corpus = prepare(books(tmp_path, tokenizer=name, vocab=vocab))
    tokenizer = corpus.tokenizer
    stream, documents = corpus.stream.read(0, len(corpus.stream)), corpus.documents("train")
    assert stream.dtype == np.uint16
    framed = [[tokenizer.bos, *document.tokens, tokenizer.eos] for document in documents]
    assert stream.tolist() == [token for one in framed for token in one][:-1]
    assert [tokenizer.decode(document.tokens) for document in documents] == [book(n) for n in range(6)]
    assert all(document.n_bytes > 2 * len(document.tokens) for document in documents) == (name == "bpe_300")
    assert corpus.index.bos == tokenizer.bos
    assert TrainBatches(corpus.stream, 8, 0, corpus.index.bos).unscored == tokenizer.bos


MISSING = """
import sys
sys.modules[sys.argv[1]] = None
from pathlib import Path
from bench.data import DataError
from bench.data.bpe import train_bpe
from bench.data.text import read_file
from bench.data.tokenizer import get_tokenizer
{"sentencepiece": lambda: get_tokenizer("mistral-32k"), "tokenizers": lambda: train_bpe(["a"], 300),
 "pyarrow": lambda: list(read_file(Path("a.parquet")))}[sys.argv[1]]()
"""


@pytest.mark.parametrize("package", ["sentencepiece", "tokenizers", "pyarrow"])
def test_a_package_that_is_not_installed_is_named_with_its_cure(package: str) -> None:
    ended = subprocess.run([sys.executable, "-c", MISSING, package], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"needs the package {package}, which is not installed: make setup EXTRAS=data" in ended.stderr


def test_the_file_is_one_that_the_package_reads(trained: Path) -> None:
    own = Tokenizer.from_file(str(trained))
    assert own.encode("state reads a layer").tokens[-1] == "Ġlayer"
