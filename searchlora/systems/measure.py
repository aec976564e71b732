"""Run systems on the same rows, measure their outputs, and compare them: the one path of every evaluation.

Outputs are cached row by row under the fingerprint of the system, so that a measurement that was killed goes on, and
one of other rows computes only the new ones. A judge that took part in a system is refused before anything is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from searchlora.errors import PipelineError, UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.judgments.lineage import RunLineage, doubts, refuse_circular
from searchlora.eval.trec import Run
from searchlora.files.result_cache import cache_key
from searchlora.machine import machine
from searchlora.outputs import from_json, to_json
from searchlora.progress import Progress, Steps, no_progress, silent
from searchlora.records import Record
from searchlora.systems.measures import Measures
from searchlora.systems.system import Outputs, System

#: Rows that are written to a cache at once: as JSON they take more memory than their hits.
_WRITTEN = 256


class Cache(Protocol):
    """Results by key, such as `files.result_cache.ResultCache`."""

    def get(self, key: str) -> Any | None:
        """The JSON value of a key; None if it is unknown."""

    def put_all(self, values: Mapping[str, Any], label: str = "") -> None:
        """Keep values."""


@dataclass(frozen=True)
class SystemResult:
    """A measured system."""

    name: str
    raw: Outputs
    evaluation: Evaluation
    reused: bool = False

    @property
    def outputs(self) -> Sequence[Any]:
        """One output per row."""
        return self.raw.outputs


@dataclass(frozen=True)
class Measurement:
    """The result of `measure`."""

    comparison: Comparison
    results: Mapping[str, SystemResult]  # system -> result, in the order of the systems
    left_out: Mapping[str, str]  # optional system -> why it could not be run

    @property
    def reused(self) -> tuple[str, ...]:
        """Names of systems of which nothing was computed."""
        return tuple(name for name, result in self.results.items() if result.reused)


def measure(
    systems: Sequence[System],
    rows: Sequence[Record],
    measures: Measures,
    cache: Cache | None = None,
    *,
    candidate: str | None = None,
    baseline: str | None = None,
    also_tested: Sequence[str] = (),
    correction: str = "holm",
    allow_circular: bool = False,
    notes: Sequence[str] = (),
    measured: Callable[[System, SystemResult], SystemResult] | None = None,
    steps: Steps = no_progress,
) -> Measurement:
    """Run systems on rows, and compare their measures pairwise.

    Examples:
        >>> from searchlora.systems.fixed import FixedResults
        >>> from searchlora.systems.measures import RetrievalMeasures
        >>> rows = [{"id": "q1", "query": "red tent"}, {"id": "q2", "query": "couch"}]
        >>> ours = FixedResults("ours", rows, run={"q1": {"d1": 2.0}, "q2": {"d2": 1.0}})
        >>> theirs = FixedResults("theirs", rows, run={"q1": {"d1": 2.0}, "q2": {"d9": 1.0}})
        >>> measures = RetrievalMeasures({"q1": {"d1": 1}, "q2": {"d2": 1}}, ["MRR@10"])
        >>> measure([theirs, ours], rows, measures, candidate="ours").comparison.comparisons[0].difference
        0.5
    """
    names = [system.name for system in systems]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two systems are called '{repeated[0]}'", fix="Give them different names.")
    results, left_out = run_systems(
        systems, rows, measures, cache, allow_circular=allow_circular, measured=measured, steps=steps
    )
    evaluations = {name: result.evaluation for name, result in results.items()}
    comparison = compare(
        evaluations,
        candidate=candidate,
        baseline=next(iter(results)) if len(results) == 1 and candidate is None else baseline,
        also_tested=also_tested,
        correction=correction,
    )
    lineages = _lineages([system for system in systems if system.name in results], measures)
    notes = (*notes, *comparison.notes, *doubts(measures.card, lineages))
    return Measurement(replace(comparison, notes=notes), results, left_out)


def run_systems(
    systems: Sequence[System],
    rows: Sequence[Record],
    measures: Measures,
    cache: Cache | None = None,
    *,
    allow_circular: bool = False,
    measured: Callable[[System, SystemResult], SystemResult] | None = None,
    steps: Steps = no_progress,
) -> tuple[dict[str, SystemResult], dict[str, str]]:
    """The results of systems by name, and why optional ones are missing; without a comparison. See `measure`."""
    lineages = _lineages(systems, measures)
    circular = refuse_circular(measures.card, lineages, measures.queries(rows), allow=allow_circular)
    results: dict[str, SystemResult] = {}
    left_out: dict[str, str] = {}
    for system in systems:
        try:
            result = run_system(system, rows, measures, cache, steps(f"Running: {system.name}"))
            result = replace(result, evaluation=replace(result.evaluation, circular=circular.get(system.name, "")))
            results[system.name] = measured(system, result) if measured is not None else result
        except PipelineError as error:
            if not system.optional:
                raise
            left_out[system.name] = f"{error.what} ({error.where})" if error.where else error.what
        finally:
            system.finish()
    return results, left_out


def _lineages(systems: Sequence[System], measures: Measures) -> dict[str, RunLineage | None]:
    """System -> lineage; empty if no judge graded, since an adapter that is not in the store any more has none."""
    judged = measures.card is not None and measures.card.judge_lineage
    return {system.name: system.lineage for system in systems} if judged else {}


def run_system(
    system: System,
    rows: Sequence[Record],
    measures: Measures,
    cache: Cache | None = None,
    progress: Progress = silent,
) -> SystemResult:
    """The result of one system, without a comparison or a check of circularity."""
    outputs, reused = outputs_of(system, rows, cache, progress)
    outputs = measures.with_hits(rows, outputs)
    evaluation = measures.evaluate(system, rows, outputs)
    costs = {**outputs.costs, **system.fixed_costs}
    return SystemResult(system.name, outputs, replace(evaluation, costs=costs), reused)


def outputs_of(
    system: System, rows: Sequence[Record], cache: Cache | None = None, progress: Progress = silent
) -> tuple[Outputs, bool]:
    """The outputs of a system, those of known rows from the cache; and whether nothing was computed."""
    fingerprint = system.fingerprint if cache is not None else None
    if cache is None or fingerprint is None:
        return system.run(rows, progress), False
    keys = [cache_key(fingerprint, system.row_key(row)) for row in rows]
    parts: dict[int, Outputs] = {}
    for place, (key, row) in enumerate(zip(keys, rows, strict=True)):
        if (known := _read(cache.get(key), system, row)) is not None:
            parts[place] = known
    missing = [place for place in range(len(rows)) if place not in parts]
    if not missing:
        return _joined([parts[place] for place in range(len(rows))]), True
    if system.batch_size is None:
        missing = list(range(len(rows)))
    size = system.batch_size or len(missing)
    for start in range(0, len(missing), size):
        places = missing[start : start + size]
        batch = [rows[place] for place in places]
        done = system.run(batch, _part_of(progress, len(rows) - len(missing) + start, len(batch), len(rows)))
        parts.update((place, _row(done, number, rows[place])) for number, place in enumerate(places))
        lasting = [place for place in places if str(rows[place]["id"]) not in done.passing]
        for first in range(0, len(lasting), _WRITTEN):
            values = {keys[place]: _written(parts[place], rows[place]) for place in lasting[first : first + _WRITTEN]}
            cache.put_all({key: value for key, value in values.items() if value is not None}, system.name)
    return _joined([parts[place] for place in range(len(rows))]), False


def _part_of(progress: Progress, before: int, part: int, rows: int) -> Progress:
    """The progress of a part of the rows as that of all; of something else, such as documents to encode, unchanged."""

    def shown(done: int, total: int | None, note: str = "") -> None:
        if total == part:
            progress(before + done, rows, note)
        else:
            progress(done, total, note)

    return shown


def _row(outputs: Outputs, number: int, row: Record) -> Outputs:
    """What a system did with one of the rows."""
    name = str(row["id"])
    invalid = outputs.invalid
    return Outputs(
        [outputs.outputs[number]],
        None if outputs.run is None else {name: outputs.run.get(name, {})},
        None if invalid is None else {name: invalid[name]} if name in invalid else {},
        outputs.costs,
        outputs.parts,
    )


def _joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of all rows; a mean cost that is unknown for a row is unknown."""
    run: dict[str, Mapping[str, float]] = {}
    invalid: dict[str, str] = {}
    for part in parts:
        run.update(part.run or {})
        invalid.update(part.invalid or {})
    return Outputs(
        [part.outputs[0] for part in parts],
        None if any(part.run is None for part in parts) else run,
        None if any(part.invalid is None for part in parts) else invalid,
        _means([part.costs for part in parts]),
        {name: _means([part.parts.get(name, {}) for part in parts]) for name in parts[0].parts},
    )


