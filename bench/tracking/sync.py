"""``python -m bench.tracking.sync [FOLDER]``: uploads what W&B kept in FOLDER/wandb, results/wandb unless said otherwise.

Run by run; it gives up where none of them was done for a while: without an answer ``wandb sync`` itself waits for ever.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def unsynced(folder: Path) -> list[Path]:
    """Files of offline runs, and of online ones that did not end, which W&B has not got yet."""
    files = sorted((folder / "wandb").glob("*run-*/*.wandb"))
    return [file for file in files if not _marker(file).exists()]


def _marker(file: Path) -> Path:
    """What ``wandb sync`` leaves where a file arrived."""
    return file.with_name(f"{file.name}.synced")


def upload(files: Sequence[Path], limit_s: float) -> str:
    """Uploads them, says so of each, and returns what went wrong; it waits ``limit_s`` for each that is done."""
    left, deadline = list(files), time.monotonic() + limit_s
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "wandb", "sync", *map(str, files)]
        place = {**os.environ, "WANDB_DIR": str(files[0].parents[2])}  # its logs lie there too
        with subprocess.Popen(command, env=place, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process:
            while left and time.monotonic() < deadline:
                has_ended = process.poll() is not None
                for file in [file for file in left if _marker(file).exists()]:
                    left.remove(file)
                    deadline = time.monotonic() + limit_s
                    print(f"[{len(files) - len(left)}/{len(files)}] {file.parent.name}", flush=True)
                if has_ended:
                    break
                time.sleep(0.2)
            process.kill()
        output.seek(0)
        told = output.read().decode(errors="replace").strip().splitlines()
    if not left:
        return ""
    if "No API key" in " ".join(told):
        return "there is no key: wandb login, or WANDB_API_KEY=…"
    return (told or [""])[-1] if has_ended else f"W&B did not answer within {limit_s:g} s"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracking.sync", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("WANDB_DIR", "results")))
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="to wait for the next run to arrive")
    words = parser.parse_args()
    files = unsynced(words.folder)
    if trouble := upload(files, words.limit) if files else "":
        print(f"error: {len(unsynced(words.folder))} runs stay in {words.folder / 'wandb'}: {trouble}", file=sys.stderr)
        return 1
    print(f"{len(files)} runs of {words.folder / 'wandb'} were uploaded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
