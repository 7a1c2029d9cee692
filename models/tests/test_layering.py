"""Who may import whom: kernels <- models <- bench, and what draws, plans or stores never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kernels

ROOT = Path(__file__).parents[2]
TORCHLESS = (
    *("config", "compose", "results", "standing", "survey", "sweep", "compare", "secrets", "budget", "stats", "figures"),
    *("report", "progress", "display", "tracking"),
)
FORBIDDEN = {"kernels/**/*.py": {"models", "bench"}, "models/**/*.py": {"bench"}}
FORBIDDEN |= {f"bench/{name}*{rest}.py": {"torch", "kernels", "models"} for name in TORCHLESS for rest in ("", "/**/*")}


def imported(path: Path) -> set[str]:
    """First parts of the names of all modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_imports_point_one_way(pattern: str) -> None:
    paths = [path for path in ROOT.glob(pattern) if "tests" not in path.parts]  # a test may run a tool from above
    wrong = {str(path.relative_to(ROOT)): imported(path) & FORBIDDEN[pattern] for path in paths}
    assert not {path: names for path, names in wrong.items() if names}


def test_no_torch_by_a_detour() -> None:
    """What the torchless modules import may not load it either."""
    names = [f"bench.{path.stem}" for name in TORCHLESS for path in ROOT.glob(f"bench/{name}*.py")]
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(names)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_kernels_is_this_repositorys() -> None:
    assert Path(str(kernels.__file__)).parents[1] == ROOT
