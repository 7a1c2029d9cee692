"""Implementations that need packages which not every machine with a GPU has."""

from types import ModuleType

import pytest

from kernels.op import MissingImplementation, Op


def loaded(op: Op, impl: str) -> ModuleType:
    """The implementation; where it is another package's that is not installed, the test is skipped and told how to get it."""
    try:
        return op.load(impl)
    except MissingImplementation as missing:
        if op.impls[impl].is_ours:
            raise
        pytest.skip(str(missing))
