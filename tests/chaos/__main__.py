"""Kills, load, fuzzing, full disks and clock jumps; prints one Markdown table.

python -m tests.chaos                                   everything, at least 20 kills of each job: at most 20 minutes
python -m tests.chaos --only run,judge,index            a line for each job as it ends, and the table
python -m tests.chaos --out chaos.md                    the table also in a file
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
import time
from pathlib import Path

from tests.chaos import fuzz, serving, system
from tests.chaos.findings import Finding, report
from tests.chaos.jobs import JOBS, Inputs
from tests.chaos.kills import kill_repeatedly

#: Imported before forking, so that a job starts in milliseconds.
_OWN = ("cli.app", "data.building", "experiments.train", "experiments.judge", "experiments.run", "inference.local")
_LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "matplotlib", "bm25s")


#: Checks that are no kills, in the order in which they run.
CHECKS = ("disk", "clock", "fuzz", "load", "requests")


def main() -> int:
    """Exit code 1 if a result differs, a job cannot be resumed, or a check finds a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join([*JOBS, *CHECKS]), help="jobs and checks, separated by commas")
    parser.add_argument(
        "--times", type=int, default=20, help="attempts and kills of each job, and runs of each on a full disk"
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="of load, of generated requests; fuzzing takes four times as many"
    )
    parser.add_argument("--seed", type=int, default=13, help="of everything random")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    parser.add_argument("--keep", type=Path, help="a folder in which failed attempts are kept")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - {*JOBS, *CHECKS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join([*JOBS, *CHECKS])}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = options.keep or Path(temporary)
        findings = _run(names, folder, options)
    printed = report(findings, time.monotonic() - started)
    print(printed)
    if options.out is not None:
        options.out.write_text(printed + "\n", encoding="utf-8")
    return 1 if any(each.problems for each in findings) else 0


def _run(names: list[str], folder: Path, options: argparse.Namespace) -> list[Finding]:
    findings: list[Finding] = []
    inputs = Inputs(folder / "inputs")
    if {*JOBS, "disk", "clock"} & set(names):
        for module in (*_LIBRARIES, *(f"searchlora.{name}" for name in _OWN)):
            importlib.import_module(module)
        inputs.make()
    fuzzing = fuzz.start(4 * options.seconds, options.seed) if "fuzz" in names else None
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        started, before = time.monotonic(), len(findings)
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        if name in JOBS:
            findings.append(kill_repeatedly(JOBS[name](inputs), place, options.times, options.seed).finding())
        elif name == "disk":
            findings += system.full_disk(inputs, place, options.times, options.seed)
        elif name == "clock":
            findings += system.clock_jumps(inputs, place)
        elif name == "fuzz":
            assert fuzzing is not None
            findings.append(fuzz.result(fuzzing))
        elif name == "load":
            findings += serving.load(place, options.seconds, options.seed)
        else:
            findings += serving.generated_requests(place, options.seconds, options.seed)
        for finding in findings[before:]:
            finding.seconds = time.monotonic() - started
            print(finding.line(), file=sys.stderr, flush=True)
    return findings


if __name__ == "__main__":
    sys.exit(main())
