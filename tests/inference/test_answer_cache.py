"""Answers of engines on disk: by request, engine and weights."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.inference.answer_cache import AnswerCache
from searchlora.inference.engine import ChoiceScores, Completion, Request
from searchlora.inference.metered import MeteredEngine
from searchlora.prompts import Message


class Echo:
    """An engine that answers with the last message, and counts requests."""

    call_size = 1
    engine_id = "echo"

    def __init__(self) -> None:
        self.asked = 0

    def pin(self, adapter):
        return adapter

    def generate(self, requests):
        self.asked += len(requests)
        return [Completion(str(request.messages[-1]["content"]), "stop", 7, 2) for request in requests]

    def score(self, requests, choices, **_):
        self.asked += len(requests)
        return [ChoiceScores(tuple(-float(len(choice)) for choice in each), 7, len(each)) for each in choices]


def asked(text, **more):
    message: Message = {"role": "user", "content": text}
    return Request((message,), **more)


def test_answers_outlive_the_process(tmp_path):
    file, engine = tmp_path / "folder" / "answers.db", Echo()
    first = MeteredEngine(engine, AnswerCache(file).answers({"adapter": "a"}))
    completions = first.generate([asked("ä"), asked("b"), asked("ä")])
    scores = first.score([asked("ä")], [["yes", "no"]], prune_margin=8.0)
    assert (engine.asked, first.reused) == (3, 0)
    second = MeteredEngine(engine, AnswerCache(file).answers({"adapter": "a"}))
    assert second.generate([asked("ä"), asked("b"), asked("ä")]) == completions
    assert second.score([asked("ä")], [["yes", "no"]], prune_margin=8.0) == scores
    assert (engine.asked, second.reused) == (3, 4)
    assert (second.prompt_tokens, second.output_tokens) == (first.prompt_tokens, first.output_tokens) == (28, 8)


def test_another_request_or_scope_is_computed(tmp_path):
    engine, cache = Echo(), AnswerCache(tmp_path / "answers.db")
    MeteredEngine(engine, cache.answers({"adapter": "a"})).generate([asked("x")])
    for scope, request in (
        ({"adapter": "b"}, asked("x")),
        ({"adapter": "a"}, asked("y")),
        ({"adapter": "a"}, asked("x", max_new_tokens=3)),
    ):
        before = engine.asked
        MeteredEngine(engine, cache.answers(scope)).generate([request])
        assert engine.asked == before + 1
    assert len(cache) == 4


def test_a_file_that_is_no_cache_is_refused_and_stays(tmp_path):
    (tmp_path / "run.trec").write_text("q1 Q0 d1 1 0.5 bm25\n" * 100)
    with pytest.raises(DataError, match=r"run.trec: cannot be used as a cache"):
        AnswerCache(tmp_path / "run.trec")
    assert (tmp_path / "run.trec").read_text().startswith("q1 Q0 d1")


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def answer(number: int) -> Completion:
    return Completion(f"answer {number:04}", "stop", 7, 2)


def test_the_answers_used_least_recently_are_evicted(tmp_path):
    file = tmp_path / "answers.db"
    cache = AnswerCache(file)
    cache.write({key(0): answer(0)})
    each = cache.bytes
    limited = AnswerCache(file, max_bytes=10 * each)
    for number in range(1, 10):
        limited.write({key(number): answer(number)})
    assert len(limited) == 10 and limited.bytes == 10 * each
    assert limited.read(key(0)) == answer(0)  # the oldest, and now used
    limited.write({key(10): answer(10)})
    assert limited.read(key(1)) is None and limited.read(key(0)) == answer(0) and limited.read(key(10)) == answer(10)
    for number in range(11, 200):
        limited.write({key(number): answer(number)})
        assert limited.bytes <= 10 * each
    assert limited.read(key(199)) == answer(199) and limited.read(key(150)) is None
    assert file.stat().st_size < 64 * 1024  # pages of evicted answers are used again


def test_reads_are_noted_without_a_write_and_by_another_process(tmp_path):
    file = tmp_path / "answers.db"
    AnswerCache(file).write({key(number): answer(number) for number in range(300)})
    reading = AnswerCache(file)
    for number in range(256):  # as many as are noted together
        assert reading.read(key(number)) == answer(number)
    other = AnswerCache(file, max_bytes=reading.bytes)
    other.write({key(1000): answer(1000)})
    assert other.read(key(256)) is None and other.read(key(0)) == answer(0)


def test_an_answer_that_is_written_again_is_counted_once(tmp_path):
    cache = AnswerCache(tmp_path / "answers.db")
    cache.write({key(0): answer(0)})
    size = cache.bytes
    cache.write({key(0): Completion("x" * 100 + "ä", "stop", 7, 2)})
    stored = (
        sqlite3.connect(cache.file).execute("SELECT length(key), length(CAST(answer AS BLOB)) FROM answers").fetchone()
    )
    assert cache.bytes == sum(stored) > size and len(cache) == 1


def test_an_insertion_is_evicted_and_added_together_or_not_at_all(tmp_path):
    cache = AnswerCache(tmp_path / "answers.db")
    cache.write({key(number): answer(number) for number in range(20)})
    limited, size = AnswerCache(cache.file, max_bytes=cache.bytes), cache.bytes
    limited._database.execute(
        "CREATE TRIGGER failing BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    with pytest.raises(DataError, match="no room"):
        limited.write({key(20): answer(20)})
    assert (len(cache), cache.bytes, limited.read(key(20))) == (20, size, None)


def test_a_file_of_an_earlier_release_gets_a_limit(tmp_path):
    file, engine = tmp_path / "answers.db", Echo()
    MeteredEngine(engine, AnswerCache(file).answers({"adapter": "a"})).generate([asked("x")])
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT key, answer FROM answers").fetchall()
    file.unlink()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL)")
        database.executemany("INSERT INTO answers VALUES (?, ?)", rows)
    again = MeteredEngine(engine, AnswerCache(file).answers({"adapter": "a"}))
    assert again.generate([asked("x")])[0].text == "x" and engine.asked == 1
    assert AnswerCache(file).bytes > 32
    with pytest.raises(UsageError, match="a cache of 0 bytes holds nothing"):
        AnswerCache(file, max_bytes=0)


def changed(tmp_path, script):
    """A cache of 4,000 bytes with eight answers, whose file somebody has changed by SQL."""
    file = tmp_path / "answers.db"
    MeteredEngine(Echo(), AnswerCache(file).answers({})).score([asked(str(n)) for n in range(8)], [["yes", "no"]] * 8)
    with sqlite3.connect(file) as database:
        database.executescript(script)
    return AnswerCache(file, max_bytes=4_000)


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE size SET bytes = 9000000000000000",
        "UPDATE size SET bytes = 'abc'",
        "UPDATE size SET bytes = -5",
        "DELETE FROM size",
        "INSERT INTO size VALUES (1)",
        "DROP TRIGGER on_delete; UPDATE size SET bytes = 999999",
        "UPDATE answers SET used = 'zz'",
        "UPDATE answers SET used = 9223372036854775807",
        "UPDATE answers SET used = -9223372036854775808",
    ],
)
def test_numbers_that_somebody_wrote_into_the_file_end_no_run(tmp_path, script):
    cache, engine = changed(tmp_path, script), Echo()
    metered = MeteredEngine(engine, cache.answers({}))
    for start in (0, 20, 40):
        requests = [asked(str(number)) for number in range(start, start + 20)]
        for scored in metered.score(requests, [["yes", "no"]] * 20):
            assert scored.log_probabilities == (-3, -2)
    assert cache.bytes <= 4_000 and 5 < len(cache) < 60


@pytest.mark.parametrize(
    "stored",
    [
        "'nonsense'",
        "5",
        "x'ff00ff'",
        "printf('%.*c', 200000, '[')",
        """'{"scored": {"log_probabilities": [-1, -2, -3], "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": [], "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": [NaN, -1], "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": [1e999, -1], "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": "ab", "prompt_tokens": 7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": [-1, -2], "prompt_tokens": -7, "scored_tokens": 2}}'""",
        """'{"scored": {"log_probabilities": [-1, -2]}}'""",
        """'{"completion": {"text": "x", "finish": "stop", "prompt_tokens": 7, "completion_tokens": 2}}'""",
        """'{"completion": {"text": 5}}'""",
        "'{}'",
        "'[]'",
    ],
)
def test_what_is_no_answer_is_computed_again(tmp_path, stored):
    cache, engine = changed(tmp_path, f"UPDATE answers SET answer = {stored}"), Echo()
    for times in (1, 1):
        metered = MeteredEngine(engine, cache.answers({}))
        (scored,) = metered.score([asked("1")], [["yes", "no"]])
        assert scored == ChoiceScores((-3.0, -2.0), 7, 2) and engine.asked == times


@pytest.mark.parametrize(
    "script",
    [
        "DROP TABLE answers; CREATE TABLE answers (a, b)",
        """DROP TABLE answers; CREATE VIEW answers AS WITH RECURSIVE c (key, answer, used) AS
        (SELECT x'00', '', 1 UNION ALL SELECT key, answer, used + 1 FROM c) SELECT * FROM c""",
        """CREATE TRIGGER endless AFTER INSERT ON answers BEGIN INSERT INTO size WITH RECURSIVE c (x) AS
        (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c; END""",
        "DROP TRIGGER on_insert; CREATE TRIGGER on_insert AFTER INSERT ON answers BEGIN DELETE FROM answers; END",
    ],
)
def test_another_schema_is_refused(tmp_path, script):
    with pytest.raises(DataError, match=r"answers\.db: cannot be used as a cache \(it has '.*', which no cache has\)"):
        changed(tmp_path, script)


def test_a_statement_that_takes_too_long_is_interrupted(tmp_path, monkeypatch):
    cache = changed(tmp_path, "")
    monkeypatch.setattr("searchlora.inference.answer_cache._SLOWEST", 0.0)
    endless = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT COUNT(*) FROM c"
    with pytest.raises(DataError, match="interrupted"), cache._checked():
        cache._database.execute(endless)
