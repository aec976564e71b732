"""Grammars that constrain answers: from OpenAI's `response_format` and vLLM's `structured_outputs`."""

from __future__ import annotations

import json
from typing import Any

from searchlora.outputs import Grammar, escape_regex
from searchlora.server.api.errors import ApiError
from searchlora.server.api.generation_schemas import ResponseFormat, StructuredOutputs

#: Characters of a grammar.
_MAX_GRAMMAR_CHARACTERS = 65_536

_ANY_OBJECT = Grammar("json_schema", '{"type": "object"}')


def grammar_of(response_format: ResponseFormat | None, outputs: StructuredOutputs | None) -> Grammar | None:
    """The grammar that constrains the answer; None for unconstrained text.

    Examples:
        >>> grammar_of(None, StructuredOutputs(choice=["yes", "no"])).text
        'yes|no'
    """
    first = _of_response_format(response_format) if response_format is not None else None
    second = _of_structured_outputs(outputs) if outputs is not None else None
    if first and second:
        raise _invalid("Give either response_format or structured_outputs, not both.", "structured_outputs")
    grammar = first or second
    if grammar is not None and len(grammar.text) > _MAX_GRAMMAR_CHARACTERS:
        param = "response_format" if first else "structured_outputs"
        raise _invalid(f"A grammar has at most {_MAX_GRAMMAR_CHARACTERS:,} characters.", param)
    return grammar


def _of_response_format(response_format: ResponseFormat) -> Grammar | None:
    if (response_format.json_schema is not None) != (response_format.type == "json_schema"):
        message = "json_schema is required for the type json_schema, and not allowed for another type."
        raise _invalid(message, "response_format.json_schema")
    if response_format.json_schema is not None:
        return _of_schema(response_format.json_schema.schema_)
    return _ANY_OBJECT if response_format.type == "json_object" else None


def _of_structured_outputs(outputs: StructuredOutputs) -> Grammar:
    fields = (outputs.json_, outputs.regex, outputs.grammar, outputs.choice)
    if sum(value is not None for value in fields) != 1:
        raise _invalid("Give exactly one of json, regex, grammar and choice.", "structured_outputs")
    if outputs.json_ is not None:
        return Grammar("json_schema", outputs.json_) if isinstance(outputs.json_, str) else _of_schema(outputs.json_)
    if outputs.regex is not None:
        return Grammar("regex", outputs.regex)
    if outputs.grammar is not None:
        return Grammar("lark", outputs.grammar)
    assert outputs.choice is not None
    return Grammar("regex", "|".join(escape_regex(choice) for choice in outputs.choice))


def _of_schema(schema: dict[str, Any]) -> Grammar:
    try:
        return Grammar("json_schema", json.dumps(schema))
    except RecursionError:
        raise _invalid("The schema is nested too deeply.", "json_schema") from None


def _invalid(message: str, param: str) -> ApiError:
    return ApiError(400, "invalid_value", message, param=param)
