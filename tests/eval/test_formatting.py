"""Formatting of figures: one format, and a mark for unknown values."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
import pytest

from searchlora.eval.formatting import (
    figure,
    interval,
    markdown_table,
    markdown_text,
    p_value,
    printable,
    to_plain,
    write_json,
)


def test_figures_have_three_digits_and_their_interval():
    assert figure(0.31, 0.29, 0.3306) == "0.310 (0.290 to 0.331)"
    assert figure(-0.1, -0.2, 0.05, "+") == "-0.100 (-0.200 to +0.050)"
    assert figure(0.31, math.nan, math.nan) == "0.310 (no interval)"
    assert figure(math.nan, math.nan, math.nan) == "–"
    assert interval(0.05, 0.2, "+") == "(+0.050 to +0.200)"


def test_a_small_p_is_printed_as_a_bound():
    assert [p_value(p) for p in (0.0009999, 0.001, 0.0324, 1.0, math.nan)] == ["<0.001", "0.001", "0.032", "1.000", "–"]


def test_cells_never_break_a_table():
    table = markdown_table(["a", "b", "c"], [["x | y", "two\nlines", "1"]], words=2)
    assert table.splitlines() == ["| a | b | c |", "| --- | --- | ---: |", "| x \\| y | two lines | 1 |"]


@dataclass
class Figures:
    values: tuple[float, ...]
    by_grade: dict[int, float]


def test_json_has_null_for_unknown_values(tmp_path):
    found = {"figures": asdict(Figures((0.5, math.nan, np.float64("inf")), {1: -math.inf})), "word": "é"}
    assert to_plain(found)["figures"] == {"values": [0.5, None, None], "by_grade": {"1": None}}
    write_json(tmp_path / "new" / "found.json", found)
    text = (tmp_path / "new" / "found.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: f"not JSON: {name}") == to_plain(found)
    assert "é" in text and text.endswith("}\n")


ODD = "a\x00b\x1b[31mc\x9bd\u202eef\u2066g\ud800h\uffff"


def test_unprintable_characters_are_replaced_and_others_stay():
    assert printable(ODD) == "a�b�[31mc�d�ef�g�h�"
    kept = "tab\tline\nשלום 🥾 ſ \u200f\u00a0"
    assert printable(kept) == kept


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)>"),
        ("</details><!-- x -->", "&lt;/details>&lt;!-- x -->"),
        ("![x](http://tracker/x.png)", "![x]\\(http://tracker/x.png)"),
        ("first\r\n# heading", "first # heading"),
        ("<0.001 and 3 < 4", "<0.001 and 3 < 4"),
        ("shop@1 (circular)", "shop@1 (circular)"),
    ],
)
def test_names_in_markdown_are_text(text, shown):
    assert markdown_text(text) == shown
    assert markdown_table(["name"], [[text]]).splitlines()[-1] == f"| {shown} |"
