"""Texts, tokenizers and the windows that training and evaluation read; numpy only, no torch."""

import importlib
from typing import Any


class DataError(ValueError):
    """A corpus, a document or a request for windows cannot be used; the message names the cure."""


def optional(module: str, purpose: str) -> Any:
    """A module of the extra ``data``, imported when it is asked for.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        cure = "make setup EXTRAS=data, or pip install 'ttt-bench[data]'"
        raise DataError(f"{purpose} needs the package {module.partition('.')[0]}, which is not installed: {cure}") from error
