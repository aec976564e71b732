"""Guidelines: grades, names and meanings from a user's file, and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.prompts import messages
from searchlora.server.grading.guideline import read_guideline as shown_to_people
from searchlora.tasks.judgment import task
from searchlora.tasks.judgment.guideline import guideline_of, read_guideline, settings_of

MARKDOWN = """# How to grade
Read the query first.

* **2**: Highly relevant. It answers the query (all of it).
- 0 = Irrelevant
* 1: Related (a little)
"""


def written(folder: Path, text: str, name: str = "guide.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def system(settings) -> str:
    (shown, _) = messages(task.bound(settings), task.examples[0])
    return str(shown["content"])


def test_grading_page_and_prompt_share_a_markdown_guideline(tmp_path):
    path = written(tmp_path, MARKDOWN, "guide.md")
    found = read_guideline(path)
    people = shown_to_people(path, [0, 1, 2])
    assert {each.grade: each.name for each in found.grades} == people.scale
    assert found.relevant == 1
    assert found.grades[2].meaning == "It answers the query (all of it)."
    assert found.text == "# How to grade\nRead the query first."
    message = system(settings_of({"guideline": str(path)}))
    assert "1 = Related: a little\n2 = Highly relevant: It answers the query (all of it).\n# How to grade" in message


def test_a_yaml_guideline_maps_source_grades(tmp_path):
    path = written(
        tmp_path,
        "text: Judge as a customer would.\ngrades:\n"
        "  - {grade: 1, name: good, meaning: buy it, from: [2, 3]}\n  - {grade: 0, name: bad, from: [-2, 0, 1]}\n",
    )
    found = read_guideline(path)
    assert [found.fold(grade) for grade in (-2, 0, 1, 2, 3, 4)] == [0, 0, 0, 1, 1, None]
    assert settings_of({"guideline": str(path), "characters": "90"}) == {
        "scale": [{"grade": 0, "name": "bad", "meaning": ""}, {"grade": 1, "name": "good", "meaning": "buy it"}],
        "guideline": "Judge as a customer would.",
        "relevant": 1,
        "characters": 90,
    }


@pytest.mark.parametrize(
    ("grades", "folded", "relevant"),
    [("2", [0, 0, 1, 1], 1), ("3", [0, 1, 2, 2], 2), ("4", [0, 1, 2, 3], 2)],
)
def test_built_in_guidelines_map_four_grades(grades, folded, relevant):
    found = guideline_of({"grades": grades})
    assert [found.fold(grade) for grade in range(4)] == folded
    assert found.relevant == relevant
    assert guideline_of({"grades": grades, "relevant": "1"}).relevant == 1


def test_the_product_guideline_has_its_own_grade_names():
    assert "1 = complement: goes with what was asked for" in system(settings_of({"guideline": "products"}))
    assert settings_of({}) == task.default_settings


TWO = "grades:\n  - {grade: 0, name: a}\n  - {grade: 1, name: b}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grades: [", "is not YAML"),
        ("- 1", "has no list 'grades'"),
        ("grades: {0: a}", "has no list 'grades'"),
        (TWO + "scale: 4\n", "unknown key 'scale'.*Known keys: grades, relevant, text"),
        (TWO + "relevant: high\n", "relevant: 'high' is not a grade"),
        (TWO + "relevant: 0\n", "relevant=0 does not divide the scale 0, 1"),
        (TWO + "  - {grade: 1, name: c}\n", "the grades 0, 1, 1 are not a scale"),
        ("grades: [{grade: 0, name: a}]", "the grades 0 are not a scale.*two to four different digits"),
        (TWO + "  - {grade: 12, name: c}\n", "the grades 0, 1, 12 are not a scale"),
        (TWO + "  - {grade: 2}\n", "grades/2: a grade needs a number 'grade' and a text 'name'"),
        (TWO + "  - {grade: 2, name: c, label: x}\n", "grades/2: unknown key 'label'"),
        (TWO + "  - {grade: 2, name: c, from: 3}\n", "grades/2: 'from' is not a list"),
        (TWO + "  - {grade: 2, name: c, from: [1]}\n", "the source's grade 1 is mapped to two grades"),
    ],
)
def test_an_invalid_yaml_guideline_is_an_error(tmp_path, text, message):
    with pytest.raises((DataError, UsageError), match=f"guide.yaml.*{message}"):
        read_guideline(written(tmp_path, text))


def test_a_file_that_is_not_a_guideline_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.md: there is no such file"):
        read_guideline(tmp_path / "none.md")
    with pytest.raises(DataError, match=r"defines no grade"):
        read_guideline(written(tmp_path, "Grade well.", "guide.md"))
    (tmp_path / "latin.md").write_bytes("* 0: schön".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not UTF-8"):
        read_guideline(tmp_path / "latin.md")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grades": "5"}, "'5' is not 2, 3 or 4"),
        ({"grades": "2", "guideline": "products"}, "defines the grades itself"),
        ({"relevant": "4"}, "relevant=4 does not divide the scale 0, 1, 2, 3"),
        ({"characters": "0"}, "'0' is not a whole number of at least 1"),
        ({"characters": "ten"}, "'ten' is not a whole number"),
    ],
)
def test_contradictory_options_are_errors(options, message):
    with pytest.raises(UsageError, match=message):
        settings_of(options)
