"""What a grading is made from: pairs, texts, guideline and scale."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.server.grading.guideline import Grade, read_guideline
from searchlora.server.grading.pairs import read_pool, with_texts


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "1 d1\n1 d2\n\n2 d1\n1 d1\n",
        "1 0 d1 3\n1 0 d2 0\n2 0 d1 -1\n",
        '{"topic": "1", "document": "d1", "grade": 3}\n{"topic": "1", "document": "d2"}\n'
        '{"topic": "2", "document": "d1"}\n',
    ],
)
def test_pairs_in_each_form(tmp_path, text):
    assert read_pool(write(tmp_path / "p", text)) == {"1": ["d1", "d2"], "2": ["d1"]}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1", "has 1 fields"),
        ("1 Q0 d1 1 2.5 tag", "a run is no pool"),
        ("{broken", "is not JSON"),
        ('{"topic": "1"}', "document is missing"),
        ('{"topic": 1, "document": "d"}', "topic is missing or is not one word of text"),
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path, line, says):
    path = write(tmp_path / "p", f"1 d1\n{line}\n")
    with pytest.raises(DataError, match=says) as caught:
        read_pool(path)
    assert caught.value.where == f"{path}, line 2"
    with pytest.raises(DataError, match="holds no pair"):
        read_pool(write(tmp_path / "empty", "\n"))


def test_texts_come_from_topics_and_corpus_and_what_is_missing_is_named(tmp_path):
    rows = [{"id": "d1", "text": "one", "title": "One"}, {"id": "d2", "text": "two"}, {"id": "d3", "text": "three"}]
    corpus = write(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (first, second) = with_texts({"1": ["d1", "d2"]}, {"1": "a query"}, corpus)
    assert (first.query, first.title, first.text, second.title) == ("a query", "One", "one", "")
    with pytest.raises(DataError, match=r"2 documents of the pairs not found \(d8, d9\)"):
        with_texts({"1": ["d1", "d8", "d9"]}, {"1": "a query"}, corpus)
    with pytest.raises(DataError, match=r"1 topic of the pairs not found \(2\)"):
        with_texts({"1": ["d1"], "2": ["d1"]}, {"1": "a query"}, corpus)
    with pytest.raises(DataError, match="d1 stands twice"):
        with_texts({"1": ["d1"]}, {"1": "q"}, write(corpus, (json.dumps(rows[0]) + "\n") * 2))


def test_the_guideline_names_the_grades(tmp_path):
    text = (
        "# Guide\n* 3: Perfect\n* **2**: Highly relevant. The passage ...\n- 1 = Related (a little)\n* not a grade: 7\n"
    )
    found = read_guideline(write(tmp_path / "g.md", text), [0, 1, 2, 3])
    assert found.text == text
    assert found.scale == (Grade(0, ""), Grade(1, "Related"), Grade(2, "Highly relevant"), Grade(3, "Perfect"))


def test_a_scale_or_guideline_that_cannot_be_used(tmp_path):
    path = write(tmp_path / "g.md", "* 4: Superb\n")
    for scale in ([], [1], [1, 1, 2], [-1, 0], [0, 10]):
        with pytest.raises(UsageError, match="no scale"):
            read_guideline(path, scale)
    with pytest.raises(UsageError, match="names the grade 4, which is not on the scale 0,1") as caught:
        read_guideline(path, [0, 1])
    assert caught.value.where == f"{path}, line 1"
    with pytest.raises(DataError, match="empty"):
        read_guideline(write(tmp_path / "e.md", " \n"), [0, 1])
    with pytest.raises(DataError, match="No such file"):
        read_guideline(tmp_path / "none.md", [0, 1])
