"""Whether a truncated answer matches its grammar."""

from __future__ import annotations

import pytest

from searchlora.outputs import Grammar
from searchlora.server.api.grammars import fits


@pytest.mark.parametrize(
    ("kind", "text", "whole", "part"),
    [
        ("regex", "[a-z]{3}", "abc", "ab"),
        ("regex", "a*", "", "b"),
        ("regex", "(größer|\u4f60\u597d)", "\u4f60\u597d", "\u4f60\ufffd"),
        ("lark", 'start: "x" "y"', "xy", "x"),
        ("json_schema", '{"type": "array", "items": {"type": "integer"}}', "[1, 2]", "[1, 2"),
    ],
)
def test_only_finished_answers_match_their_grammar(kind, text, whole, part, capfd):
    grammar = Grammar(kind, text)
    assert fits(grammar, whole)
    assert not fits(grammar, part)
    assert not fits(grammar, f"{whole}!")
    assert capfd.readouterr().err == ""
