"""Answers of engines on disk: by request, engine and weights."""

from __future__ import annotations

import sqlite3

import pytest

from searchlora.errors import DataError
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engine import ChoiceScores
from searchlora.inference.metered import MeteredEngine
from tests.inference.test_metered import Echo, asked


def test_answers_outlive_the_process(tmp_path):
    file, engine = tmp_path / "folder" / "answers.db", Echo()
    first = MeteredEngine(engine, AnswerCache(file).answers({"adapter": "a"}))
    completions = first.generate([asked("ä"), asked("b"), asked("ä")])
    scores = first.score([asked("ä")], [["yes", "no"]], prune_margin=8.0)
    assert (engine.asked.total(), first.reused) == (3, 0)
    second = MeteredEngine(engine, AnswerCache(file).answers({"adapter": "a"}))
    assert second.generate([asked("ä"), asked("b"), asked("ä")]) == completions
    assert second.score([asked("ä")], [["yes", "no"]], prune_margin=8.0) == scores
    assert (engine.asked.total(), second.reused) == (3, 4)
    assert (second.prompt_tokens, second.output_tokens) == (first.prompt_tokens, first.output_tokens) == (40, 11)


def test_another_request_or_scope_is_computed(tmp_path):
    engine, cache = Echo(), AnswerCache(tmp_path / "answers.db")
    MeteredEngine(engine, cache.answers({"adapter": "a"})).generate([asked("x")])
    for scope, request in (
        ({"adapter": "b"}, asked("x")),
        ({"adapter": "a"}, asked("y")),
        ({"adapter": "a"}, asked("x", max_new_tokens=3)),
    ):
        before = engine.asked.total()
        MeteredEngine(engine, cache.answers(scope)).generate([request])
        assert engine.asked.total() == before + 1
    assert len(cache) == 4


def test_a_file_that_is_no_cache_is_refused_and_stays(tmp_path):
    (tmp_path / "run.trec").write_text("q1 Q0 d1 1 0.5 bm25\n" * 100)
    with pytest.raises(DataError, match=r"run.trec: cannot be used as a cache"):
        AnswerCache(tmp_path / "run.trec")
    assert (tmp_path / "run.trec").read_text().startswith("q1 Q0 d1")


@pytest.mark.parametrize(
    "stored",
    [
        "5",
        """'{"scored": {"log_probabilities": [-1, -2, -3], "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": [], "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": "ab", "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": [-1, -2]}}'""",
        """'{"completion": {"text": "x", "finish": "stop", "prompt_tokens": 7, "completion_tokens": 2}}'""",
        """'{"completion": {"text": 5}}'""",
        "'{}'",
        "'[]'",
    ],
)
def test_what_is_no_answer_is_computed_again(tmp_path, stored):
    file, engine = tmp_path / "answers.db", Echo()
    MeteredEngine(Echo(), AnswerCache(file).answers({})).score([asked("1")], [["yes", "no"]])
    with sqlite3.connect(file) as database:
        database.execute(f"UPDATE results SET value = {stored}")
    for times in (1, 1):
        metered = MeteredEngine(engine, AnswerCache(file).answers({}))
        (scored,) = metered.score([asked("1")], [["yes", "no"]])
        assert scored == ChoiceScores((-3.0, -2.0), 10, 2) and engine.asked.total() == times
