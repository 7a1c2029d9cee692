"""Optional packages: what is asked for and is not installed is an error that says how to install it."""

from importlib.util import find_spec


class MissingPackage(RuntimeError):
    """An optional package that is needed now is not installed."""


def require(package: str, extra: str) -> None:
    """Raises MissingPackage where ``package`` is not installed; ``extra`` of pyproject.toml brings it."""
    if find_spec(package) is None:
        raise MissingPackage(f"{package} is not installed: make setup EXTRAS={extra}, or pip install -e '.[{extra}]'")
