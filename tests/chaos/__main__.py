"""Kills, load, fuzzing, full disks and clock jumps; prints tables in Markdown.

python -m tests.chaos                                   everything, 20 kills of each job: about 20 minutes
python -m tests.chaos --only train,store --times 5      jobs that are killed and resumed
python -m tests.chaos --only fuzz,load --seconds 30     checks
python -m tests.chaos --seed 7 --keep FOLDER            the same again; failed attempts are kept
"""

from __future__ import annotations

import os

# Forked children inherit the settings, and torch must not start threads in the parent.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from tests.chaos import fuzz, serving, system
from tests.chaos.findings import Finding, findings_table
from tests.chaos.jobs import JOBS, Inputs
from tests.chaos.kills import Outcome, kill_repeatedly, table

#: Imported before forking, so that a job starts in milliseconds.
_OWN = ("cli.app", "data.building", "experiments.train", "experiments.judge", "experiments.run", "inference.local")
_LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "matplotlib", "bm25s")


#: Checks that are no kills, in the order in which they run.
CHECKS = ("disk", "clock", "fuzz", "load", "requests")


def main() -> int:
    """Exit code 1 if a result differs, a job cannot be resumed, or a check finds a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join([*JOBS, *CHECKS]), help="jobs and checks, separated by commas")
    parser.add_argument("--times", type=int, default=20, help="kills of each job, and runs of each on a full disk")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of load, of generated requests; fuzzing takes four times as many"
    )
    parser.add_argument("--seed", type=int, default=13, help="of everything random")
    parser.add_argument("--keep", type=Path, help="a folder in which failed attempts are kept")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - {*JOBS, *CHECKS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join([*JOBS, *CHECKS])}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = options.keep or Path(temporary)
        outcomes, findings = _run(names, folder, options)
    for printed in (table(outcomes) if outcomes else "", findings_table(findings) if findings else ""):
        if printed:
            print(printed, end="\n\n")
    problems = [f"* {each.name}: {problem}" for each in (*outcomes, *findings) for problem in each.problems]
    if problems:
        print("\n".join(["Problems:", "", *problems]))
    return 1 if problems else 0


def _run(names: list[str], folder: Path, options: argparse.Namespace) -> tuple[list[Outcome], list[Finding]]:
    outcomes: list[Outcome] = []
    findings: list[Finding] = []
    inputs = Inputs(folder / "inputs")
    if {*JOBS, "disk", "clock"} & set(names):
        for module in (*_LIBRARIES, *(f"searchlora.{name}" for name in _OWN)):
            importlib.import_module(module)
        inputs.make()
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if name in JOBS:
            outcomes.append(kill_repeatedly(JOBS[name](inputs), place, options.times, options.seed))
        elif name == "disk":
            findings += system.full_disk(inputs, place, options.times, options.seed)
        elif name == "clock":
            findings += system.clock_jumps(inputs, place)
        elif name == "fuzz":
            findings += fuzz.check(4 * options.seconds, options.seed)
        elif name == "load":
            findings += serving.load(place, options.seconds, options.seed)
        else:
            findings += serving.generated_requests(place, options.seconds, options.seed)
    return outcomes, findings


if __name__ == "__main__":
    sys.exit(main())
