"""``python -m bench experiment=… model=… size=… match=… budget=… data=… device=… seed=…``; with ``-m`` a Hydra sweep.

Runs one experiment, or finds it done, and says where its rows are. Nothing below this file sees Hydra's configuration.
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.compose import register
from bench.config import CONF, ConfigError, RunConfig, parse
from bench.display import shown
from bench.overrides import check_keys
from bench.progress import Board, Job, Message, Unfinished, label_of
from bench.results import write_atomic
from bench.secrets import without_secrets
from bench.sweep import run_cell
from bench.tracking.process import check


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    """One job."""
    try:
        run = parse(config)
        check(run.tracking)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    if (job := HydraConfig.get()).mode == RunMode.MULTIRUN:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            sys.exit("error: torchrun starts the processes of one run; give it the runs of a sweep one by one")
        # of several cells at once on one terminal, none is shown as it goes
        _one_of_a_sweep(run, Path(job.sweep.dir), is_watched=job.runtime.choices["hydra/launcher"] != "joblib")
        return
    if run.dry:
        from bench.survey import cells, table

        print(f"{table(cells([('', run)]), plan=True)}\ndry=true: nothing was run")
        return
    _alone(run)


def _alone(run: RunConfig) -> None:
    from bench.distributed import is_first, joined  # torch is imported only once the configuration is known to be right
    from bench.errors import EXPECTED
    from bench.run import execute

    try:
        with joined(run.device.type):
            if is_first():
                with shown(Board([Job(label_of(run))])) as show:
                    show(Message(0))
                    outcome = execute(run, lambda fraction, note="": show(Message(0, fraction, note)))
            else:
                execute(run)
                return
    except Unfinished as stop:
        print(f"partial: {stop}; the same command goes on")
        return
    except EXPECTED as error:
        sys.exit(f"error: {error}")
    manifest = outcome.manifest
    before = "" if outcome.is_new else ", as before"
    stale = ", by other sources: refresh=stale repeats it" if outcome.is_stale else ""
    print(f"{manifest.status}{before}{stale}: {run.results}/{manifest.experiment}/{manifest.run_id}, {manifest.seconds:.1f} s")
    if manifest.status == "partial":
        print(f"{manifest.cause}; the same command goes on")
    elif manifest.status != "done":
        word = "all" if manifest.status == "diverged" else manifest.status
        again = "" if outcome.is_new else f"; retry={word} begins it anew"
        sys.exit(f"error: {manifest.cause}{again}")


def _one_of_a_sweep(run: RunConfig, folder: Path, is_watched: bool) -> None:
    said = folder / "multirun.yaml"
    write_atomic(said, without_secrets(said.read_text()))  # it repeats the command line
    run.tracking.group = run.tracking.group or folder.name
    run_cell(run, folder, is_watched)


if __name__ == "__main__":
    register()
    try:
        check_keys([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
