"""``python -m bench.doctor [--json]``: what is installed here, what works, whether it computes what it should, what can be run.

Every package is imported, and the kernels of a device are tried, in a process of its own: one that crashes is a line, not
the end. Exit status 0: the core is whole, and nothing that is installed is broken. No torch in this process.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version

import yaml
from packaging.requirements import Requirement

from bench.compose import compose_runs
from bench.config import CONF, ConfigError, RunConfig
from bench.data import DataError
from bench.data.sources import check_here
from bench.results import ROOT
from bench.tier import tier_jobs, tier_names

CORE = "core"
# Tools and notebooks measure nothing.
LEFT_OUT = ("dev", "notebooks")
IMPORT_S, KERNELS_S = 180, 600
# What decides whether a run can begin here.
DECISIVE = ("experiment=", "device", "data", "model.impl=")
MARKS = {"ok": "ok", "missing": "missing", "broken": "BROKEN", "absent": "not here"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. status: ok | missing (not installed) | broken | absent (this machine has none, or cannot).

    part: packages | devices | kernels | experiments | tiers. extra: the group of dependencies that it belongs to. cure: what
    to do about it.
    """

    part: str
    name: str
    status: str
    detail: str = ""
    cure: str = ""
    extra: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether the exit status tells of it."""
        return self.status == "broken" or (self.status == "missing" and self.extra == CORE)


def requirements() -> list[tuple[str, Requirement]]:
    """(extra, requirement) of pyproject.toml, as far as they are for this platform."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {CORE: project["dependencies"], **project["optional-dependencies"]}
    found = [(extra, Requirement(text)) for extra, texts in groups.items() if extra not in LEFT_OUT for text in texts]
    return [(extra, one) for extra, one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def packages() -> list[Finding]:
    """Every dependency: its version, whether that is one that we know, and whether it can be imported."""
    modules: dict[str, str] = {}
    for module, distributions in packages_distributions().items():
        for name in distributions:
            if not module.startswith("_"):
                modules.setdefault(_canonical(name), module)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda pair: _package(pair[0], pair[1], modules), requirements()))


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _package(extra: str, wanted: Requirement, modules: dict[str, str]) -> Finding:
    cure = f"make setup EXTRAS={extra}"
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Finding("packages", wanted.name, "missing", f"wanted {wanted.specifier or 'any version'}", cure, extra)
    if found not in wanted.specifier:
        return Finding("packages", wanted.name, "broken", f"{found} is not {wanted.specifier}", cure, extra)
    module = modules[_canonical(wanted.name)]
    ended = _run([sys.executable, "-c", f"import {module}"], IMPORT_S)
    if ended.returncode:
        return Finding("packages", wanted.name, "broken", f"{found}: import {module}: {_last_line(ended)}", cure, extra)
    return Finding("packages", wanted.name, "ok", found, extra=extra)


def _run(words: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"did not end within {seconds:.0f} s")


def _last_line(ended: subprocess.CompletedProcess[str]) -> str:
    said = ended.stderr.strip().splitlines()
    return f"ended by signal {-ended.returncode}" if ended.returncode < 0 else said[-1] if said else "no word"


def probed(what: str, skip: int = 0) -> list[Finding]:
    """What ``bench.probe`` finds, but for the first ``skip``; where it crashed is broken, and what follows is tried."""
    found: list[Finding] = []
    while True:
        ended = _run([sys.executable, "-m", "bench.probe", what, str(skip + len(found))], KERNELS_S)
        lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
        found += [Finding(**line) for line in lines if "status" in line]
        if ended.returncode == 0:
            return found
        open_ = [line["begun"] for line in lines[-1:] if "begun" in line]
        found.append(Finding("kernels", open_[0] if open_ else what, "broken", f"its process ended: {_last_line(ended)}"))
        if not open_:
            return found


def experiments(known: Sequence[Finding]) -> Iterator[Finding]:
    """Whether what an experiment needs beyond the core is here."""
    for path in sorted((CONF / "experiment").glob("*.yaml")):
        extra = yaml.safe_load(path.read_text()).get("extra", "")
        lacking = [one.name for one in known if one.part == "packages" and one.extra == extra and one.status != "ok"]
        if extra and lacking:
            yield Finding("experiments", path.stem, "absent", f"needs {', '.join(lacking)}", f"make setup EXTRAS={extra}")
        else:
            yield Finding("experiments", path.stem, "ok")


def tiers(known: Sequence[Finding]) -> Iterator[Finding]:
    """Whether every run of a tier could begin here: its device, its implementations, its corpus."""
    for name in tier_names():
        wanted = {tuple(word for word in job if word.startswith(DECISIVE)) for job in tier_jobs(name)}
        lacking = dict(lack for run in compose_runs(sorted(wanted)) for lack in _lacks(run, known))
        cures, detail = "; ".join(dict.fromkeys(lacking.values())), f"needs {', '.join(lacking)}" if lacking else ""
        yield Finding("tiers", name, "absent" if lacking else "ok", detail, cures)


def _lacks(run: RunConfig, known: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """What a run needs and cannot have, and what to do about it."""
    for one in known:
        if one.status != "ok" and (one.part, one.name) == ("devices", run.device.type):
            yield f"a {one.name} device", one.cure
        if one.status != "ok" and one.name.endswith(f" {run.model.impl} {run.device.type}") and not run.experiment.modelless:
            yield one.name, one.cure
    if run.experiment.trains:
        try:
            check_here(run.data)
        except DataError as error:
            yield f"data={run.data.name}", str(error)


def examine() -> list[Finding]:
    """All findings, part after part."""
    found = packages()
    found += probed("devices")
    found += [one for device in found if device.part == "devices" and device.status == "ok" for one in probed(device.name)]
    return [*found, *experiments(found), *tiers(found)]


def report(found: Sequence[Finding]) -> str:
    """A table for people, a part below the other, and what it comes to."""
    width, lines, part = max(len(one.name) for one in found), [], ""
    for one in found:
        if one.part != part:
            part = one.part
            lines.append(f"\n{part}")
        cure = f"  -> {one.cure}" if one.cure and one.status != "ok" else ""
        extra = f" [{one.extra}]" if one.extra not in ("", CORE) else ""
        lines.append(f"  {MARKS[one.status]:8}  {one.name:{width}}  {one.detail}{extra}{cure}".rstrip())
    faults = [one.name for one in found if one.is_fault]
    lines.append(f"\nto mend: {', '.join(faults)}" if faults else "\nall that is here works")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    words = parser.parse_args(argv)
    try:
        found = examine()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    is_whole = not any(one.is_fault for one in found)
    print(json.dumps({"ok": is_whole, "findings": [asdict(one) for one in found]}, indent=1) if words.json else report(found))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
