"""Records against their task's JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_PROBLEMS = 3
MAX_MESSAGE = 200


class RecordCheck:
    """A record schema, compiled once.

    Args:
        schema: JSON Schema of a record, in the draft that its `$schema` names.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from jsonschema.validators import validator_for

        kind = validator_for(schema)
        kind.check_schema(dict(schema))
        self._validator = kind(dict(schema))

    def problem(self, record: Any) -> str | None:
        """What is wrong with a record, field by field ("field 'history/0/role': ..."); None where nothing is."""
        problems = [_told(error) for error in self._validator.iter_errors(record)]
        if not problems:
            return None
        more = len(problems) - MAX_PROBLEMS
        return "; ".join(problems[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _told(error: Any) -> str:
    message = error.message if len(error.message) <= MAX_MESSAGE else f"{error.message[:MAX_MESSAGE]}..."
    field = "/".join(str(part) for part in error.absolute_path)
    return f"field '{field}': {message}" if field else message
