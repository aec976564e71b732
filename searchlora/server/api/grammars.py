"""What holds an answer to a form: OpenAI's `response_format` and vLLM's `structured_outputs`."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from searchlora.outputs import Grammar, literally
from searchlora.server.api.refusals import Refusal
from searchlora.server.api.text import Text

_OBJECT = Grammar("json_schema", '{"type": "object"}')


class JsonSchema(BaseModel):
    """OpenAI's wrapping of a schema; a schema is always kept to, whether `strict` or not."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: dict[str, Any] = Field(alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's: any text, any JSON object, or JSON by a schema."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """vLLM's: exactly one of a schema (an object or its text), a regex, a Lark grammar, or a list of whole answers."""

    model_config = ConfigDict(extra="forbid", strict=True)

    json_: dict[str, Any] | Text | None = Field(None, alias="json")
    regex: Text | None = None
    grammar: Text | None = None
    choice: list[Text] | None = Field(None, min_length=1)


def grammar(format_: ResponseFormat | None, outputs: StructuredOutputs | None) -> Grammar | None:
    """The grammar that a request asks for, None where anything goes.

    Raises:
        Refusal: 400, when it asks for two, or for none in the field for one.
    """
    first = _of_format(format_) if format_ is not None else None
    second = _of_outputs(outputs) if outputs is not None else None
    if first and second:
        raise _refused("response_format and structured_outputs do not go together.", "structured_outputs")
    return first or second


def fits(grammar: Grammar, text: str) -> bool:
    """Whether a text is a whole answer under a grammar that the engine has taken."""
    from llguidance import LLMatcher, LLTokenizer

    read = {
        "json_schema": LLMatcher.grammar_from_json_schema,
        "regex": LLMatcher.grammar_from_regex,
        "lark": LLMatcher.grammar_from_lark,
    }
    tokens = LLTokenizer("byte")  # each byte is one
    matcher = LLMatcher(tokens, read[grammar.kind](grammar.text), log_level=0)
    ids = tokens.tokenize_str(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def _of_format(format_: ResponseFormat) -> Grammar | None:
    if (format_.json_schema is not None) != (format_.type == "json_schema"):
        raise _refused("json_schema belongs to the type json_schema, and it to that.", "response_format.json_schema")
    if format_.json_schema is not None:
        return _by_schema(format_.json_schema.schema_)
    return _OBJECT if format_.type == "json_object" else None


def _of_outputs(outputs: StructuredOutputs) -> Grammar:
    given = (outputs.json_, outputs.regex, outputs.grammar, outputs.choice)
    if sum(each is not None for each in given) != 1:
        raise _refused("Give exactly one of json, regex, grammar and choice.", "structured_outputs")
    if outputs.json_ is not None:
        return Grammar("json_schema", outputs.json_) if isinstance(outputs.json_, str) else _by_schema(outputs.json_)
    if outputs.regex is not None:
        return Grammar("regex", outputs.regex)
    if outputs.grammar is not None:
        return Grammar("lark", outputs.grammar)
    assert outputs.choice is not None
    return Grammar("regex", "|".join(literally(choice) for choice in outputs.choice))


def _by_schema(schema: dict[str, Any]) -> Grammar:
    try:
        return Grammar("json_schema", json.dumps(schema))
    except RecursionError:
        raise _refused("The schema is nested too deeply.", "json_schema") from None


def _refused(message: str, param: str) -> Refusal:
    return Refusal(400, "invalid_value", message, param=param)
