"""``python -m bench experiment=… model=… size=… match=… budget=… data=… device=… seed=…``; with ``-m`` a Hydra sweep.

Runs one experiment, or finds it done, and says where its rows are. Nothing below this file sees Hydra's configuration.
"""

import sys

import hydra
from omegaconf import DictConfig

from bench.config import CONF, ConfigError, parse, register
from bench.overrides import check_keys


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    """One job."""
    try:
        run = parse(config)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    from bench.errors import EXPECTED  # torch is imported only once the configuration is known to be right
    from bench.run import execute

    try:
        outcome = execute(run)
    except EXPECTED as error:
        sys.exit(f"error: {error}")
    manifest = outcome.manifest
    before = "" if outcome.is_new else ", done before"
    stale = ", by other sources: refresh=stale repeats it" if outcome.is_stale else ""
    print(f"{manifest.status}{before}{stale}: {run.results}/{manifest.experiment}/{manifest.run_id}, {manifest.seconds:.1f} s")
    if manifest.status == "partial":
        print(f"{manifest.cause}; the same command goes on")
    elif manifest.status != "done":
        sys.exit(f"error: {manifest.cause}")


if __name__ == "__main__":
    register()
    try:
        check_keys([word for word in sys.argv[1:] if "=" in word and not word.startswith("-")])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    main()
