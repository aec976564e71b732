"""JSON, JSON Schema and YAML from users: hostile values are errors, within bounded time."""

from __future__ import annotations

import socket
import time

import jsonschema
import pytest

from searchlora.errors import DataError
from searchlora.files import parse_json
from searchlora.files.json_schema import check_json_schema, schema_validator
from searchlora.files.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested deeper than 100"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested deeper than 100"),
        ("NaN", "NaN is not a finite number"),
        ("1e999", "the number 1e999 is not finite"),
        ("9" * 400, r"99999999999999999999\.\.\. of 400 digits does not fit"),
        ("9223372036854775808", "does not fit in 64 bits"),
        ('"\\ud83d"', "lone surrogate"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ('{"a": 1} 2', "Extra data"),
        ('"a\0"', "Invalid control character"),
        ("", "Expecting value"),
    ],
)
def test_non_strict_json_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse_json(text)


def test_json_at_the_limits_is_accepted():
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json("[9223372036854775807, -9223372036854775807, 1e308, true, null]")[:1] == [2**63 - 1]
    assert parse_json('"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "http://{host}/x.json"}, "leads out of the schema"),
        ({"properties": {"a": {"items": [{"$ref": "http://{host}/x.json#/a"}]}}}, "leads out of the schema"),
        ({"$dynamicRef": "http://{host}/x.json"}, "leads out of the schema"),
        ({"$id": "http://{host}/a", "properties": {"a": {"$ref": "http://{host}/a#/x"}}}, "leads out of the schema"),
        ({"type": "objekt"}, "is not a JSON Schema"),
        ({"pattern": "("}, "is not a JSON Schema"),
        ({"$schema": 5}, "is not text"),
        ({"$ref": 5}, "is not a JSON Schema"),
    ],
)
def test_external_schema_references_are_refused_and_not_fetched(schema, says):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.05)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        start = time.perf_counter()
        with pytest.raises(DataError, match=says):
            check_json_schema(_with_host(schema, host), "mine.schema.json")
        assert time.perf_counter() - start < 5
        with pytest.raises(TimeoutError):
            server.accept()


def _with_host(value, host):
    if isinstance(value, dict):
        return {key: _with_host(member, host) for key, member in value.items()}
    if isinstance(value, list):
        return [_with_host(member, host) for member in value]
    return value.replace("{host}", host) if isinstance(value, str) else value


def test_references_within_a_schema_are_followed():
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}, "name": {"$ref": "#/$defs/name"}}}
    tree["$defs"] = {"name": {"type": "string"}}
    check_json_schema(tree, "tree")
    assert schema_validator(tree).is_valid({"next": {"next": {"name": "a"}}})
    assert not schema_validator(tree).is_valid({"next": {"next": {"name": 1}}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a: 1\nb: \xff", r"is not UTF-8 text .*line 2"),
        ("[" * 10_000, "nest"),
        ("&a [*a]", "nested deeper"),
        ("a: 2024-13-01", "is not YAML"),
        ("a: !!python/object/apply:os.system [x]", "is not YAML"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("a: 0x" + "f" * 100, "does not fit in 64 bits"),
        ("? [a]\n: 1", "is not YAML"),
        ("a: 1\nb: {c: 1, d: 2, c: 3}", "the key 'c' occurs twice"),
        ("a: 1\n---\nb: 2", "expected a single document .*line 2"),
        ("a: b\nc: d: e", "is not YAML .*line 2"),
        ("\ud800", "lone surrogate"),
        ("a: !!binary aGk=", "bytes"),
        ("a: !!bool maybe", "'maybe' is not of the type bool.*line 1"),
        ("on: 1", "the key True is not text; write it in quotes.*line 1"),
        (" " * 300_000, "more than 262,144 characters"),
    ],
)
def test_yaml_beyond_plain_values_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse_yaml(text)


def test_plain_yaml_is_read_with_its_anchors_and_merges():
    a = {"x": 1, "y": 1e-4}
    text = "a: &a {x: 1, y: !!float 1e-4}\nb: {<<: *a, x: 2}\nc: [*a, *a]"
    assert parse_yaml(text) == {"a": a, "b": {**a, "x": 2}, "c": [a, a]}
    assert parse_yaml("\ufeffa: 1") == parse_yaml(b"\xef\xbb\xbfa: 1") == {"a": 1}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": "^(a+)+$"}}},
        {"patternProperties": {"^(a+)+$": {"type": "string"}}, "additionalProperties": False},
        {"additionalProperties": False, "patternProperties": {"(.*a){25}$": {}}},
    ],
)
def test_an_exponentially_backtracking_pattern_terminates(schema):
    text = "a" * 60 + "!"
    started = time.monotonic()
    assert not schema_validator(schema).is_valid({"a": text, text: text})
    assert time.monotonic() - started < 10


def test_patterns_and_additional_properties_behave_as_in_jsonschema():
    schema = {"properties": {"a": {"pattern": "^x"}}, "patternProperties": {"^n_": {"type": "integer"}}}
    closed = {**schema, "additionalProperties": False}
    typed = {**schema, "additionalProperties": {"type": "string"}}
    for value in ({"a": "xy"}, {"a": "yx"}, {"n_1": 3}, {"n_1": "3"}, {"b": 1}, {"b": "1"}, {}, [], "x"):
        for each in (schema, closed, typed):
            expected = jsonschema.Draft202012Validator(each).is_valid(value)
            assert schema_validator(each).is_valid(value) is expected, (each, value)