def _means(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        name: sum(row[name] for row in costs) / len(costs) for name in costs[0] if all(name in row for row in costs)
    }


class _CachedRow(BaseModel):
    """What a system did with one row, as it is cached."""

    model_config = ConfigDict(allow_inf_nan=False)

    output: Any
    hits: list[tuple[str, float]] | None
    invalid: str | None  # why the output is not valid; empty if it is, None if that is unknown
    machine: str
    costs: dict[str, float]
    parts: dict[str, dict[str, float]]


def _written(part: Outputs, row: Record) -> dict[str, Any] | None:
    """One row's outputs as a JSON value; None for an output or a score that JSON cannot represent."""
    name = str(row["id"])
    try:
        hits = None if part.run is None else [(hit, float(score)) for hit, score in part.run[name].items()]
        return _CachedRow(
            output=to_json(part.outputs[0]),
            hits=hits,
            invalid=None if part.invalid is None else part.invalid.get(name, ""),
            machine=machine(),
            costs=dict(part.costs),
            parts={name: dict(costs) for name, costs in part.parts.items()},
        ).model_dump()
    except (TypeError, ValueError):
        return None


def _read(value: Any, system: System, row: Record) -> Outputs | None:
    """One row's outputs; None for a value that was not written for it.

    Costs of another machine are left out: they cannot be compared with those of this one.
    """
    name = str(row["id"])
    try:
        cached = _CachedRow.model_validate(value)
        output = from_json(cached.output)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not system.accepts(row, output):
        return None
    run: Run | None = None if cached.hits is None else {name: dict(cached.hits)}
    invalid = None if cached.invalid is None else {name: cached.invalid} if cached.invalid else {}
    measured_here = cached.machine == machine()
    return Outputs([output], run, invalid, *((cached.costs, cached.parts) if measured_here else ({}, {})))
