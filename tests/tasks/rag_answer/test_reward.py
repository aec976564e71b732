"""Rewards of answers: right abstentions, citations, evidence, likeness to the reference."""

from __future__ import annotations

import pytest

from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.rewards import INVALID, RewardContext
from searchlora.task import load_generation_task

TASK = load_generation_task("rag_answer")
RECORD = {
    "id": "r",
    "group": "r",
    "question": "How heavy is the dome tent?",
    "passages": [
        {"id": "a", "text": "The dome tent weighs 2 kg."},
        {"id": "b", "text": "Boots need wax twice a year."},
    ],
    "gold": ["a"],
    "answerable": True,
    "answer": "The dome tent weighs 2 kg [1].",
}
SILENT = {key: value for key, value in RECORD.items() if key != "answer"} | {"answerable": False, "gold": []}
QUIET = CitedAnswer(str(TASK.settings["abstention"]), (), abstained=True)


def reward(text, record=RECORD, task=TASK):
    output = text if isinstance(text, CitedAnswer | InvalidOutput) else task.output(record).parse(text)
    (found,) = task.reward([record], [output], RewardContext())
    return found


def test_the_reference_has_the_whole_reward():
    assert reward(RECORD["answer"]) == pytest.approx(1.0)


def test_a_decision_is_right_or_wrong():
    assert (reward(QUIET, SILENT), reward(QUIET)) == (1.0, 0.0)
    assert reward("The dome tent weighs 2 kg [1].", SILENT) == 0.0
    assert reward(InvalidOutput("[9]", "cites passage 9")) == INVALID < 0


def test_wrong_citations_and_missing_evidence_cost_a_third_each():
    cites_both = reward("The dome tent weighs 2 kg [1][2].")
    assert cites_both == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert reward("The dome tent weighs 2 kg [2].") == pytest.approx(1 / 3)  # neither gold nor evidence
    assert reward("The dome tent weighs 2 kg.") == pytest.approx(1 / 3)  # no citation, so no evidence
    wrong_number = reward("The dome tent weighs 3 kg [1].")
    assert wrong_number == pytest.approx((1 + 0 + 0.8) / 3)


def test_a_quotation_that_does_not_answer_is_worth_less():
    assert reward("Boots need wax twice a year [2].") == pytest.approx(1 / 3)
    assert reward("Boots need wax twice a year [2].") < reward("It weighs 2 kg [1].") < reward(RECORD["answer"])


def test_without_known_gold_or_citations_the_rest_counts():
    assert reward("The dome tent weighs 2 kg [1].", {**RECORD, "gold": []}) == pytest.approx(1.0)
    plain = TASK.bound({**TASK.settings, "citations": False})
    assert reward("The dome tent weighs 2 kg.", task=plain) == pytest.approx(1.0)


def test_a_measure_of_the_evaluation_replaces_the_reward():
    output = TASK.output(RECORD).parse("The dome tent weighs 2 kg [2].")
    assert TASK.reward([RECORD], [output], RewardContext(measure="token F1")) == [pytest.approx(1.0)]
