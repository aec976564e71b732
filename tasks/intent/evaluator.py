"""Answers against the records': accuracy over all rows, an invalid one counted as wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import InvalidOutput, Label
from searchlora.records import Record
from searchlora.tasks.intent.answers import kind_of


def evaluate(settings: Mapping[str, Any], records: Sequence[Record], outputs: Sequence[Any]) -> Evaluation:
    """Measure answers, one per record, over all records that hold one."""
    del settings
    ids = [str(record["id"]) for record in records]
    values = {"accuracy": {}, "invalid": {}}
    for id_, record, output in zip(ids, records, outputs, strict=True):
        kind = kind_of(record)
        answer = output.value if isinstance(output, Label) else output
        values["accuracy"][id_] = float(kind is not None and answer == record[kind])
        values["invalid"][id_] = float(isinstance(output, InvalidOutput))
    return Evaluation(
        headline="accuracy",
        values=values,
        clusters={id_: str(record["group"]) for id_, record in zip(ids, records, strict=True)},
        invalid={i: o.reason for i, o in zip(ids, outputs, strict=True) if isinstance(o, InvalidOutput)},
    )
