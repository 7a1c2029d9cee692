"""Texts, tokenizers and the windows that training and evaluation read; numpy only, no torch."""


class DataError(ValueError):
    """A corpus, a document or a request for windows cannot be used; the message names the cure."""
