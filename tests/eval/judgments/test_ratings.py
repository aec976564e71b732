"""Human ratings: reading, merging by rule, and agreement as in scikit-learn."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from searchlora.errors import DataError, UsageError
from searchlora.eval.agreement import alpha, coincidences
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.rater_agreement import ratings_agreement
from searchlora.eval.judge.rater_report import write_ratings
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.judgments.ratings import (
    RULES,
    Rating,
    by_pair,
    by_rater,
    check_rater,
    merged,
    read_ratings,
    undecided,
)
from searchlora.files import json_line

TIME = "2026-03-01T12:00:00.000+00:00"
CARD = {"created": TIME, "made_from": {"ratings": "ab12"}}
WORD = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=6)
RATING = st.builds(
    Rating,
    topic=WORD,
    document=WORD,
    grade=st.none() | st.integers(0, 3),
    rater=st.sampled_from(["anna", "ben", "carl-2"]),
    time=st.just(TIME),
    seconds=st.floats(0, 1e6),
    note=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
)


def rated(topic, document, grade, rater, note=""):
    return Rating(topic, document, grade, rater, TIME, 1.5, note)


def rating_line(rating):
    return json_line(asdict(rating)).encode()


def write(path, *ratings, end=b""):
    path.write_bytes(b"".join(map(rating_line, ratings)) + end)
    return path


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(RATING, max_size=6))
def test_ratings_round_trip(tmp_path_factory, ratings):
    assert read_ratings(write(tmp_path_factory.mktemp("r") / "ratings.jsonl", *ratings)) == ratings


ROW = json.loads(rating_line(rated("1", "d", 2, "anna")))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is not JSON"),
        ({key: value for key, value in ROW.items() if key != "grade"}, "the field 'grade': field required"),
        ({**ROW, "system": "bm25"}, "the field 'system': unexpected"),
        ({**ROW, "grade": "2"}, "the field 'grade': input should be a valid integer"),
        ({**ROW, "grade": True}, "the field 'grade': input should be a valid integer"),
        ({**ROW, "grade": -1}, "the field 'grade': input should be greater"),
        ({**ROW, "rater": "../anna"}, "the field 'rater': string should match"),
        ({**ROW, "topic": "two words"}, "the field 'topic': is not one word"),
        ({**ROW, "time": "2026-03-01T12:00:00"}, "the field 'time': has no UTC offset"),
        ({**ROW, "seconds": float("nan")}, "the number NaN is not a finite number"),
        ({**ROW, "seconds": -1}, "the field 'seconds': input should be greater"),
        ({**ROW, "note": None}, "the field 'note': input should be a valid string"),
        ({**ROW, "grade": 2**31}, "the field 'grade': input should be less than or equal to 2147483647"),
        ({**ROW, "grade": 10**400}, "integer 10000000000000000000... of 401 digits"),
        ({**ROW, "time": "9" * 400}, "the field 'time': value error"),
        ({**ROW, "note": "\ud800"}, "lone surrogate"),
        ({**ROW, "note": "a\0b"}, "the field 'note': string should match"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, says):
    text = line if isinstance(line, str) else json.dumps(line)
    path = write(tmp_path / "r.jsonl", rated("1", "d", 2, "anna"), end=f"\n{text}\n".encode())
    with pytest.raises(DataError, match=says) as caught:
        read_ratings(path)
    assert caught.value.where == f"{path}, line 3"


def test_missing_and_binary_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_ratings(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_ratings(tmp_path / "latin")


def test_a_truncated_last_line_is_skipped_and_reported(tmp_path):
    whole = [rated("1", "d1", 2, "anna", "é"), rated("1", "d2", None, "anna", "naïve 文")]
    data = b"".join(map(rating_line, whole))
    first = data.index(b"\n") + 1
    for cut in range(first + 1, len(data) + 1):
        path = tmp_path / "r.jsonl"
        path.write_bytes(data[:cut])
        with warnings.catch_warnings(record=True) as reported:
            warnings.simplefilter("always")
            found = read_ratings(path)
        complete = cut >= len(data) - 1  # but for its newline
        assert found == (whole if complete else whole[:1]), cut
        assert [f"{path}, line 2" in str(one.message) for one in reported] == ([] if complete else [True])


def test_the_last_correction_counts_and_cannot_tell_is_no_grade():
    rows = [
        rated("1", "a", 3, "anna"),
        rated("1", "b", 1, "anna"),
        rated("1", "a", None, "anna"),
        rated("1", "b", 0, "ben"),
        rated("1", "c", None, "ben"),
        rated("1", "b", 2, "ben"),
    ]
    assert by_rater(rows) == {"anna": {"1": {"b": 1}}, "ben": {"1": {"b": 2}}}
    assert undecided(rows) == [("1", "a"), ("1", "c")]
    assert merged(rows, "highest") == {"1": {"b": 2}}


@pytest.mark.parametrize(
    ("grades", "majority", "median", "highest", "lowest"),
    [
        ([3], 3, 3, 3, 3),
        ([0, 3], 0, 0, 3, 0),
        ([3, 3, 0], 3, 3, 3, 0),
        ([0, 1, 3, 3], 3, 1, 3, 0),
        ([0, 0, 3, 3, 2], 0, 2, 3, 0),
    ],
)
def test_several_grades_are_merged_by_rule(grades, majority, median, highest, lowest):
    rows = [rated("1", "d", grade, f"r{place}") for place, grade in enumerate(grades)]
    found = {rule: merged(rows, rule)["1"]["d"] for rule in RULES}
    assert found == {"majority": majority, "median": median, "highest": highest, "lowest": lowest}


def test_unknown_rules_and_invalid_names_are_errors():
    with pytest.raises(UsageError, match="rule is 'mean'"):
        merged([rated("1", "d", 1, "anna")], "mean")
    assert check_rater("anna-2_b") == "anna-2_b"
    for name in ("", "Anna", "2anna", "anna b", "a/b", "..", "a" * 33, "änna", "anna\n"):
        with pytest.raises(UsageError, match="rater's name"):
            check_rater(name)


@pytest.fixture
def three():
    """40 pairs of 8 topics graded by three people, of whom one cannot always tell."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(40):
        truth = int(rng.integers(0, 4))
        for rater, noise in (("anna", 0.2), ("ben", 0.5), ("carl", 0.4)):
            grade = truth if rng.random() > noise else int(rng.integers(0, 4))
            unsure = rater == "carl" and rng.random() < 0.2
            rows.append(rated(f"t{number % 8}", f"d{number}", None if unsure else grade, rater))
    return rows


