"""Baselines that quote: by BM25, and by the cosines of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.tasks.rag_answer import task
from searchlora.tasks.rag_answer.baselines import (
    ALWAYS,
    FIRST,
    THRESHOLD,
    QuotingBaseline,
    _one_of_each_first,
    best_threshold,
    fitted_baselines,
)

BOOTS, TORCH = "Leather boots are waxed twice a year.", "A head torch burns for 40 hours."
TENT = "It stands on rock. The dome tent weighs 2 kilograms. It has no pegs. A dome tent is red."
PASSAGES = [
    {"id": "p1", "title": "", "text": BOOTS},
    {"id": "p2", "title": "Tents", "text": TENT},
    {"id": "p3", "title": "", "text": TORCH},
]
SILENCE = "The passages do not answer this."
WORDS = ("boots", "dome", "tent", "weighs", "torch", "anthem")


def _record(number: int, *, answerable: bool = True, **more: Any) -> dict[str, Any]:
    answer = {"answer": "The dome tent weighs 2 kilograms [2].", "gold": ["p2"]} if answerable else {"gold": []}
    question = "The dome tent weighs how much?" if answerable else "Who sings the anthem of Wales?"
    record = {"id": f"r{number}", "group": f"g{number}", "question": question, "passages": PASSAGES}
    return {**record, "answerable": answerable, **answer, **more}


def _encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of length 1 in which each of `WORDS` has a dimension of its own."""
    counts = np.array([[1e-3 + text.lower().count(word) for word in WORDS] for text in texts], dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def _quoting(training: Sequence[dict[str, Any]], *, citations: bool = True) -> QuotingBaseline:
    (baseline,) = task.bound({**task.default_settings, "citations": citations}).encoder_baselines()
    assert isinstance(baseline, QuotingBaseline)
    baseline.fit(training, (), _encode)
    return baseline


def test_bm25_quotes_three_sentences_or_abstains_below_the_threshold() -> None:
    training = [_record(1), _record(2, answerable=False)]
    asked = [_record(3), _record(4, question="Who sings in the choir?", answerable=False)]
    found = fitted_baselines(asked, training, SILENCE)
    quoted = "It stands on rock [2]. The dome tent weighs 2 kilograms [2]. A dome tent is red [2]."
    assert found[ALWAYS][0] == CitedAnswer(quoted, (2,), abstained=False)
    assert found[FIRST][1] == CitedAnswer("Leather boots are waxed twice a year [1].", (1,), abstained=False)
    assert [answer.abstained for answer in found[THRESHOLD]] == [False, True]
    assert found[THRESHOLD][0] == found[ALWAYS][0]
    for outputs in found.values():
        assert not any(isinstance(task.parse(answer.text, asked[0]), InvalidOutput) for answer in outputs)


def test_no_threshold_without_unanswerable_rows() -> None:
    assert THRESHOLD not in fitted_baselines([_record(1)], [_record(2)], SILENCE)


def test_an_encoder_learns_when_to_abstain_and_how_much_to_quote() -> None:
    rows = [_record(number, answerable=number % 2 == 0) for number in range(8)]
    short = _quoting(rows)
    assert short.rules["sentences"] == 1 and 0.5 < short.rules["abstain"]["below"] < 1
    answer, silence = short.predict([_record(10), _record(11, answerable=False)], _encode)
    assert answer == CitedAnswer("The dome tent weighs 2 kilograms [2].", (2,), abstained=False)
    assert silence.abstained and silence.text == task.settings["abstention"]
    assert silence.reason is not None and "threshold" in silence.reason
    long = _quoting([{**row, "reference": TENT} if row["answerable"] else row for row in rows])
    assert long.rules["sentences"] == 4
    (whole,) = long.predict([_record(10)], _encode)
    assert whole.text.replace(" [2]", "") == TENT  # in the order of the passage, not of the cosines
    assert not isinstance(task.parse(whole.text, _record(10)), InvalidOutput)


def test_each_cited_passage_is_quoted() -> None:
    both = [{"id": "p1", "text": "A dome tent weighs 2 kilograms."}, {"id": "p2", "text": TENT}, PASSAGES[0]]
    more = {"passages": both, "gold": ["p1", "p2"], "answer": "A dome tent weighs 2 kilograms [1]."}
    rows = [_record(number, answerable=number % 2 == 0, **(more if number % 2 == 0 else {})) for number in range(8)]
    quoting = _quoting(rows)
    assert quoting.rules["sentences"] == 1
    (answer,) = quoting.predict([{**_record(10), **more}], _encode)
    assert answer.citations == (1, 2) and answer.text.count("[") == 2


def test_questions_headings_and_repetitions_are_not_quoted() -> None:
    text = "About the dome tent\n\nHow heavy is the dome tent? The dome tent weighs 2 kilograms. It has no pegs."
    again = "The dome tent weighs 2 kilograms! A dome tent is red."
    passages = [{"id": "p2", "text": text}, {"id": "p3", "text": again}, PASSAGES[0]]
    more = {"passages": passages, "gold": ["p2", "p3"], "reference": f"{text} {again} {BOOTS}"}
    rows = [_record(number, answerable=number % 2 == 0, **(more if number % 2 == 0 else {})) for number in range(8)]
    quoting = _quoting(rows)
    (answer,) = quoting.predict([{**_record(10), **more}], _encode)
    assert answer.text == "The dome tent weighs 2 kilograms [1]. It has no pegs [1]. A dome tent is red [2]."
    found = fitted_baselines([{**_record(10), "passages": passages[:1]}], [_record(1)], SILENCE)
    assert found[FIRST][0].text == "The dome tent weighs 2 kilograms [1]. It has no pegs [1]."
    heading = [{"id": "p1", "text": "All about the dome tent"}]
    assert fitted_baselines([{**_record(10), "passages": heading}], [_record(1)], SILENCE)[FIRST][0].citations == (1,)


def test_a_question_without_its_subject_is_understood_from_the_turn_before() -> None:
    quoting = _quoting([_record(number, answerable=number % 2 == 0) for number in range(8)])
    asked = {"id": "q", "question": "how heavy?", "passages": PASSAGES}
    turns = [{"role": "user", "text": "I look for a dome tent."}, {"role": "assistant", "text": "Here it is."}]
    alone, after = quoting.predict([asked, {**asked, "history": turns}], _encode)
    assert "dome tent is red [2]" in after.text and "red" not in alone.text


def test_a_repeated_sentence_keeps_the_place_of_its_nearest_copy() -> None:
    places = [(0, 0, "Red tent."), (0, 1, "Blue boot."), (1, 0, "red tent!"), (1, 1, "Green lamp.")]
    ranked = _one_of_each_first(places, np.array([0.9, 0.5, 0.8, 0.1]))
    assert ranked == [places[0], places[3], places[1]]
    alone = _one_of_each_first([places[0], places[2]], np.array([0.9, 0.8]))
    assert alone == [places[0], places[2]]


def test_it_quotes_the_nearest_passage_where_it_cannot_learn_to_abstain() -> None:
    quoting = _quoting([_record(number) for number in range(4)])
    answer, other = quoting.predict([_record(10), _record(11, answerable=False)], _encode)
    assert answer.citations == (2,) and not other.abstained
    (silence,) = quoting.predict([{"id": "q", "question": "Who?", "passages": []}], _encode)
    assert silence.abstained


def test_without_citations_nothing_is_marked() -> None:
    quoting = _quoting([_record(number, answerable=number % 2 == 0) for number in range(8)], citations=False)
    (answer,) = quoting.predict([_record(10)], _encode)
    assert (answer.text, answer.citations) == ("The dome tent weighs 2 kilograms.", ())


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.booleans()), min_size=1, max_size=15))
def test_no_threshold_has_a_higher_mean_f1_than_the_fitted_one(rows: list[tuple[float, bool]]) -> None:
    scores, silent = [score for score, _ in rows], [each for _, each in rows]

    def mean_f1(threshold: float) -> float:
        predicted = [score < threshold for score in scores]
        return float(f1_score(silent, predicted, average="macro", labels=[False, True], zero_division=0))

    best = max(mean_f1(threshold) for threshold in (0, 1, 2, 3, 4, 5, 6))
    assert mean_f1(best_threshold(scores, silent)) == pytest.approx(best)
