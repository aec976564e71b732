"""Shared code of the benchmarks: folders of data and results, the format of result files, timing."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import to_plain
from searchlora.eval.tables import Header, to_json
from searchlora.files import atomic_text
from searchlora.machine import machine, versions

if TYPE_CHECKING:
    from searchlora.adapters.stored import StoredAdapter

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "benchmarks" / "work"


def real_data() -> Path:
    """The folder of public datasets: SEARCHLORA_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("SEARCHLORA_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        sys.exit(f"There is no folder of public datasets at {folder}. Set SEARCHLORA_DATA to it.")
    return folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, atomically; missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_text(path) as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def header(name: str, module: str) -> Header:
    """The header of a results file: name, command, date, machine and versions."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Header(name, f"python -m benchmarks.{module}", date, machine(), versions())


def save(name: str, comparison: Comparison, more: Mapping[str, Any], *, module: str | None = None) -> Path:
    """Write a comparison to `results/NAME.json`, with further keys in `more`.

    Args:
        module: The module below `benchmarks` that is executed, with its options; None: NAME.
    """
    return _write(name, {**to_json(comparison, header(name, module or name)), **more})


def as_called(module: str) -> str:
    """A module with the options of this call; the home folder is written as `~`."""
    return " ".join([module, *sys.argv[1:]]).replace(f"{Path.home()}/", "~/")


def save_figures(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any],
    *,
    module: str | None = None,
) -> Path:
    """Write rows and comparisons that do not come from a `Comparison` to `results/NAME.json`; see `save`."""
    made = {**vars(header(name, module or name)), "rows": list(rows), "comparisons": list(comparisons)}
    return _write(name, {**made, **more})


def write_results(path: Path, content: Mapping[str, Any]) -> None:
    """Write a results file: a line per top-level key, and a line per item of a list or mapping of lists and mappings.

    A row of figures is then one line, which keeps files and their diffs short.
    """
    plain = to_plain(dict(content))
    with atomic_text(path) as out:
        out.write("{\n" + ",\n".join(f"{_json(key)}: {_lines(value)}" for key, value in plain.items()) + "\n}\n")


def _lines(value: Any) -> str:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(item, dict | list) for item in items):
        return _json(value)
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f" {_json(key)}: {_json(item)}" for key, item in value.items()) + "\n}"
    return "[\n" + ",\n".join(f" {_json(item)}" for item in value) + "\n]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _write(name: str, content: Mapping[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_results(path, content)
    return path


Outcome = TypeVar("Outcome")


def timed(ways: Mapping[str, Callable[[], Outcome]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Outcome]]:
    """Seconds of each variant in each repeat, and its last result.

    The variants take turns, so other load on the machine affects all; one warm-up repeat is not counted.

    Args:
        ways: Name -> function.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Outcome] = {}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            results[name] = way()
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
    return seconds, results


def speed_row(system: str, measure: str, values: Sequence[float]) -> dict[str, Any]:
    """A results row: median, minimum and maximum over the repeats."""
    return {
        "system": system,
        "measure": measure,
        "value": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def speed_ratio(a: str, b: str, measure: str, above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """A comparison: ratio of the medians, and minimum and maximum ratio within a repeat."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return {
        "a": a,
        "b": b,
        "measure": measure,
        "ratio": statistics.median(above) / statistics.median(below),
        "low": min(ratios),
        "high": max(ratios),
        "n": len(ratios),
    }


def merged_base(adapter: StoredAdapter, folder: Path) -> Path:
    """The base model with an adapter merged into it, written to `folder` or reused; one folder per adapter version."""
    from searchlora.adapters.merging import export_merged

    out = folder / adapter.reference
    if not out.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        print(export_merged(adapter, out))
    return out
