"""The guideline of a grading session, and its scale."""

from __future__ import annotations

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.server.grading.guideline import read_guideline


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_guideline_names_the_grades(tmp_path):
    text = (
        "# Guide\n* 3: Perfect\n* **2**: Highly relevant. The passage ...\n- 1 = Related (a little)\n* not a grade: 7\n"
    )
    found = read_guideline(write(tmp_path / "g.md", text), [0, 1, 2, 3])
    assert found.text == text
    assert found.scale == {0: "", 1: "Related", 2: "Highly relevant", 3: "Perfect"}


def test_an_unusable_scale_or_guideline_is_an_error(tmp_path):
    path = write(tmp_path / "g.md", "* 4: Superb\n")
    for scale in ([], [1], [1, 1, 2], [-1, 0], [0, 10]):
        with pytest.raises(UsageError, match="no scale"):
            read_guideline(path, scale)
    with pytest.raises(UsageError, match="names the grade 4, which is not on the scale 0,1") as caught:
        read_guideline(path, [0, 1])
    assert caught.value.where == f"{path}, line 1"
    with pytest.raises(DataError, match="empty"):
        read_guideline(write(tmp_path / "e.md", " \n"), [0, 1])
    with pytest.raises(DataError, match="there is no such file"):
        read_guideline(tmp_path / "none.md", [0, 1])
