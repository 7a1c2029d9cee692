"""Notebooks are stored without outputs, open with what they answer, and hold no results but what their cells compute."""

import json
import re
from pathlib import Path

import pytest

from bench.results import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_all_are_there() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["01_perplexity_vs_context", "02_latency", "03_kernels", "04_inner_loop"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_bare(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    words = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert re.match(r"# .+\n\n\*\*Question\.\*\* [^?]+\?", words[0])
    assert not [text for text in words if re.search(r"\d\.\d|\d e-?\d|%", text)]
