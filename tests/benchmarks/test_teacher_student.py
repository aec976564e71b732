"""The sets of labels of the comparison of people and a teacher."""

from __future__ import annotations

from collections import Counter

from benchmarks.teacher_student.__main__ import people


def test_few_labels_are_among_many_and_each_class_has_as_many():
    rows = [{"id": f"row{number}", "query": "x", "label": "ABC"[number % 3]} for number in range(60)]
    five, ten = people(rows, 5), people(rows, 10)
    assert {row["id"] for row in five} < {row["id"] for row in ten}
    assert Counter(row["label"] for row in ten) == {"A": 10, "B": 10, "C": 10}
    assert [row["id"] for row in people(rows[::-1], 5)] == [row["id"] for row in five]
    assert people(rows, None) == rows
