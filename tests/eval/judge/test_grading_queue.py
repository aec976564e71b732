"""The pairs that people should grade first, and the command that writes them."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import DataError
from searchlora.eval.judge.grading_queue import grading_queue
from searchlora.eval.judge.labels import write_probabilities
from searchlora.eval.judgments.pooling import iterate_pairs


@pytest.fixture
def judged(tmp_path):
    """Qrels of two judges, the first with probabilities."""
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("q1 0 sure 3\nq1 0 unsure 3\nq1 0 disputed 0\nq2 0 sure 0\n")
    two.write_text("q1 0 sure 3\nq1 0 unsure 3\nq1 0 disputed 3\n")
    shares = {
        ("q1", "sure"): {0: 0.0, 3: 1.0},
        ("q1", "unsure"): {0: 0.5, 3: 0.5},
        ("q1", "disputed"): {0: 1.0, 3: 0.0},
        ("q2", "sure"): {0: 0.9, 3: 0.1},
    }
    write_probabilities(f"{one}.probabilities.jsonl", ((*pair, row, None) for pair, row in shares.items()))
    return one, two


def test_disputed_pairs_come_first_then_unsure_ones_and_sure_ones_do_not_come(judged):
    queue = grading_queue(judged)
    assert [(each.topic, each.document) for each in queue] == [("q1", "disputed"), ("q1", "unsure"), ("q2", "sure")]
    disputed, unsure, almost = queue
    assert (disputed.disagreement, disputed.uncertainty, disputed.grades) == (1.0, 0.0, (0, 3))
    assert (unsure.disagreement, unsure.uncertainty) == (0.0, 0.5)  # the grade is 1.5 from its mean, of a span of 3
    assert almost.uncertainty == pytest.approx(0.18)
    assert almost.grades == (0, None)


def test_pairs_that_people_have_graded_are_left_out_and_the_queue_is_cut(judged, tmp_path):
    (tmp_path / "people.txt").write_text("q1 0 disputed 1\n")
    assert [each.document for each in grading_queue(judged, human=[tmp_path / "people.txt"])] == ["unsure", "sure"]
    assert [each.document for each in grading_queue(judged, top=1)] == ["disputed"]


def test_an_invalid_answer_is_as_doubtful_as_a_dispute(judged, tmp_path):
    one, _ = judged
    (tmp_path / "one.txt.invalid.jsonl").write_text(json.dumps({"topic": "q2", "document": "broken"}) + "\n")
    first = grading_queue([one])[0]
    assert (first.document, first.priority, first.grades) == ("broken", 1.0, (None,))


def test_the_span_is_that_of_the_scale_in_the_probabilities(tmp_path):
    (tmp_path / "one.txt").write_text("q1 0 d1 0\nq1 0 d2 1\n")
    rows = [("q1", "d1", {0: 0.5, 3: 0.5}, None), ("q1", "d2", {0: 0.0, 1: 1.0, 3: 0.0}, None)]
    write_probabilities(f"{tmp_path / 'one.txt'}.probabilities.jsonl", rows)
    (unsure,) = grading_queue([tmp_path / "one.txt"])
    assert (unsure.document, unsure.uncertainty) == ("d1", 0.5)


def test_a_cut_does_not_take_equal_pairs_topic_by_topic(tmp_path):
    for name, grade in (("one", 0), ("two", 1)):
        rows = [f"q{topic} 0 d{number} {grade}\n" for topic in range(20) for number in range(10)]
        (tmp_path / f"{name}.txt").write_text("".join(rows))
    queue = grading_queue([tmp_path / "one.txt", tmp_path / "two.txt"], top=30)
    assert len({each.topic for each in queue}) > 10


def test_a_judge_without_doubts_and_probabilities_of_other_qrels_are_refused(judged, tmp_path):
    with pytest.raises(DataError, match=r"no pair is unsure or disputed.*Give the qrels of two judges"):
        grading_queue(judged[1:])
    (tmp_path / "one.txt").write_text("q1 0 sure 3\n")
    with pytest.raises(DataError, match="holds the pair q1 unsure, which the qrels do not"):
        grading_queue(judged[:1])


def test_the_command_writes_a_file_of_pairs(judged, tmp_path, cli, refused):
    one, two = judged
    command = ("grade", "queue", "--judged", one, "--judged", two, "--out", tmp_path / "queue.jsonl")
    called = cli(*command, "--top", 2)
    assert called.code == 0, called
    assert called.out.splitlines()[0] == "2 pairs, 1 of them with different grades."
    assert list(iterate_pairs(tmp_path / "queue.jsonl")) == [("q1", "disputed"), ("q1", "unsure")]
    rows = [json.loads(line) for line in (tmp_path / "queue.jsonl").read_text().splitlines()]
    assert [row["document"] for row in rows] == ["disputed", "unsure"]
    assert rows[0]["priority"] == 1.0
    assert "only a file of pairs has an order" in refused(
        *("grade", "serve", "--topics", one, "--corpus", one, "--guideline", one, "--out", tmp_path, "--as-listed")
    )
