"""Each row against the user's own label list or schema, and its answer in the one order in which it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchlora.data.schema import RecordCheck
from searchlora.errors import UsageError
from searchlora.records import Options, RejectedRow, SourceRow
from searchlora.tasks.intent.answers import KINDS
from searchlora.tasks.intent.settings import read_labels, read_schema, wanted_kind


@dataclass
class AnswerCheck:
    """Checks rows one after another: all have the kind of answer that the first has, or that was asked for.

    Args:
        kind: Asked for; None: that of the first row.
        labels: The label set; None: any label.
        schema: Of objects.
    """

    kind: str | None
    labels: frozenset[str] | None
    schema: Mapping[str, Any] | None
    asked: bool = field(init=False)

    def __post_init__(self) -> None:
        self.asked = self.kind is not None
        self._object = RecordCheck(self.schema) if self.schema is not None else None

    @classmethod
    def of(cls, options: Options) -> AnswerCheck:
        """By the builder's options. Raises `UsageError`, `DataError` for options that cannot be used."""
        labels = None
        if "labels" in options:
            # The out-of-scope label may be in test rows only, so the list need not have it.
            labels = frozenset({*read_labels(Path(options["labels"])), options.get("out_of_scope") or ""}) - {""}
        schema = read_schema(Path(options["schema"])) if "schema" in options else None
        return cls(wanted_kind(options), labels, schema)

    def checked(self, row: SourceRow) -> SourceRow | RejectedRow:
        """The row with its one answer in order, or why it is refused."""
        held = [kind for kind in KINDS if kind in row.data]
        if self.kind is None and len(held) == 1:
            self.kind = held[0]
        problem = self._problem(row.data, held)
        if problem is not None:
            return RejectedRow(row.where, problem, row.data)
        kind = self.kind or held[0]
        record = {name: value for name, value in row.data.items() if name not in KINDS}
        return SourceRow({**record, kind: self._ordered(row.data[kind])}, row.where)

    def _problem(self, data: Mapping[str, Any], held: list[str]) -> str | None:
        if not held:
            return f"has none of the fields {', '.join(KINDS)}"
        if not self.asked and len(held) > 1:
            return f"has the fields {' and '.join(held)}; say which one is meant with --option kind={held[0]}"
        if self.kind not in held:
            return f"has the field '{held[0]}' where '{self.kind}' is wanted, as in the first row or by --option kind"
        answer = data[self.kind]
        if self.kind == "object":
            return self._of_object(answer)
        # What is no label at all, the record's schema refuses.
        labels = [label for label in (answer if isinstance(answer, list) else [answer]) if isinstance(label, str)]
        unknown = next((label for label in labels if self.labels is not None and label not in self.labels), None)
        return None if unknown is None else f"field '{self.kind}': '{unknown}' is not in the list of labels"

    def _of_object(self, answer: Any) -> str | None:
        if self._object is None:
            raise UsageError("the answers are objects, but no schema was given", fix="Give --option schema=FILE.")
        problem = self._object.problem(answer)
        return None if problem is None else f"object: {problem}"

    def _ordered(self, answer: Any) -> Any:
        """Labels sorted; the fields of an object in the order of the schema, in which constrained generation writes."""
        if self.kind == "labels" and isinstance(answer, list):
            return sorted(answer, key=str)
        if self.kind == "object" and self.schema is not None:
            return _as_in(self.schema, answer)
        return answer


def _as_in(schema: Any, value: Any) -> Any:
    """A value with the fields of each object in the order of its schema; those that it does not name come last."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, dict):
        forms: Mapping[str, Any] = schema.get("properties", {})
        names = [*(name for name in forms if name in value), *(name for name in value if name not in forms)]
        return {name: _as_in(forms.get(name, {}), value[name]) for name in names}
    if isinstance(value, list):
        return [_as_in(schema.get("items"), each) for each in value]
    return value
