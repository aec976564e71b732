"""What the benchmarks share: where data and work lie, and how results are written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import write_json
from searchlora.eval.tables import Header, to_json
from searchlora.experiments.machine import machine, versions
from searchlora.files import atomic_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "benchmarks" / "work"


def real_data() -> Path:
    """The folder of public datasets: SEARCHLORA_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("SEARCHLORA_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        sys.exit(f"There is no real data at {folder}; set SEARCHLORA_DATA to the folder that holds it.")
    return folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSONL, whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(path) as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def header(name: str, module: str) -> Header:
    """Name, repeating command, date, machine and versions."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Header(name, f"python -m benchmarks.{module}", date, machine(), versions())


def save(name: str, comparison: Comparison, more: Mapping[str, Any], *, module: str | None = None) -> Path:
    """Write `results/NAME.json`: the keys that all results share, and `more` about this benchmark.

    Args:
        module: Of the benchmark that makes it, where it is not called NAME.
    """
    return _write(name, {**to_json(comparison, header(name, module or name)), **more})


def as_called(module: str) -> str:
    """A module with the options that it was called with; the home folder, which a shell puts in, as `~`."""
    return " ".join([module, *sys.argv[1:]]).replace(f"{Path.home()}/", "~/")


def save_figures(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any],
    *,
    module: str | None = None,
) -> Path:
    """Write `results/NAME.json` of figures that no comparison of systems made, in the same keys; see `save`."""
    made = {**vars(header(name, module or name)), "rows": list(rows), "comparisons": list(comparisons)}
    return _write(name, {**made, **more})


def _write(name: str, content: Mapping[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, content)
    return path
