"""An operation and its implementations, imported only when asked for.

An implementation is a module with functions named by the three phases:
``forward`` (training, from the start of a sequence), ``prefill`` (any length, from any state, in place)
and ``step`` (one token, in place). ``reference`` is the oracle that every other one is tested against.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType


class MissingImplementation(RuntimeError):
    """An implementation was asked for that does not exist or cannot be imported here."""


@dataclass(frozen=True)
class Op:
    """A named operation: ``impls`` maps an implementation's name to (module, how to install what it needs)."""

    name: str
    impls: Mapping[str, tuple[str, str]]

    def load(self, impl: str) -> ModuleType:
        """The module of one implementation.

        Raises:
            MissingImplementation: unknown name (lists the known ones), or its import fails (names the cure).
        """
        if impl not in self.impls:
            raise MissingImplementation(f"{self.name} has no implementation '{impl}'; choose from: {', '.join(self.impls)}")
        module, cure = self.impls[impl]
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MissingImplementation(f"{self.name}: '{impl}' cannot be imported ({error}); {cure}") from error


PURE_TORCH = "it needs only torch: run `make setup`"
