"""``python -m bench.publish TIER [KEY=VALUE…]``: copies the finished runs of a tier to results/published/, without weights.

An interrupted run, that nobody is at work on, is published as partial: what it measured stands.
Published rows are what `make figures` draws and what a fresh clone shows beside its own; they never count as done.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from bench.config import ConfigError
from bench.results import PUBLISHED, CorruptResults, Run, is_held, pack_rows, write_manifest
from bench.tier import load_tier

FILES = ("config.yaml", "run.json", "rows.jsonl")
# Bytes of rows.jsonl from which on it is compressed: nobody reads so many rows as text, and everybody clones them.
MANY = 1_000_000


def publish(run: Run, root: Path = PUBLISHED) -> Path:
    """Copies one run; an older published run of the same configuration makes room for it."""
    target = root / run.manifest.experiment / run.manifest.run_id
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in FILES:
        shutil.copy(run.folder / name, temporary / name)
    if (temporary / "rows.jsonl").stat().st_size >= MANY:
        pack_rows(temporary)
    if run.manifest.status == "running":
        write_manifest(temporary, replace(run.manifest, status="partial", cause="interrupted", rows=len(run.rows)))
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("tier")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    words = parser.parse_args()
    try:
        tier = load_tier(words.tier, words.overrides)
        found = tier.recorded([Path(tier.runs[0].results)])
    except (ConfigError, CorruptResults) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finished = [run for run in found if run.manifest.status != "killed" and not is_held(run.folder)]
    for run in finished:
        publish(run)
    print(f"{len(finished)} of {len(tier.config_hashes)} runs of {words.tier} copied to {PUBLISHED}")
    if dirty := [run.manifest.run_id for run in finished if run.manifest.dirty]:
        print(f"note: {len(dirty)} of them were made from a tree with uncommitted changes", file=sys.stderr)
    return 0 if len(finished) == len(tier.config_hashes) else 1


if __name__ == "__main__":
    sys.exit(main())
