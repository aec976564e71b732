"""A JSON object: all of it right, each field right, and F1 over its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from searchlora.eval.pooled import micro_f1
from searchlora.tasks.intent.figures import Answered, Figures, out_of_scope_figures
from searchlora.tasks.intent.settings import scope_field


def of(settings: Mapping[str, Any], rows: Answered) -> Figures:
    """Measures of objects.

    Measures:
        exact match: 1 where every field is right; the headline.
        field: NAME: 1 where the field is right, one that is rightly not there included.
        F1 of parts (pooled): over the single values of all fields, those in lists and inner objects each on their own.
        out-of-scope recall, precision, F1 (pooled): where the schema has a value for it (`out_of_scope`) and rows do.
    """
    gold: Mapping[str, Mapping[str, Any]] = rows.gold
    said: Mapping[str, Mapping[str, Any] | None] = rows.said
    fields = list(settings["schema"]["properties"])
    true = {id_: frozenset(parts(answer)) for id_, answer in gold.items()}
    found = {id_: frozenset() if answer is None else frozenset(parts(answer)) for id_, answer in said.items()}
    values = {"exact match": {id_: float(_same(answer, said[id_])) for id_, answer in gold.items()}}
    for name in fields:
        values[f"field: {name}"] = {
            id_: float((other := said[id_]) is not None and _same(answer.get(name), other.get(name)))
            for id_, answer in gold.items()
        }
    return Figures(
        headline="exact match",
        values=values,
        pooled={
            "F1 of parts": micro_f1(
                {id_: float(len(own & found[id_])) for id_, own in true.items()},
                {id_: float(len(own)) for id_, own in found.items()},
                {id_: float(len(own)) for id_, own in true.items()},
            ),
            **_out_of_scope(settings, gold, said),
        },
        tested=("exact match", "F1 of parts"),
    )


def parts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The single values of an object, each with its path; null, an empty list and an empty object have none."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from parts(inner, f"{path}/{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from parts(inner, f"{path}[]")
    elif value is not None:
        yield path, _written(value)


def _out_of_scope(
    settings: Mapping[str, Any], gold: Mapping[str, Mapping[str, Any]], said: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any]:
    beyond = settings.get("out_of_scope")
    field = scope_field(settings["schema"], beyond) if beyond is not None else None
    if field is None:
        return {}
    return out_of_scope_figures(
        {id_: answer.get(field) == beyond for id_, answer in gold.items()},
        {id_: answer is not None and answer.get(field) == beyond for id_, answer in said.items()},
    )


def _same(one: Any, other: Any) -> bool:
    return _written(one) == _written(other)


def _written(value: Any) -> str:
    """JSON in which equal values are equal text: 80 and 80.0, fields in any order; 1 and true are not equal."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
