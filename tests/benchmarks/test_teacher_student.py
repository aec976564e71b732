"""The sets of labels of the comparison of people and a teacher."""

from __future__ import annotations

from collections import Counter

from benchmarks.teacher_student.__main__ import ADAPTER, BY_SURE_TEACHER, BY_TEACHER, FROZEN, compared, costs, people


def test_few_labels_are_among_many_and_each_class_has_as_many():
    rows = [{"id": f"row{number}", "query": "x", "label": "ABC"[number % 3]} for number in range(60)]
    five, ten = people(rows, 5), people(rows, 10)
    assert {row["id"] for row in five} < {row["id"] for row in ten}
    assert Counter(row["label"] for row in ten) == {"A": 10, "B": 10, "C": 10}
    assert [row["id"] for row in people(rows[::-1], 5)] == [row["id"] for row in five]
    assert people(rows, None) == rows


def test_sets_that_were_measured_on_several_machines_are_compared_by_their_digits():
    tested = [{"id": f"row{number}", "group": f"group{number}"} for number in range(8)]
    right = {"all": {ADAPTER: "11111111", FROZEN: "11110000"}, "5": {ADAPTER: "10101010", FROZEN: "10101010"}}
    found = compared(right, tested)
    assert {row.system: row.value for row in found.rows} == {
        f"{ADAPTER}, 5": 0.5,
        f"{FROZEN}, 5": 0.5,
        f"{ADAPTER}, all": 1.0,
        f"{FROZEN}, all": 0.5,
    }
    assert found.candidate == f"{ADAPTER}, all"
    assert [(pair.a, pair.b, pair.wins) for pair in found.comparisons] == [
        (f"{ADAPTER}, 5", f"{FROZEN}, 5", 0),
        (f"{ADAPTER}, all", f"{FROZEN}, all", 4),
    ]
    students = compared({"10": right["5"], BY_TEACHER: right["all"]}, tested).comparisons
    assert [pair.b for pair in students] == [f"{FROZEN}, 10", f"{ADAPTER}, 10", f"{FROZEN}, {BY_TEACHER}"]
    assert all(pair.p_corrected >= pair.p for pair in students)


def test_the_costs_of_a_students_labels_are_shown_beside_those_of_people():
    cost = {"training": {"seconds": 120}, "labelling": {"tokens": 12345, "seconds": 90}}
    trained = {"10": {"rows": 20, "seconds": 60}, BY_SURE_TEACHER: {"rows": 25, "seconds": 66}}
    table = costs(trained, {"rows": 8, "sure rows": 5, "cost": cost}).splitlines()
    assert table[2:] == [
        "| 10 | 20 | 0 | – | – | – | 1.0 |",
        "| 10 + sure teacher | 20 | 5 | 2.0 | 12,345 | 1.5 | 1.1 |",
    ]
