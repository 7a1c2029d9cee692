"""``python -m bench experiment=… model=… size=… match=… budget=… data=… device=… seed=…``; with ``-m`` a Hydra sweep.

Runs one experiment, or finds it done, and says where its rows are. Nothing below this file sees Hydra's configuration.
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.config import CONF, ConfigError, parse, register
from bench.display import shown
from bench.overrides import check_keys
from bench.progress import Board, Job, Message, label_of
from bench.results import write_atomic
from bench.secrets import without_secrets
from bench.tracking.process import check


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    """One job."""
    try:
        run = parse(config)
        check(run.tracking)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    run.tracking.group = run.tracking.group or sweep()
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
    except EXPECTED as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    manifest = outcome.manifest
    before = "" if outcome.is_new else ", done before"
    stale = ", by other sources: refresh=stale repeats it" if outcome.is_stale else ""
    print(f"{manifest.status}{before}{stale}: {run.results}/{manifest.experiment}/{manifest.run_id}, {manifest.seconds:.1f} s")
    if manifest.status == "partial":
        print(f"{manifest.cause}; the same command goes on")
    elif manifest.status != "done":
        sys.exit(f"error: {manifest.cause}")


def sweep() -> str | None:
    """The name of the sweep that this job is of, if it is of one: its folder's, in which Hydra says what was swept."""
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return None
    said = Path(job.sweep.dir) / "multirun.yaml"
    write_atomic(said, without_secrets(said.read_text()))  # it repeats the command line
    return said.parent.name


if __name__ == "__main__":
    register()
    try:
        check_keys([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    main()
