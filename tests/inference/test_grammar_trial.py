"""Grammars whose compilation takes too long, or would end the process, are refused in a process of their own."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import RequestRefused
from searchlora.inference.grammar_trial import GrammarTrial
from searchlora.models.load import load_tokenizer
from searchlora.outputs import Grammar

CHAIN = "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4500)) + 'r4500: "x"\n'

MULTIPLES = [{"type": "integer", "multipleOf": 99_901 + number} for number in range(90)]


@pytest.fixture(scope="module")
def trial(tiny_base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("searchlora.inference.grammar_trial._CPU_SECONDS", 0.2)
        trial = GrammarTrial(load_tokenizer(tiny_base), 2)
        yield trial
        trial.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", '{"type": "integer", "multipleOf": 9999991}'),
        Grammar("lark", 'start: %json {"type": "integer", "multipleOf": 9999991}'),
        Grammar("json_schema", json.dumps({"prefixItems": MULTIPLES})),
        Grammar("regex", "a?" * 30_000),
        Grammar("lark", CHAIN),  # overflows the stack
    ],
    ids=["multiple", "multiple in lark", "many multiples", "optional", "chain"],
)
def test_a_grammar_that_takes_too_long_to_compile_is_refused(trial, grammar):
    for _ in range(2):
        with pytest.raises(RequestRefused, match="too complex"):
            trial.check(grammar)
        trial.check(Grammar("regex", "[a-z]+"))


def test_an_invalid_grammar_is_left_to_the_engine(trial):
    trial.check(Grammar("json_schema", "{"))
    trial.check(Grammar("regex", "("))
    trial.check(Grammar("regex", "\ud800"))


def test_the_first_grammar_finds_the_child_that_was_started(tiny_base):
    trial = GrammarTrial(load_tokenizer(tiny_base), 2)
    trial.start()
    (child,) = trial._idle
    trial.check(Grammar("regex", "[a-z]+"))
    assert trial._idle == [child]
    trial.close()
    assert child.poll() is not None


def test_a_child_that_was_killed_is_replaced(trial):
    trial.check(Grammar("regex", "first"))
    (child,) = trial._idle
    child.kill()
    child.wait()
    trial.check(Grammar("regex", "second"))
    assert child not in trial._idle
