"""Results of a pipeline as JSON: for each search what its stages wrote, with the versions that wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from searchlora.errors import DataError
from searchlora.records import Hit, SearchContext

#: The task and the reason of each output so far that is invalid: a field of a search.
INVALID = "invalid_outputs"

#: Keys of a result that no stage wrote. `hits` has its own format.
NOT_FIELDS = ("id", "query", "stages", "input", "hits", "invalid")


def result(search: SearchContext, executed: SearchContext, stages: Sequence[str]) -> dict[str, Any]:
    """What a pipeline did with one search, as a JSON object.

    Examples:
        >>> executed = {"id": "q1", "query": "red sofa", "hits": [Hit("d3", 2.5)]}
        >>> result({"id": "q1", "query": "red couch"}, executed, ["shop-rewriter@1", "bm25"])["hits"]
        [{'rank': 1, 'document': 'd3', 'score': 2.5}]
    """
    row: dict[str, Any] = {
        "id": str(executed["id"]),
        "query": executed["query"],
        "stages": list(stages),
        "input": {field: value for field, value in search.items() if field not in ("id", "hits")},
        **{field: value for field, value in written(search, executed) if field != "query"},
    }
    if invalid := _invalid(executed.get(INVALID, ())):
        row["invalid"] = invalid
    return row


def written(before: SearchContext, after: SearchContext) -> Iterator[tuple[str, Any]]:
    """The fields that stages wrote, as JSON: `hits` as `rank`, `document`, `score`; `passages` without their texts."""
    for field, value in after.items():
        if field not in ("id", "outputs", INVALID) and (field not in before or before[field] is not value):
            yield field, _FORMS.get(field, plain)(value)


def result_line(row: Mapping[str, Any]) -> str:
    """A result as one line of JSON. Raises `DataError` for a value that JSON cannot represent, naming the query."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"a result is not JSON ({error})", where=f"query {row['id']}") from None


def _hits(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "document": hit.document,
            "score": hit.score,
            **({"title": hit.fetched.title} if hit.fetched is not None and hit.fetched.title else {}),
        }
        for rank, hit in enumerate(hits, 1)
    ]


def _passages(passages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in passage.items() if name != "text"} for passage in passages]


def plain(value: Any) -> Any:
    """A value with dataclasses as objects and tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


_FORMS: dict[str, Callable[[Any], Any]] = {"hits": _hits, "passages": _passages}


def _invalid(invalid: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Task -> why its outputs are invalid, for tasks with an invalid output."""
    reasons: dict[str, list[str]] = {}
    for task, reason in invalid:
        reasons.setdefault(task, []).append(reason)
    return reasons
