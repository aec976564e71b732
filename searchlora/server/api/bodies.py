"""The parser of request bodies: JSON in any encoding of Unicode, validated by pydantic; an error names the field."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from searchlora.files.json_text import text_fault
from searchlora.server.api.errors import ApiError

_JSON = re.compile(r"\s*application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)

#: The escape of half a character, in UTF-8 or, with NUL bytes between, in UTF-16 or UTF-32.
_SURROGATE_ESCAPE = re.compile(rb"\\\0*u\0*[dD]\0*[89a-fA-F]")

#: Tags in the location of a validation error; they do not name fields.
SINGLE, BATCH = "<single>", "<batch>"

T = TypeVar("T")


def parse_body(body: bytes, content_type: str, adapter: TypeAdapter[T]) -> T:
    """Parse and validate a request body. It may take a while: call it in a worker thread.

    Examples:
        >>> parse_body(b'{"a": 1}', "application/json", TypeAdapter(dict[str, int]))
        {'a': 1}
    """
    if not _JSON.match(content_type):
        message = "The body is not sent as JSON: set the header 'Content-Type: application/json'."
        raise ApiError(400, "invalid_json", message)
    try:
        data = json.loads(body.decode(json.detect_encoding(body)))
    except json.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error.msg}.") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, thousands of brackets
        raise ApiError(400, "invalid_json", "The body is not JSON that can be read.") from None
    # Only an escape can write a lone surrogate, which no tokenizer reads and no answer can repeat.
    if (place := _lone_surrogate(data) if _SURROGATE_ESCAPE.search(body) else None) is not None:
        field = ".".join(map(str, place)).encode("utf-8", "replace").decode("utf-8")
        message = f"{field or 'The body'}: holds half a character (a lone surrogate)."
        raise ApiError(400, "invalid_value", message, param=field or None)
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise _invalid_field(error) from None
    except RecursionError:
        raise ApiError(400, "invalid_value", "The body is nested too deeply.") from None


def _lone_surrogate(data: Any) -> tuple[str | int, ...] | None:
    """The place of a text, or of a key, that cannot be encoded as UTF-8; None without one."""
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, str):
            if text_fault(value, allow_nul=True):
                return place
        elif isinstance(value, list):
            pending += (((*place, number), item) for number, item in enumerate(value))
        elif isinstance(value, dict):
            for key, item in value.items():
                pending += [((*place, key), key), ((*place, key), item)]
    return None


def _invalid_field(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    kind, message = first["type"], first["msg"]
    field = ".".join(str(part) for part in first["loc"] if part not in (SINGLE, BATCH))
    if kind == "extra_forbidden":
        return ApiError(400, "unknown_parameter", f"There is no parameter '{field}'.", param=field)
    code = {"missing": "missing_parameter", "not_offered": "not_offered"}.get(kind, "invalid_value")
    return ApiError(400, code, f"{field or 'The body'}: {message}.", param=field or None)
