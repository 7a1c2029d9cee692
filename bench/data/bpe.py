"""Byte-level BPE trained on documents: the same documents in the same order give the same file, whatever the machine."""

from collections.abc import Iterable

from bench.data import DataError, optional
from bench.data.tokenizer import BEGINS, ENDS


def train_bpe(texts: Iterable[str], vocab: int) -> str:
    """A file of the package tokenizers: BOS 0, EOS 1, the 256 bytes, and merges (Sennrich et al. 2016), split as GPT-2's.

    Raises:
        DataError: the texts have no room for so many pieces, or ``vocab`` none for the bytes.
    """
    package = optional("tokenizers", f"data.tokenizer=bpe_{vocab}")
    special = [BEGINS[0], ENDS[0]]
    if vocab < len(special) + 256:
        raise DataError(f"data.tokenizer=bpe_{vocab} has no room for 256 bytes and {special}; choose bpe_258 or more")
    made = package.Tokenizer(package.models.BPE())
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = package.decoders.ByteLevel()
    alphabet = sorted(package.pre_tokenizers.ByteLevel.alphabet())
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    if (found := made.get_vocab_size()) < vocab:
        raise DataError(
            f"the training text makes only {found} pieces of the {vocab}; choose data.tokenizer=bpe_{found} or less"
        )
    return str(made.to_str())
