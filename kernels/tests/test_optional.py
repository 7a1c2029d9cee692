"""Only a package that is not installed excuses a test; every other failure to import is one."""

import importlib

import pytest

from kernels import attention
from kernels.op import MissingImplementation
from kernels.tests.optional import loaded


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModuleNotFoundError("No module named 'flash_attn'", name="flash_attn"), pytest.skip.Exception),
        (ModuleNotFoundError("No module named 'triton'", name="triton"), MissingImplementation),
        (ImportError("undefined symbol", name="flash_attn"), MissingImplementation),
    ],
)
def test_what_is_skipped(error: ImportError, expected: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(expected, match=r"flash_attn|triton"):
        loaded(attention.OP, "flash_attn")


def test_an_unknown_implementation_is_no_reason() -> None:
    with pytest.raises(MissingImplementation, match="choose from"):
        loaded(attention.OP, "nonesuch")
