"""The judge card: published figures are reproduced, and invalid answers count as the worst."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.card import judge_card, to_json
from searchlora.eval.judge.comparison import compare_judges
from searchlora.eval.judge.page import cards_markdown
from searchlora.eval.significance import correct

#: grades of people, and of a judge that is right in two of three
RNG = np.random.default_rng(0)
HUMAN = {f"q{q}": {f"d{d}": int(RNG.integers(0, 4)) for d in range(12)} for q in range(12)}
JUDGED = {
    q: {d: grade if RNG.random() < 2 / 3 else int(RNG.integers(0, 4)) for d, grade in row.items()}
    for q, row in HUMAN.items()
}


def card(judged=JUDGED, human=HUMAN, **more):
    return judge_card(human, judged, resamples=300, **more)


def llmjudge(data, name):
    """The labels of LLMJudge: of people, or of a judge."""
    path = data / "llmjudge" / name
    if not path.is_file():
        pytest.skip(f"no {path.name} of LLMJudge")
    return read_qrels(path)


@pytest.mark.parametrize(
    ("name", "kappa", "binary", "mae"),
    [
        ("willia-umbrela1", 0.286, 0.399, 0.599),
        ("h2oloo-fewself", 0.277, 0.428, 0.667),
        ("TREMA-4prompts", 0.183, 0.270, 0.868),
    ],
)
def test_published_llmjudge_figures_are_reproduced(real_data, name, kappa, binary, mae):
    found = card(llmjudge(real_data, f"judges/{name}.txt"), llmjudge(real_data, "human_test_qrels.txt"))
    assert (found.n, found.queries, found.missing, found.extra) == (4423, 25, 0, 0)
    figures = found.figures
    assert [round(figures[key].value, 3) for key in ("kappa", "kappa_binary", "mae")] == [kappa, binary, mae]
    assert all(figures[key].low < figures[key].value < figures[key].high for key in ("kappa", "kappa_binary", "mae"))


def test_out_of_range_grades_of_llmjudge_are_invalid_and_not_clipped(real_data):
    human = llmjudge(real_data, "human_test_qrels.txt")
    assert card(llmjudge(real_data, "judges/RMITIR-llama70B.txt"), human).invalid == {"5": 2}
    found = card(llmjudge(real_data, "judges/h2oloo-zeroshot2.txt"), human)
    assert found.invalid == {"10": 1}
    assert sum(row[-1] for row in found.confusion) == 1
    assert found.figures["invalid"].value == pytest.approx(1 / 4423)
    assert found.figures["mae"].value > found.figures["mae_valid"].value
    assert found.figures["kappa_valid"].n == found.figures["bias"].n == found.n - 1
    assert "1 of 4423 answers are invalid and count as the worst disagreement: 10 (1)." in found.notes


def test_figures_are_over_all_pairs():
    found = card()
    human = [grade for row in HUMAN.values() for grade in row.values()]
    judge = [grade for row in JUDGED.values() for grade in row.values()]
    assert found.figures["kappa"].value == pytest.approx(cohen_kappa_score(human, judge))
    assert found.figures["bias"].value == pytest.approx(np.mean(judge) - np.mean(human))
    assert [(g.grade, g.human, g.judge) for g in found.grades] == [
        (grade, human.count(grade), judge.count(grade)) for grade in range(4)
    ]
    assert sum(map(sum, found.confusion)) == found.n == 144
    assert not found.invalid and not found.notes and found.figures["kappa"] == found.figures["kappa_valid"]


@pytest.mark.slow
def test_invalid_answers_lower_agreement_and_unlabelled_pairs_are_counted():
    failed = {**JUDGED, "q3": dict.fromkeys(JUDGED["q3"])}
    with_failures = card(failed)
    assert with_failures.invalid == {"none": 12}
    assert with_failures.figures["kappa"].value < with_failures.figures["kappa_valid"].value
    # The same pairs dropped from the judge's file: not in the figures, but in the notes with what they would cost.
    dropped = card({q: row for q, row in JUDGED.items() if q != "q3"})
    assert dropped.figures["kappa"].value == pytest.approx(with_failures.figures["kappa_valid"].value)
    assert (dropped.n, dropped.queries, dropped.missing) == (132, 11, 12)
    worst = with_failures.figures["kappa"].value
    (note,) = dropped.notes
    assert note.startswith("12 of 144 human-graded pairs have no label") and f"kappa would be {worst:.3f}" in note
    extra = card({**JUDGED, "q99": {"d1": 2}})
    assert extra.extra == 1
    assert extra.notes == ("1 labels of the judge are on pairs without a human grade and are left out.",)


def test_a_share_of_zero_has_an_interval():
    """A judge that never errs on the format, and never finds a grade: neither is known to be 0."""
    found = card({q: {d: min(grade, 2) for d, grade in row.items()} for q, row in JUDGED.items()})
    assert found.figures["invalid"].value == found.grades[3].recall.value == 0
    assert found.figures["invalid"].high == pytest.approx(1 - 0.025 ** (1 / 144), rel=1e-3)  # Clopper and Pearson
    assert found.grades[3].recall.high > 0.05
    assert math.isnan(found.grades[3].precision.value)


def test_human_agreement_is_the_ceiling():
    rng = np.random.default_rng(5)
    second = {
        q: {d: grade if rng.random() < 0.9 else int(rng.integers(0, 4)) for d, grade in list(row.items())[:6]}
        for q, row in HUMAN.items()
    }
    found = card(raters={"anna": HUMAN, "bert": second, "carl": {"q1": {"d0": 2}}})
    assert [(two.a, two.b) for two in found.people.pairs] == [("anna", "bert"), ("anna", "carl"), ("bert", "carl")]
    two = found.people.pairs[0]
    flat = [(HUMAN[q][d], grade) for q, row in second.items() for d, grade in row.items()]
    assert two.kappa.value == pytest.approx(cohen_kappa_score(*zip(*flat, strict=True)))
    assert (two.kappa.n, found.people.alpha.n, found.people.alpha.queries) == (72, 72, 12)
    assert two.kappa.value > found.figures["kappa"].value
    with pytest.raises(UsageError, match="two raters"):
        card(raters={"anna": HUMAN})
    with pytest.raises(UsageError, match="no pair has grades of two raters"):
        card(raters={"anna": HUMAN, "bert": {"other": {"d": 1}}})


def test_json_contains_the_whole_card_without_nan_and_markdown_marks_circular_judges():
    found = card({q: {d: min(grade, 2) for d, grade in row.items()} for q, row in JUDGED.items()}, circular=["why"])
    text = json.dumps(to_json(found), allow_nan=False)
    back = json.loads(text)
    assert back["figures"]["kappa"]["value"] == found.figures["kappa"].value
    assert back["grades"][3]["precision"]["value"] is None
    assert back["circular"] == ["why"]
    text = cards_markdown([card(name="good"), card(name="own", circular=["trained on 2 of the 12 topics"])], None)
    assert "| own (circular) |" in text and "**Circular: trained on 2 of the 12 topics**" in text


def test_unusable_judgments_are_errors():
    with pytest.raises(DataError, match=r"topic q1, document d0: the human grade 7 is outside the scale 0, 1, 2, 3"):
        card(human={**HUMAN, "q1": {"d0": 7}})
    with pytest.raises(DataError, match="no label for any human-graded pair"):
        card({"q1": {"other": 1}})
    with pytest.raises(UsageError, match="relevance threshold 0"):
        card(relevant=0)
    with pytest.raises(UsageError, match="two grades"):
        card(scale=(1,))
    few = card({q: JUDGED[q] for q in ("q1", "q2")}, {q: HUMAN[q] for q in ("q1", "q2")})
    assert few.notes == ("The pairs are of only 2 queries: intervals by query are unreliable.",)
    one = card({"q1": JUDGED["q1"]}, {"q1": HUMAN["q1"]})
    assert math.isnan(one.figures["kappa"].low)


def partial_pool():
    """Two raters on 40 pairs; the judge labelled the half on which they agree less."""
    easy = {f"q{n}": {"d1": n % 4, "d2": (n + 1) % 4} for n in range(10)}
    hard = {f"h{n}": {"d1": n % 4, "d2": (n + 1) % 4} for n in range(10)}
    first = {**easy, **hard}
    second = {**easy, **{topic: {"d1": row["d1"], "d2": 3 - row["d2"]} for topic, row in hard.items()}}
    return first, {"ann": first, "bo": second}, hard


def test_raters_are_compared_over_the_pairs_that_the_judge_labelled():
    human, raters, judged = partial_pool()
    whole = judge_card(human, human, raters=raters, resamples=200)
    partial = judge_card(human, judged, raters=raters, resamples=200)
    assert partial.n == partial.people.pairs[0].kappa.n == 20
    assert whole.n == whole.people.pairs[0].kappa.n == 40
    assert partial.people.pairs[0].kappa.value < whole.people.pairs[0].kappa.value
    assert any("20 other pairs are left out" in note for note in partial.notes)
    assert not any("other pairs" in note for note in whole.notes)


def test_a_judge_without_pairs_of_two_raters_has_no_ceiling_and_the_card_says_so():
    human, raters, judged = partial_pool()
    raters["bo"] = {topic: row for topic, row in raters["bo"].items() if topic not in judged}
    card = judge_card(human, judged, raters=raters, resamples=200)
    assert card.people is None
    assert any("so there is no ceiling" in note for note in card.notes)
    with pytest.raises(DataError, match="rater bo"):
        judge_card(human, judged, raters={**raters, "bo": {"q1": {"d1": 9}}}, resamples=200)


@pytest.mark.parametrize("side", ["judge", "human judgments"])
def test_a_single_grade_is_noted(side):
    human, _, _ = partial_pool()
    constant = {topic: dict.fromkeys(row, 2) for topic, row in human.items()}
    sides = (human, constant) if side == "judge" else (constant, human)
    card = judge_card(*sides, resamples=200)
    assert f"Every valid grade of the {side} is 2: kappa is 0 or undefined" in " ".join(card.notes)
    assert judge_card(human, human, resamples=200).notes == ()


# Paired comparison of judges over the same pairs, corrected for multiple testing

GRADES = {
    f"q{q}": {f"d{d}": int(np.random.default_rng(q * 99 + d).integers(0, 4)) for d in range(15)} for q in range(20)
}


def noisy(share: float, seed: int, human=GRADES):
    rng = np.random.default_rng(seed)
    return {
        q: {d: grade if rng.random() > share else int(rng.integers(0, 4)) for d, grade in row.items()}
        for q, row in human.items()
    }


def test_a_clearly_better_judge_is_significant_and_equal_judges_are_not():
    judges = {"bad": noisy(0.8, 1), "good": noisy(0.2, 2), "fair": noisy(0.5, 3), "fair too": noisy(0.5, 4)}
    found = compare_judges(GRADES, judges, resamples=2_000)
    assert len(found.differences) == 6 and found.left_out == 0
    by_pair = {(each.a, each.b): each for each in found.differences}
    assert all(each.difference >= 0 for each in found.differences)
    best = by_pair["good", "bad"]
    assert best.p_corrected < 0.01 and 0 < best.low < best.difference < best.high
    equal = next(each for pair, each in by_pair.items() if set(pair) == {"fair", "fair too"})
    assert equal.p_corrected > 0.05 and equal.low < 0 < equal.high
    assert (best.n, best.queries, best.measure) == (300, 20, "kappa")
    assert [each.p_corrected for each in found.differences] == correct([each.p for each in found.differences])


def test_pairs_missing_from_a_judge_are_left_out_of_differences():
    short = noisy(0.5, 3)
    del short["q4"], short["q5"]["d0"]
    found = compare_judges(GRADES, {"short": short, "good": noisy(0.2, 2)}, resamples=200)
    assert (found.left_out, found.differences[0].n, found.differences[0].queries) == (16, 284, 19)


@pytest.mark.slow
def test_the_number_of_swaps_suffices_for_the_correction():
    judges = {str(seed): noisy(0.6, seed) for seed in range(9)}
    judges["good"] = noisy(0.1, 99)
    found = compare_judges(GRADES, judges, resamples=100)
    assert found.swaps == 45 * 200
    assert sum(each.p_corrected <= 0.05 for each in found.differences) == 9


def test_incomparable_judges_are_errors():
    with pytest.raises(UsageError, match="two judges"):
        compare_judges(GRADES, {"one": noisy(0.5, 1)})
    same = {q: dict.fromkeys(row, 1) for q, row in GRADES.items()}
    with pytest.raises(UsageError, match="kappa is undefined for b"):
        compare_judges(same, {"a": noisy(0.5, 1), "b": same})
