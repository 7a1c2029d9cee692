"""Implementations are found by name, and a missing one says what to do."""

import pytest

from kernels.attention import OP as ATTENTION
from kernels.op import Impl, MissingImplementation, Op

IMPLS = {"reference": Impl("kernels.ttt.reference", "run `make setup`"), "fast": Impl("no_such_module_xyz", "pip install fast")}
OP = Op("scan", IMPLS, ATTENTION.problem)


def test_an_implementation_has_the_three_phases() -> None:
    module = OP.load("reference")
    assert all(callable(vars(module)[phase]) for phase in ("forward", "prefill", "step"))


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(MissingImplementation, match="scan has no implementation 'slow'; choose from: reference, fast"):
        OP.load("slow")


def test_a_failed_import_names_the_cure() -> None:
    with pytest.raises(MissingImplementation, match=r"'fast' cannot be imported .*no_such_module_xyz.*; pip install fast"):
        OP.load("fast")
