"""Evaluations of stored versions: the headline figure of each, in `evaluations.json` beside the versions of a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from searchlora.adapters.references import MAX_VERSION
from searchlora.adapters.staging import read_list, replace_text

EVALUATIONS = "evaluations.json"

#: Characters of the description of an engine.
MAX_ENGINE = 500

_MAX_BYTES = 16 * 2**20


class EvaluationRecord(BaseModel):
    """The headline figure of one version on one split of a dataset.

    Attributes:
        time: When it was measured, ISO 8601.
        data: Fingerprint of the dataset.
        measure: Name of the headline measure.
        value: Its value; `low` and `high` are the ends of its 95% interval.
        n: Number of rows.
        loses_to: Names of the baselines that are significantly better.
        engine: The engine that computed the outputs; None for an encoder, and in records of earlier releases.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1, le=MAX_VERSION)]
    time: Annotated[str, Field(max_length=40)]
    data: Annotated[str, Field(max_length=64)]
    split: Annotated[str, Field(max_length=100)]
    measure: Annotated[str, Field(max_length=200)]
    value: float | None
    low: float | None
    high: float | None
    n: Annotated[int, Field(ge=0)]
    loses_to: tuple[Annotated[str, Field(max_length=200)], ...] = ()
    engine: Annotated[str, Field(max_length=MAX_ENGINE)] | None = None


_RECORDS = TypeAdapter(tuple[EvaluationRecord, ...])


def read_evaluations(folder: Path) -> tuple[EvaluationRecord, ...]:
    """The records of the name with this folder, oldest first. Raises `StoreError` for a damaged file."""
    fix = "Restore it from a copy, or remove it and evaluate again."
    return read_list(folder / EVALUATIONS, _RECORDS, _MAX_BYTES, what="evaluations", fix=fix)


def with_evaluation(records: Sequence[EvaluationRecord], record: EvaluationRecord) -> tuple[EvaluationRecord, ...]:
    """The records with one more, which replaces an earlier one of the same version, dataset and split."""
    same = (record.version, record.data, record.split)
    if any(other == record.model_copy(update={"time": other.time}) for other in records):
        return tuple(records)  # the same figure again, from reused outputs
    return (*(other for other in records if (other.version, other.data, other.split) != same), record)


def write_evaluations(folder: Path, records: Sequence[EvaluationRecord]) -> None:
    """Replace the records. The caller holds the lock."""
    replace_text(folder / EVALUATIONS, _RECORDS.dump_json(tuple(records), indent=2).decode() + "\n")