def test_agreement_equals_scikit_learn_and_alpha(three):
    found = ratings_agreement(three, resamples=200)
    assert [(two.a, two.b) for two in found.rater_pairs] == [("anna", "ben"), ("anna", "carl"), ("ben", "carl")]
    for two in found.rater_pairs:
        both = [(of[two.a], of[two.b]) for of in by_pair(three).values() if two.a in of and two.b in of]
        a, b = zip(*both, strict=True)
        assert two.kappa.value == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
        assert two.weighted.value == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"), abs=1e-12)
        assert two.confusion == tuple(map(tuple, confusion_matrix(a, b, labels=found.scale).tolist()))
        assert (two.kappa.n, two.kappa.queries) == (len(both), 8)
    assert found.alpha.value == pytest.approx(
        alpha(coincidences(list(by_pair(three).values()), found.scale)), abs=1e-12
    )
    carl = found.raters[2]
    unsure = sum(row.grade is None for row in three)
    assert (carl.rated, carl.cannot_tell.value) == (40, pytest.approx(unsure / 40))
    assert carl.cannot_tell.low < carl.cannot_tell.value < carl.cannot_tell.high
    anna = found.raters[0].cannot_tell
    assert anna.low == anna.value == 0 < anna.high < 0.2  # 40 pairs do not show that there are none


def test_intervals_resample_topics(three):
    copies = [replace(row, document=f"{row.document}-{copy}") for row in three for copy in range(5)]
    once, often = (ratings_agreement(rows, resamples=500).rater_pairs[0].kappa for rows in (three, copies))
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-4)
    assert (once.n, often.n) == (40, 200)
    assert once.low < once.value < once.high
    one_topic = ratings_agreement([replace(row, topic="1") for row in three], resamples=50)
    assert np.isnan(one_topic.alpha.low)
    assert np.isnan(one_topic.rater_pairs[0].kappa.high)


def test_disputed_pairs_are_sorted_by_descending_difference():
    rows = [rated("1", "same", 2, rater) for rater in ("anna", "ben")]
    rows += [rated("1", "near", 2, "anna"), rated("1", "near", 1, "ben")]
    rows += [rated("2", "far", 0, "anna"), rated("2", "far", 3, "ben"), rated("2", "alone", 3, "anna")]
    found = ratings_agreement(rows, widest=1, resamples=10)
    assert [(pair.topic, pair.document, pair.spread) for pair in found.disputed] == [("2", "far", 3)]
    assert (found.disputes, found.shared, found.pairs) == (2, 3, 4)


def test_exported_files_are_readable_with_a_human_card_and_contain_no_nan(three, tmp_path):
    write_ratings(three, tmp_path / "out", **CARD, rule="median", resamples=100)
    assert read_qrels(tmp_path / "out" / "qrels.txt") == merged(three, "median")
    assert read_qrels(tmp_path / "out" / "qrels.carl.txt") == by_rater(three)["carl"]
    card = read_card(tmp_path / "out" / "qrels.txt")
    assert isinstance(card, JudgmentsCard)
    assert (card.source, card.rule, card.created, card.made_from) == ("human", "median", TIME, {"ratings": "ab12"})
    assert card.counts == {"human": sum(map(len, merged(three, "median").values()))}
    reported = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert reported["rule"] == "median"
    assert reported["alpha"]["n"] == reported["shared"] == 40
    assert reported["rater_pairs"][0]["kappa"]["low"] < reported["rater_pairs"][0]["kappa"]["high"]
    assert "| anna, ben |" in (tmp_path / "out" / "agreement.md").read_text()


def test_export_of_one_rater_reports_no_agreement(tmp_path):
    rows = [rated("1", "a", 3, "anna"), rated("1", "b", None, "anna")]
    write_ratings(rows, tmp_path, **CARD, resamples=10)
    reported = json.loads((tmp_path / "agreement.json").read_text())
    assert (reported["alpha"], reported["rater_pairs"], reported["undecided"]) == (None, [], [["1", "b"]])
    assert reported["raters"][0]["cannot_tell"] == {"value": 0.5, "low": None, "high": None, "n": 2, "queries": 1}
    assert "there is no agreement to report" in (tmp_path / "agreement.md").read_text()
    with pytest.raises(UsageError, match="there are no grades"):
        write_ratings([rated("1", "a", None, "anna")], tmp_path / "none", **CARD)
    assert not (tmp_path / "none").exists()
