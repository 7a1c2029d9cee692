"""Implementations that need packages which not every machine with a GPU has."""

from types import ModuleType

import pytest

from kernels.op import MissingImplementation, Op

OPTIONAL = ("causal_conv1d", "fla", "flash_attn", "mamba_ssm")


def loaded(op: Op, impl: str) -> ModuleType:
    """The implementation; the test is skipped, and told how to get it, only where one of OPTIONAL is not installed.

    Raises:
        MissingImplementation: any other reason, such as a package that is there and broken.
    """
    try:
        return op.load(impl)
    except MissingImplementation as missing:
        cause = missing.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name in OPTIONAL:
            pytest.skip(str(missing))
        raise
