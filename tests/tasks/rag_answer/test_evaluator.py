"""Evaluation of answers over all rows: abstention, citations and support."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.rewards import INVALID, RewardContext
from searchlora.task import EvaluationInput, load_generation_task
from searchlora.tasks.rag_answer import task
from searchlora.tasks.rag_answer.evaluator import evaluate, token_f1

PASSAGES = [
    {"id": "p1", "title": "", "text": "Leather boots are waxed twice a year."},
    {"id": "p2", "title": "Tents", "text": "The dome tent weighs 2 kilograms. It stands on rock without pegs."},
    {"id": "p3", "title": "", "text": "A head torch burns for 40 hours."},
]
SILENCE = CitedAnswer("The passages do not answer this.", (), abstained=True)


def _record(number: int, *, answerable: bool = True, gold: Sequence[str] = ("p2",), **more: Any) -> dict[str, Any]:
    reported = {"answer": "The dome tent weighs 2 kilograms [2].", "gold": list(gold)} if answerable else {"gold": []}
    question = "How heavy is the dome tent?"
    record = {"id": f"r{number}", "group": f"g{number}", "question": question, "passages": PASSAGES}
    return {**record, "answerable": answerable, **reported, **more}


def _answer(text: str) -> CitedAnswer:
    parsed = task.parse(text, _record(0))
    assert isinstance(parsed, CitedAnswer)
    return parsed


OUTPUTS = st.sampled_from(
    [
        SILENCE,
        InvalidOutput("", "empty"),
        _answer("It weighs 2 kilograms [2]."),
        _answer("It weighs 2 kilograms [1][3]. Boots are waxed."),
    ]
)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), OUTPUTS), min_size=1, max_size=12))
def test_answerability_measures_equal_scikit_learn(rows: list[tuple[bool, Any]]) -> None:
    records = [_record(number, answerable=answerable) for number, (answerable, _) in enumerate(rows)]
    found = evaluate(EvaluationInput(records, [output for _, output in rows])).aggregates
    gold = [not answerable for answerable, _ in rows]
    predicted = [isinstance(output, InvalidOutput) or output.abstained for _, output in rows]
    assert found["abstention F1"].value == pytest.approx(f1_score(gold, predicted, zero_division=0))
    assert found["abstention precision"].value == pytest.approx(precision_score(gold, predicted, zero_division=0))
    assert found["abstention recall"].value == pytest.approx(recall_score(gold, predicted, zero_division=0))
    answering = f1_score([not each for each in gold], [not each for each in predicted], zero_division=0)
    assert found["answering F1"].value == pytest.approx(answering)
    both = f1_score(gold, predicted, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert found["answerability F1"].value == pytest.approx(both)


@pytest.mark.slow
def test_citation_measures_aggregate_over_rows_and_count_wrong_answers() -> None:
    silent = [_record(number, answerable=False) for number in (3, 4)]
    records = [_record(1, gold=("p2", "p3")), _record(2), *silent, _record(5, gold=())]
    first, third, last = map(_answer, ("It weighs 2 kg [2][1].", "It weighs much [2].", "It weighs 2 kg [1]."))
    outputs = [first, SILENCE, third, SILENCE, last]
    found = evaluate(EvaluationInput(records, outputs))
    assert found.aggregates["citation precision"].value == pytest.approx(1 / 3)
    assert found.aggregates["citation recall"].value == pytest.approx(1 / 3)
    assert found.aggregates["citation F1"].value == pytest.approx(2 / (3 + 3))
    assert found.headline == "answerability F1"
    assert found.clusters["r1"] == "g1"


def test_support_is_checked_against_all_and_against_cited_passages() -> None:
    text = "The dome tent weighs 2 kilograms [1]. It stands on rock [2]. It costs 90 pounds. It is."
    found = evaluate(EvaluationInput([_record(1)], [_answer(text)]))
    assert found.aggregates["unsupported sentences"].value == pytest.approx(1 / 3)
    assert found.aggregates["unsupported by what they cite"].value == pytest.approx(1 / 2)
    assert found.aggregates["sentences that cite"].value == pytest.approx(2 / 3)


def test_citations_are_not_measured_if_disabled() -> None:
    found = evaluate(
        EvaluationInput([_record(1), _record(2, answerable=False)], [_answer("It weighs much."), SILENCE]),
        citations=False,
    )
    assert not [name for name in found.aggregates if name.startswith("citation")]
    assert found.tested == ("answerability F1", "abstention F1")
    assert not [note for note in found.notes if note.startswith("Citations")]


def test_an_invalid_output_counts_as_an_abstention_and_is_reported() -> None:
    strange = task.parse("It weighs little [7].", _record(1))
    found = evaluate(EvaluationInput([_record(1), _record(2, answerable=False)], [strange, InvalidOutput("", "empty")]))
    assert found.values["invalid"] == {"r1": 1.0, "r2": 1.0}
    assert found.values["cites what was not given"] == {"r1": 1.0, "r2": 0.0}
    assert found.values["right to answer"] == {"r1": 0.0, "r2": 1.0}
    assert found.values["token F1"] == {"r1": 0.0}
    assert set(found.invalid) == {"r1", "r2"}
    (confusion,) = found.confusions.values()
    assert confusion.counts == ((0, 0, 1), (0, 0, 1))


def test_text_overlap_is_over_answerable_rows_against_the_full_reference() -> None:
    whole = _record(1, reference="The dome tent weighs 2 kilograms. It stands on rock.")
    found = evaluate(
        EvaluationInput(
            [whole, _record(2), _record(3, answerable=False)], [_answer("The dome tent weighs 2 kilograms [2].")] * 3
        )
    )
    assert set(found.values["ROUGE-L"]) == {"r1", "r2"}
    assert found.values["token F1"]["r2"] == found.values["ROUGE-L"]["r2"] == 1.0
    assert found.values["token F1"]["r1"] == pytest.approx(2 * 5 / (5 + 9))
    assert found.values["words"]["r1"] == 6.0


def test_token_f1_counts_repeated_tokens_by_their_matches() -> None:
    assert token_f1("x x y", "x y y") == pytest.approx(2 * 2 / 6)
    assert token_f1("", "x") == 0.0
    assert token_f1("The U.S. doesn't.", "US doesnt") == 1.0
    assert token_f1("A tent", "the tent, an old one") == pytest.approx(2 * 1 / (1 + 3))


def test_slices_are_by_kind_source_and_conversation() -> None:
    rows = [_record(1, kind="unanswerable", source="shop", history=[{"role": "user", "text": "Hi"}]), _record(2)]
    assert evaluate(EvaluationInput(rows, [SILENCE, SILENCE])).slices == {
        "kind": {"r1": "unanswerable"},
        "source": {"r1": "shop"},
        "conversation": {"r1": "yes", "r2": "no"},
    }


TASK = load_generation_task("rag_answer")
TEXTS = [{"id": "a", "text": "The dome tent weighs 2 kg."}, {"id": "b", "text": "Boots need wax twice a year."}]
RECORD = _record(0, gold=["a"]) | {"passages": TEXTS, "answer": "The dome tent weighs 2 kg [1]."}
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
