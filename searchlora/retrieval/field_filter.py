"""Filters by fields of documents, for the hits of a search, and for an index while it is searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, repeat
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError, UsageError
from searchlora.eval.text_identity import words
from searchlora.records import Document

Operator: TypeAlias = Literal["equals", "contains", "prefix", "min", "max"]


@dataclass(frozen=True)
class FieldTest:
    """What the text of a field must be."""

    values: tuple[tuple[Operator, frozenset[str]], ...]

    def __call__(self, text: str) -> bool:
        return all(test(text) for test in self._tests)

    def __bool__(self) -> bool:
        """Whether anything is tested."""
        return bool(self._tests)

    @property
    def equals(self) -> frozenset[str] | None:
        """The values of which the field must be one, if nothing else is tested."""
        ((operator, values), *rest) = self.values
        return values if operator == "equals" and not rest else None

    @cached_property
    def _tests(self) -> list[Callable[[str], bool]]:
        tests = (_test(operator, values) for operator, values in self.values)
        return [test for test in tests if test is not None]


#: Field -> its test; a document that fails one of them is not found. Empty: every document may be found.
FieldFilter: TypeAlias = Mapping[str, FieldTest]


class FieldColumns:
    """Fields of all documents of an index, for filters. In memory are 4 bytes per document and field, and each value.

    Examples:
        >>> documents = [Document("1", "jacket", metadata={"brand": "Acme"}), Document("2", "socks")]
        >>> columns = FieldColumns(documents, ["brand"])
        >>> columns.rows({"brand": FieldTest((("equals", frozenset({"acme"})),))}).tolist()
        [True, False]
    """

    def __init__(self, documents: Iterable[Document], fields: Iterable[str]) -> None:
        values: dict[str, dict[str, int]] = {field: {} for field in fields}
        numbers: dict[str, list[int]] = {field: [] for field in values}
        for document in documents:
            for field, known in values.items():
                numbers[field].append(known.setdefault(document.field(field), len(known)))
        for field, known in values.items():
            if not any(known):
                raise DataError(f"no document has the field '{field}', by which a stage filters")
        self._values = {field: list(known) for field, known in values.items()}
        self._numbers = {field: np.array(rows, dtype=np.int32) for field, rows in numbers.items()}

    def rows(self, filter: FieldFilter) -> NDArray[np.bool_]:
        """Which documents pass a filter, shape (documents,). Each distinct value of a field is tested once."""
        passing = [
            np.array([test(value) for value in self._values[field]], dtype=bool)[self._numbers[field]]
            for field, test in filter.items()
        ]
        rows: NDArray[np.bool_] = np.logical_and.reduce(passing)
        return rows


def rows_of(
    columns: FieldColumns | None, filters: Sequence[FieldFilter] | None, queries: int
) -> Iterator[NDArray[np.bool_] | None]:
    """For each query which documents it may find; None: all. Computed one after the other, as they are needed."""
    if filters is None or not any(filters):
        return repeat(None, queries)
    if columns is None:
        raise UsageError("the index has no fields to filter by", fix="Give it columns: `index.filterable(columns)`.")
    return _rows(columns, filters)


def _rows(columns: FieldColumns, filters: Sequence[FieldFilter]) -> Iterator[NDArray[np.bool_] | None]:
    """Equal filters in a row, such as those of the queries of one search, share their rows."""
    for filter, same in groupby(filters):
        rows = columns.rows(filter) if filter else None
        for _ in same:
            yield rows


def case_folded(text: str) -> str:
    """A text as values are compared: without regard to case and repeated blanks."""
    return " ".join(text.casefold().split())


def _test(operator: Operator, values: frozenset[str]) -> Callable[[str], bool] | None:
    """The test of a field's text; None if the operator can compare with none of the values."""
    if operator == "equals":
        return lambda text: case_folded(text) in values
    if operator == "prefix":
        beginnings = tuple(values)
        return lambda text: case_folded(text).startswith(beginnings)
    if operator == "contains":  # the words of a value stand together in the field
        wanted = [f" {words} " for value in values if (words := _words(value))]
        return (lambda text: any(value in f" {_words(text)} " for value in wanted)) if wanted else None
    bounds = _numbers(values)
    if not bounds:
        return None
    # The widest of several bounds counts, as a field equals one of several values.
    if operator == "min":
        return lambda text: any(number >= min(bounds) for number in _numbers([text]))
    return lambda text: any(number <= max(bounds) for number in _numbers([text]))


def _words(text: str) -> str:
    return " ".join(words(text.casefold()))


def _numbers(texts: Iterable[str]) -> list[float]:
    """The finite numbers among texts, written with a decimal point and without separators."""
    numbers = []
    for text in texts:
        try:
            number = float(text)
        except ValueError:
            continue
        if math.isfinite(number):
            numbers.append(number)
    return numbers
