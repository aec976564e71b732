"""Shared code of the benchmarks: folders of data and results, the format of result files, timing."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.formatting import markdown_table, to_plain
from searchlora.eval.tables import Header, to_json
from searchlora.files import atomic_text
from searchlora.machine import machine, versions
from searchlora.models.memory import base_parameters
from searchlora.models.resolve import resolve
from searchlora.progress import Progress, silent
from searchlora.recipe import for_size, load_recipe
from searchlora.task import load_generation_task

if TYPE_CHECKING:
    from searchlora.adapters.store import Store
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


def parser(name: str) -> argparse.ArgumentParser:
    """A parser of the options of `python -m benchmarks.NAME`."""
    return argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")


def trial_parser(name: str) -> argparse.ArgumentParser:
    """The same with `--limit` and `--set`, for a trial that writes no results; see `is_trial`."""
    arguments = parser(name)
    arguments.add_argument("--limit", type=int, metavar="N", help="number of test rows, for a trial")
    arguments.add_argument("--set", action="append", default=[], help="key=value that overrides each recipe, likewise")
    return arguments


def is_trial(options: argparse.Namespace) -> bool:
    """Whether the options of `trial_parser` ask for a trial."""
    return options.limit is not None or bool(options.set)


def dataset(folder: Path, task: str, source: Path, **options: Any) -> Dataset:
    """The dataset in a folder, built from a source if it does not exist.

    Args:
        options: Of `data.building.build`.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        build(task, source, out=folder, **options)
    return load_dataset(folder)


def native_dataset(folder: Path, task: str, rows: Iterable[Mapping[str, Any]], **options: Any) -> Dataset:
    """The dataset in a folder, built from records if it does not exist; see `dataset`."""
    source = folder.with_name(f"{folder.name}.jsonl")
    if not folder.is_dir():
        write_rows(source, rows)
    return dataset(folder, task, source, format="native", **options)


