"""Merging of human and other judgments: human grades take precedence, and invalid answers never become grades."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from searchlora.errors import DataError, UsageError
from searchlora.eval.judge.calibration import fit_calibration
from searchlora.eval.judge.labels import read_probabilities, write_probabilities
from searchlora.eval.judge.merging import merge_qrels, merged_qrels_card
from searchlora.eval.judgments.card import JudgmentsCard

HUMAN = {"t1": {"d1": 3, "d2": 0}, "t2": {"d1": 1}}
OTHER = {"t1": {"d1": 0, "d2": 0, "d3": 1}, "t3": {"d1": 3}}
LLM = JudgmentsCard("llm", "2026-07-01", judge="j@2", judge_lineage=("j@2", "i@1"), judge_queries=None, base="tiny")

ROWS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1)
QRELS = st.dictionaries(st.sampled_from(["t1", "t2", "t3"]), ROWS, min_size=1)


def test_human_grades_take_precedence():
    merged = merge_qrels(HUMAN, OTHER)
    assert merged.qrels == {"t1": {"d1": 3, "d2": 0, "d3": 1}, "t2": {"d1": 1}, "t3": {"d1": 3}}
    assert (merged.human, merged.other, merged.invalid, merged.rule) == (3, 2, 0, "human wins")
    assert (merged.same.value, merged.same.n, merged.same.queries) == (0.5, 2, 1)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(QRELS, QRELS)
def test_human_grades_take_precedence_for_any_judgments(human, other):
    merged = merge_qrels(human, other, scale=(0, 1, 2, 3))
    pairs = {(topic, document) for row in (human, other) for topic, found in row.items() for document in found}
    assert {(topic, document) for topic, row in merged.qrels.items() for document in row} == pairs
    for topic, document in pairs:
        theirs = human.get(topic, {}).get(document)
        assert merged.qrels[topic][document] == (theirs if theirs is not None else other[topic][document])
    both = [(human[t][d], other[t][d]) for t, d in pairs if d in human.get(t, {}) and d in other.get(t, {})]
    assert merged.other == len(pairs) - merged.human
    if not both:
        assert merged.same is None and merged.kappa is None
        return
    assert merged.same.n == merged.kappa.n == len(both)
    assert merged.same.value == pytest.approx(sum(a == b for a, b in both) / len(both))
    if len({grade for pair in both for grade in pair}) > 1:
        wanted = cohen_kappa_score(*zip(*both, strict=True), labels=[0, 1, 2, 3])
        assert merged.kappa.value == pytest.approx(wanted)


def test_an_invalid_grade_is_refused_or_left_out():
    other = {"t1": {"d3": 5, "d4": 1, "d1": 5}}
    with pytest.raises(UsageError, match="the grade 5 does not occur among the human grades"):
        merge_qrels(HUMAN, other)
    merged = merge_qrels(HUMAN, other, scale=range(4))
    assert merged.qrels["t1"] == {"d1": 3, "d2": 0, "d4": 1}
    assert (merged.other, merged.invalid) == (1, 1)
    assert (merged.same.value, merged.same.n) == (0, 1)  # invalid where a person judged: never the same
    with pytest.raises(DataError, match="topic t1, document d1: the human grade 3 is outside the scale 0, 1"):
        merge_qrels(HUMAN, other, scale=(0, 1))


def test_an_invalid_answer_is_no_grade_and_never_agrees():
    merged = merge_qrels(
        {"t1": {"d1": 0, "d2": 1}}, {"t1": {"d1": None, "d2": 1, "d3": None, "d4": 0}}, grades={0: 0, 1: 1}
    )
    assert merged.qrels == {"t1": {"d1": 0, "d2": 1, "d4": 0}}
    assert (merged.other, merged.invalid, merged.same.value, merged.same.n) == (1, 1, 0.5, 2)


def test_grades_are_mapped_to_the_human_scale_and_unmapped_ones_are_invalid():
    merged = merge_qrels(HUMAN, {"t1": {"d3": 1, "d4": 2, "d1": 1}}, grades={0: 0, 1: 3})
    assert merged.qrels["t1"] == {"d1": 3, "d2": 0, "d3": 3}
    assert (merged.invalid, merged.same.value) == (1, 1)
    assert merged.rule == "human wins; grades of the other source mapped 0 to 0, 1 to 3"


def test_calibration_changes_added_grades_but_not_the_agreement():
    human = {f"t{n}": {f"d{m}": (n + m) % 2 for m in range(20)} for n in range(6)}
    other = {f"t{n}": {f"d{m}": (n + m) % 2 + 1 for m in range(25)} for n in range(6)}  # one too high, always
    calibration = fit_calibration(
        human, {t: {d: float(g) for d, g in row.items()} for t, row in other.items()}, scale=(0, 1, 2)
    )
    merged = merge_qrels(human, other, scale=(0, 1, 2), calibration=calibration)
    assert all(merged.qrels[f"t{n}"][f"d{m}"] == (n + m) % 2 for n in range(6) for m in range(25))
    assert merged.same.value == 0
    assert merged.rule == "human wins; then calibrated (isotonic) on 120 human labels of 6 topics"
    with pytest.raises(UsageError, match="the calibration is for the grades 0, 1, 2, not for 0, 1, 2, 3"):
        merge_qrels(human, other, scale=(0, 1, 2, 3), calibration=calibration)


def test_the_card_is_as_circular_as_its_judge():
    merged = merge_qrels(HUMAN, OTHER)
    card = merged_qrels_card(merged, None, LLM, created="2026-07-02", made_from={"human": "a", "other": "b"})
    assert card.source == "mixed" and card.counts == {"human": 3, "llm": 2} and card.rule == "human wins"
    assert (card.judge, card.judge_lineage, card.judge_queries) == (LLM.judge, LLM.judge_lineage, None)


@pytest.mark.parametrize(
    ("human", "other", "message"),
    [
        (LLM, LLM, "have the source 'llm'"),
        (None, JudgmentsCard("human", ""), "source 'human'"),
        (None, JudgmentsCard("mixed", ""), "source 'mixed'"),
    ],
)
def test_only_human_qrels_can_take_precedence(human, other, message):
    with pytest.raises(UsageError, match=message):
        merged_qrels_card(merge_qrels(HUMAN, OTHER), human, other, created="", made_from={})


def test_probabilities_are_read_back(tmp_path):
    given = {"t1": {"d1": {0: 0.25, 2: 0.75}, "d2": {0: 1.0, 2: 0.0}}, "é": {"d1": {0: 0.5, 2: 0.5}}}
    rows = ((topic, document, row, None) for topic, found in given.items() for document, row in found.items())
    write_probabilities(tmp_path / "p.jsonl", rows)
    assert read_probabilities(tmp_path / "p.jsonl") == given
    (tmp_path / "p.jsonl").write_text('{"topic": "t"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"p\.jsonl, line 1: has no topic, document and probabilities"):
        read_probabilities(tmp_path / "p.jsonl")
    for value in ("NaN", "1e400", "1.5", "-0.5", "true", '"1"', "9" * 400):
        (tmp_path / "p.jsonl").write_text(
            f'{{"topic": "t", "document": "d", "probabilities": {{"0": {value}}}}}\n', encoding="utf-8"
        )
        with pytest.raises(DataError, match=r"p\.jsonl, line 1: is not"):
            read_probabilities(tmp_path / "p.jsonl")
