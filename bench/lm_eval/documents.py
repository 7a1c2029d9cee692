"""What our tasks read: a run's held-out texts and files of the user's. bench/lm_eval/tasks/*.yaml name these functions.

lm-eval gives them the model's arguments and ``--metadata`` as keywords; what is not theirs they leave.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config import from_record
from bench.data import DataError
from bench.data.sources import read
from bench.data.text import read_file
from bench.results import read_run

if TYPE_CHECKING:
    from datasets import Dataset

TASKS = Path(__file__).parent / "tasks"
# Our tasks that read a file of the user's, and the fields of its rows.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "lambada": ("context", "continuation"),
    "choices": ("query", "choices", "gold"),
}


def heldout(path: str | None = None, texts: Sequence[str] = (), **_: object) -> "Mapping[str, Dataset]":
    """The documents of the files ``texts``, or else those that the training run in the folder ``path`` held out.

    Raises:
        CorruptResults: ``path`` is no folder of a run.
        DataError: neither is given, or a text cannot be read.
    """
    if texts:
        found = [one for text in texts for one in read_file(Path(text))]
    elif path is not None:
        found = [one for _, one in read(from_record(read_run(Path(path)).config).data, ["heldout"])]
    else:
        raise DataError('no text to read: give path=RUN_FOLDER, or --metadata \'{"texts": ["a.txt"]}\'')
    return _dataset([{"name": one.id, "text": one.text} for one in found])


def lambada(lambada: str | None = None, **_: object) -> "Mapping[str, Dataset]":
    """Lines of the JSONL file ``lambada``: a passage without its last word, and that word."""
    return _rows("lambada", lambada)


def choices(choices: str | None = None, **_: object) -> "Mapping[str, Dataset]":
    """Rows of the JSONL or Arrow file ``choices``: a query, its answers, the number of the right one from 0."""
    return _rows("choices", choices)


def _rows(task: str, file: str | None) -> "Mapping[str, Dataset]":
    """The rows of a file that has the task's fields.

    Raises:
        DataError: no or another file.
    """
    if file is None:
        cure = f'experiment.measure.{task}=FILE, or on lm-eval\'s command line --metadata \'{{"{task}": "FILE"}}\''
        raise DataError(f"task {task} reads a file of yours with fields {', '.join(FIELDS[task])}: give {cure}")
    path = Path(file)
    if not path.is_file():
        raise DataError(f"there is no file {path.absolute()}, which task {task} should read")
    rows = list(_arrow(path) if path.suffix == ".arrow" else _lines(path))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not set(FIELDS[task]) <= set(row):
            raise DataError(f"{path}, row {number} lacks a field of {task}: {', '.join(FIELDS[task])}")
    return _dataset([{key: row[key] for key in FIELDS[task]} for row in rows])


def _lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        try:
            yield from [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number} is not JSON ({error}); give a JSON object a line, or a .arrow file"
            ) from error


def _arrow(path: Path) -> Iterator[Any]:
    from datasets import Dataset

    yield from Dataset.from_file(str(path))


def _dataset(rows: list[dict[str, Any]]) -> "Mapping[str, Dataset]":
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}
