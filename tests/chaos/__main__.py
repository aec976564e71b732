"""Kill jobs at random times and print a table in Markdown.

python -m tests.chaos                                   every job, 20 times each
python -m tests.chaos --only train,store --times 5
python -m tests.chaos --seed 7 --keep /tmp/chaos        the same kills again; failed attempts are kept
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

from tests.chaos.jobs import JOBS, Inputs
from tests.chaos.kills import kill_repeatedly, table

#: Imported before forking, so that a job starts in milliseconds.
_OWN = ("cli.app", "data.building", "experiments.train", "experiments.judge", "experiments.run", "inference.local")
_LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "matplotlib", "bm25s")


def main() -> int:
    """Exit code 1 if a result differs or a job cannot be resumed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(JOBS), help="jobs, separated by commas")
    parser.add_argument("--times", type=int, default=20, help="attempts of each job")
    parser.add_argument("--seed", type=int, default=13, help="of the times of the kills")
    parser.add_argument("--keep", type=Path, help="a folder in which failed attempts are kept")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - JOBS.keys():
        parser.error(f"unknown job {', '.join(sorted(unknown))}; jobs are {', '.join(JOBS)}")
    for module in (*_LIBRARIES, *(f"searchlora.{name}" for name in _OWN)):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = options.keep or Path(temporary)
        inputs = Inputs(folder / "inputs")
        inputs.make()
        outcomes = []
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            outcomes.append(kill_repeatedly(JOBS[name](inputs), folder / name, options.times, options.seed))
    print(table(outcomes))
    problems = [f"* {each.name}: {problem}" for each in outcomes for problem in each.problems]
    if problems:
        print("\n".join(["", "Problems:", "", *problems]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
