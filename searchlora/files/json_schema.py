"""Validators of JSON Schema that fetch nothing: references stay within the schema, checked when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from searchlora.errors import DataError
from searchlora.files.json_text import value_fault

#: Time limit of one match of a pattern in a schema.
PATTERN_SECONDS = 0.5

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


def check_json_schema(schema: Mapping[str, Any], where: str) -> None:
    """Check a JSON Schema that comes from a user.

    Examples:
        >>> check_json_schema({"$ref": "https://example.org/other.json"}, "intent.schema.json")
        Traceback (most recent call last):
            ...
        searchlora.errors.DataError: intent.schema.json: the reference 'https://example.org/other.json' leads out of \
the schema. Write {"$ref": "#/$defs/NAME"} and put the definition into the schema.
    """
    import jsonschema
    from jsonschema.validators import validator_for

    fault = value_fault(schema)
    if fault is None and not isinstance(schema.get("$schema", ""), str):
        fault = "'$schema' is not text"
    if fault is not None:
        raise DataError(f"is not a JSON Schema ({fault})", where=where)
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise DataError(
                f"the reference '{reference[:200]}' leads out of the schema",
                where=where,
                fix='Write {"$ref": "#/$defs/NAME"} and put the definition into the schema.',
            )
    try:
        validator_for(schema).check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        raise DataError(f"is not a JSON Schema ({error.message[:200]})", where=where) from None


def schema_validator(schema: Mapping[str, Any]) -> Any:
    """A `jsonschema` validator that fetches nothing and whose patterns end.

    A `$ref` outside the schema is an error, not a download. A pattern that takes longer than `PATTERN_SECONDS` on a
    value counts as not matched: a pattern of a stored adapter may backtrack exponentially.

    Examples:
        >>> schema_validator({"pattern": "^(a+)+$"}).is_valid("a" * 40 + "!")
        False
    """
    from jsonschema.validators import validator_for
    from referencing import Registry

    return _bounded(validator_for(schema))(schema, registry=Registry())


@cache
def _bounded(validator: Any) -> Any:
    """A validator class with the keywords that match patterns replaced by ones with a time limit."""
    from jsonschema import validators

    extend: Any = validators.extend  # untyped
    replaced = {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional}
    return extend(validator, replaced)


def _matches(pattern: str, text: str) -> bool:
    import regex

    try:
        return regex.search(pattern, text, timeout=PATTERN_SECONDS) is not None
    except (TimeoutError, regex.error):
        return False


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, schema in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional(validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    named = schema.get("properties", {})
    extra = [name for name in instance if name not in named and not any(_matches(p, name) for p in patterns)]
    if isinstance(allowed, dict):
        for name in extra:
            yield from validator.descend(instance[name], allowed, path=name)
    elif allowed is False and extra:
        were = "was" if len(extra) == 1 else "were"
        yield ValidationError(
            f"Additional properties are not allowed ({', '.join(map(repr, extra))} {were} unexpected)"
        )


def _references(schema: Any) -> Iterator[str]:
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from (item[name] for name in _REFERENCES if isinstance(item.get(name), str))
            pending += item.values()
        elif isinstance(item, list):
            pending += item