def copied(source: Store, name: str, target: Path, fix: str) -> None:
    """Copy all versions of an adapter to another store, those that it lacks.

    Raises:
        UsageError: with `fix`, for an adapter that was not trained yet.
    """
    versions = source.versions(name)
    if not versions:
        raise UsageError(f"there is no adapter '{name}'", where=str(source.root), fix=fix)
    for version in versions:
        folder = target / name / str(version)
        if not folder.is_dir():
            partial = folder.with_name(f".{version}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source.root / name / str(version), partial)
            partial.rename(folder)


def remembered(
    file: Path,
    keys: Sequence[str],
    compute: Callable[[Sequence[str]], Sequence[Any]],
    progress: Progress = silent,
    batch: int = 16,
) -> dict[str, Any]:
    """Key -> value, as JSON holds it. Values are computed in batches and appended to a file, which is read again.

    Args:
        compute: Keys -> their values.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):  # an interrupted run left an incomplete line
        file.write_text("".join(whole), encoding="utf-8")
    known = dict(json.loads(line) for line in whole)
    missing = [key for key in dict.fromkeys(keys) if key not in known]
    for start in range(0, len(missing), batch):
        values = dict(zip(part := missing[start : start + batch], compute(part), strict=True))
        with file.open("a", encoding="utf-8") as out:
            out.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in values.items())
        known |= values
        progress(start + len(part), len(missing))
    return {key: known[key] for key in keys}


def training_figures(stored: StoredAdapter) -> dict[str, Any]:
    """What a training run took: rows, steps, tokens, seconds."""
    return {key: stored.manifest.training[key] for key in ("rows", "steps", "tokens", "seconds")}


def rate_of(base: str, task: str, recipe: Path | None, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """The override for the learning rate of a base's size, where it is below that of a recipe for 135M."""
    chosen = load_recipe(load_generation_task(task).default_recipe, recipe, overrides).optim.learning_rate
    rates = for_size({"optim": {"learning_rate": chosen}}, base_parameters(resolve(base).path))
    return (f"optim.learning_rate={rates['optim']['learning_rate']}",)


#: Cost of a model -> format of its number in tables.
COSTS: Mapping[str, str] = {
    "parameters trained": ",.0f",
    "share of parameters": ".2%",
    "peak memory, GB": ".2f",
    "training, s": ",.0f",
    "on disk, MB": ",.1f",
}


def training_costs(stored: StoredAdapter) -> dict[str, float]:
    """What a model costs: parameters, memory and time of its training, and its size."""
    training = stored.manifest.training
    return {
        "parameters trained": training["parameters_trained"],
        "share of parameters": training["parameters_trained"] / training["parameters"],
        "peak memory, GB": training["peak_memory_gb"],
        "training, s": training["seconds"],
        "on disk, MB": stored.weight_bytes / 1e6,
    }


def single_row(system: str, measure: str, value: float) -> dict[str, Any]:
    """A results row of a figure that was measured once."""
    return {"system": system, "measure": measure, "value": value, "low": None, "high": None, "n": 1}


def named_comparison(
    evaluations: Mapping[str, Evaluation], names: Mapping[str, str], candidate: str, *tested: str
) -> Comparison:
    """The comparison of a system with the others, by the names of a benchmark.

    Args:
        names: Name of a system in the evaluation -> its name in the benchmark, where they differ.
        tested: The measures that are tested, the headline first.
    """
    systems = {
        names.get(name, name): replace(evaluation, headline=tested[0], tested=tested)
        for name, evaluation in evaluations.items()
    }
    return compare(systems, candidate=candidate)


def in_a_process(module: str, *arguments: str) -> Any:
    """What a module writes as its last line, as JSON, in a process of its own, whose peak memory is its own.

    Raises:
        RuntimeError: if it fails; with the end of what it wrote to stderr.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[2:4])} failed: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def header(name: str, module: str) -> Header:
    """The header of a results file: name, command, date, machine and versions."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Header(name, f"python -m benchmarks.{module}", date, machine(), versions())


def save(
    name: str, comparison: Comparison, more: Mapping[str, Any], *, module: str | None = None, keep: bool = False
) -> Path:
    """Write a comparison to `results/NAME.json`, with further keys in `more`.

    Args:
        module: The module below `benchmarks` that is executed, with its options; None: NAME.
        keep: Whether the file keeps, after the new ones, what it says about systems that were not compared: their rows,
            comparisons, and the items of mappings in `more`.
    """
    content = {**to_json(comparison, header(name, module or name)), **more}
    return _write(name, _with_kept(content, more, read_results(name)) if keep else content)


def _with_kept(content: Mapping[str, Any], more: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    systems = {row["system"] for row in content["rows"]}
    rows = [row for row in saved.get("rows", []) if row["system"] not in systems]
    pairs = [pair for pair in saved.get("comparisons", []) if not {pair["a"], pair["b"]} <= systems]
    items = {key: {**saved.get(key, {}), **value} for key, value in more.items() if isinstance(value, Mapping)}
    kept = {"rows": [*content["rows"], *rows], "comparisons": [*content["comparisons"], *pairs]}
    return {**content, **kept, **items}


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


def read_results(name: str) -> dict[str, Any]:
    """The content of `results/NAME.json`; empty if there is no such file."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


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


def print_or_save_speeds(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any] | None = None,
    *,
    trial: bool = False,
) -> None:
    """Print speeds as the tables of the pages show them, and write them to `results/NAME.json` unless it is a trial."""
    print(table := speed_table(rows, comparisons))
    if not trial:
        save_figures(name, rows, comparisons, {**(more or {}), "table": table}, module=as_called(name))


def speed_table(rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per system and a column per measure; then the ratios of two systems, likewise.

    Systems with other measures have a table of their own.
    """
    speeds = {(row["system"], row["measure"]): _spread(row, row["value"]) for row in rows}
    ratios = {(f"{pair['a']} / {pair['b']}", pair["measure"]): _spread(pair, pair["ratio"]) for pair in comparisons}
    parts = [*_by_measure("", speeds), *_by_measure("ratio", ratios)]
    repeats = max(row["n"] for row in rows)
    caption = "Measured once." if repeats == 1 else f"Medians of {repeats} repeats, with minimum and maximum."
    return "\n\n".join([*parts, caption])


def _by_measure(head: str, cells: Mapping[tuple[str, str], str]) -> Iterator[str]:
    measures: dict[str, list[str]] = {}
    for name, measure in cells:
        measures.setdefault(name, []).append(measure)
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for name, of_name in measures.items():
        tables.setdefault(tuple(of_name), []).append([name, *(cells[name, measure] for measure in of_name)])
    for columns, lines in tables.items():
        yield markdown_table([head, *columns], lines)


def _spread(row: Mapping[str, Any], value: float) -> str:
    digits = ",.0f" if value >= 100 else ".1f" if value >= 10 else ".2f"
    return f"{value:{digits}}" + (f" ({row['low']:{digits}}–{row['high']:{digits}})" if row["n"] > 1 else "")
