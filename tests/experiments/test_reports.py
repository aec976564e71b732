"""Outputs in the evaluation report."""

from __future__ import annotations

import pytest

from searchlora.experiments.reports import _output_text
from searchlora.outputs import CitedAnswer, CitedText, FreeText, Graded, InvalidOutput, JsonObject, Label, OneLabel

LABELS = OneLabel(("buy", "ask", "other"))
GRADES = Graded({"bad": 0, "poor": 0, "good": 2})


@pytest.mark.parametrize(
    ("output", "spec", "shown"),
    [
        (InvalidOutput("buy it", "not one of the labels"), LABELS, "buy it"),
        ("red running shoes", FreeText(), "red running shoes"),
        (LABELS.parse("ask"), LABELS, "ask"),
        (LABELS.from_scores([-0.1, -3.0, -3.0]), LABELS, "buy (probability 0.90)"),
        (Label("other", (0.5, 0.3, 0.2)), LABELS, "other (probability 0.20)"),
        (GRADES.from_scores([-2.0, -2.0, -2.0]), GRADES, "0 (probability 0.67)"),
        (CitedAnswer("Dry [1].", (1,), False, 0.125), None, "Dry [1]. (abstention probability 0.12)"),
        (CitedText(2, "I do not know.").parse("It is light [2]."), CitedText(2, "I do not know."), "It is light [2]."),
        ({"need": "buy", "brand": "Fjäll"}, JsonObject({}), '{"need": "buy", "brand": "Fjäll"}'),
        (["buy", "ask"], JsonObject({}), '["buy", "ask"]'),
        (None, None, ""),  # of a system that only retrieves
    ],
)
def test_outputs_are_shown_in_readable_form(output, spec, shown):
    assert _output_text(output, spec) == shown
