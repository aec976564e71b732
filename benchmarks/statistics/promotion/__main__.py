"""Promotion policy on the synthetic shop: accepted, refused and forced promotions of rewriters.

    python -m benchmarks.statistics.promotion

Trains three rewriters and a judge on a 135M base model, about 15 minutes on 2 cores, and reuses what is in
`benchmarks/work`. The commands and their output are written to `benchmarks/results/promotion.json`;
`python -m benchmarks.tables` copies them into the README of this study.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, save_figures
from benchmarks.statistics.promotion.adapters import JUDGE, NAME, TASKS, make
from searchlora.cli.terminal import progress_bars

POLICY = Path(__file__).parent / "policy.yaml"


def main() -> None:
    work = WORK / "promotion"
    work.mkdir(parents=True, exist_ok=True)
    with progress_bars() as steps:
        make(work, steps)
    for leftover in (work / "store" / NAME / "aliases.json", work / "judged.txt"):
        leftover.unlink(missing_ok=True)
    transcript = [_call(work, description, arguments) for description, arguments in _steps(work)]
    save_figures("promotion", [], [], {"transcript": transcript}, module="statistics.promotion")


def _steps(work: Path) -> list[tuple[str, list[str]]]:
    """Description and arguments of each command, executed in `work`."""

    def promote(version: int, *more: str, data: str = "data-shop") -> list[str]:
        where = ["--to", "production", "--policy", "policy.yaml", "--data", data]
        return ["promote", f"{NAME}@{version}", *where, *more, "--out", f"promotion-{data}"]

    (work / "policy.yaml").write_text(POLICY.read_text(encoding="utf-8"), encoding="utf-8")
    judge = ["judge", JUDGE, "--topics", "topics.jsonl", "--corpus", "data-shop/corpus.jsonl"]
    pool = ["--pool", f"promotion-data-shop/runs/{NAME}@1.trec", "--depth", "2", "--allow-circular"]
    return [
        ("The first version has no incumbent to beat, only the base.", promote(1)),
        ("A worse one.", promote(4)),
        ("Better on the whole, but trained without plain queries and article codes.", promote(5)),
        ("Other data than at the last decision.", promote(2, data="data-shop-later")),
        (
            "A judge that was trained on the test's queries ...",
            [*judge, *pool, "--tasks", str(TASKS), "--out", "judged.txt"],
        ),
        ("... is no judge of them.", promote(2, "--qrels", "judged.txt")),
        ("A better one, on the data and the judgments of the last decision.", promote(3)),
        ("One that does not beat it.", promote(2)),
        ("A forced promotion.", promote(2, "--force", "no merge in it; agreed with the search team")),
        ("The forced promotion stays visible.", ["adapters", "list"]),
    ]


def _call(work: Path, description: str, arguments: list[str]) -> dict[str, Any]:
    """Execute a command and return its output without progress, times and the table of all figures."""
    environment = {**os.environ, "SEARCHLORA_STORE": "store", "PYTHONPATH": str(Path.cwd()), "COLUMNS": "110"}
    script = [str(Path(sys.executable).with_name("searchlora")), *arguments]
    done = subprocess.run(script, cwd=work, env=environment, capture_output=True, text=True, check=False)
    print(f"$ searchlora {' '.join(arguments)}\n{done.stdout}{done.stderr[-2000:]}[exit {done.returncode}]", flush=True)
    command_line = [argument if argument != str(TASKS) else "tasks" for argument in arguments]
    refusal = [line for line in done.stderr.splitlines() if line.startswith("Refused")]
    output = "\n".join([*_from_rules(done.stdout.splitlines()), *refusal])
    return {
        "description": description,
        "command": ["searchlora", *command_line],
        "output": output,
        "exit": done.returncode,
    }


def _from_rules(lines: list[str]) -> list[str]:
    """The output from the policy's table on, if there is one."""
    starts = [number for number, line in enumerate(lines) if line.startswith("The policy")]
    return [line.rstrip() for line in lines[starts[0] if starts else 0 :] if not line.startswith("Report:")]


if __name__ == "__main__":
    main()
