"""COEC: relevance corrected for position bias, with intervals of each grade."""

from __future__ import annotations

import json
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.clicks import (
    POSITION_PRIOR,
    PRIOR,
    ClickCounts,
    ClickJudgments,
    Impression,
    clean_query,
    click_qrels,
    details_path,
    topic_id,
    write_click_qrels,
)


def counted(impressions) -> ClickCounts:
    counts = ClickCounts()
    for impression in impressions:
        counts.add(impression)
    return counts


def test_a_document_is_compared_with_others_at_its_position():
    """The same click rate is average at the first position and good at the second."""
    log = [Impression(f"q{q}", "first", 1, at < 8) for q in range(20) for at in range(20)]
    log += [Impression(f"q{q}", "second", 2, at < 4) for q in range(1, 20) for at in range(20)]
    log += [Impression("q0", "good", 2, at < 8) for at in range(20)]
    coec = {each.document: each.coec for each in counted(log).judge().judgments if each.query == "q0"}
    assert coec["first"] == pytest.approx(1, abs=0.05)
    assert coec["good"] > 1.5


def test_coec_equals_its_formula():
    log = [Impression("q", "a", 1, at < 6) for at in range(12)] + [Impression("q", "b", 1, False)] * 8
    log += [Impression("q", "b", 2, at < 3) for at in range(15)] + [Impression("q", "rare", 3, True)]
    found = counted(log).judge(minimum=12, thresholds=(0.6, 1.1))
    rates = {1: 6 / 20, 2: 3 / 15, 3: 1.0}
    assert {each.position: each.rate for each in found.positions} == rates
    overall = 10 / 36
    first, second = (
        (clicks + POSITION_PRIOR * overall) / (shown + POSITION_PRIOR) for clicks, shown in ((6, 20), (3, 15))
    )
    a, b = found.judgments
    assert (a.document, a.impressions, a.clicks, b.impressions, b.clicks) == ("a", 12, 6, 23, 3)
    assert a.expected == pytest.approx(12 * first)
    assert b.expected == pytest.approx(8 * first + 15 * second)
    assert a.coec == pytest.approx((6 + PRIOR) / (12 * first + PRIOR))
    # Gamma as half a chi-square, the other way to write the same interval.
    ends = stats.chi2.ppf([0.025, 0.975], 2 * (6 + PRIOR)) / 2 / (12 * first + PRIOR)
    assert (a.low, a.high) == pytest.approx(tuple(ends))
    assert (a.grade, b.grade) == (2, 0)
    assert (found.rows, found.pairs) == (36, 3)


def test_queries_are_grouped_ignoring_case_and_white_space():
    counts = counted([Impression(q, "d", 1, True) for q in ("Red Shoes", " red  shoes ", "RED SHOES")] * 4)
    found = counts.judge()
    assert [(each.query, each.impressions) for each in found.judgments] == [("red shoes", 12)]


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_query_ids_are_one_word_and_reversible(query):
    try:
        query.encode()
    except UnicodeEncodeError:
        return
    found = topic_id(query)
    assert len(found.split()) == 1
    assert unquote_plus(found) == clean_query(query)


def small() -> ClickJudgments:
    log = [Impression(q, "d1", 1, at % 2 == 0) for q in ("red shoes", "tent") for at in range(20)]
    return counted(log + [Impression("tent", "d2", 2, False)] * 20).judge()


def test_clicks_are_mapped_to_topics_by_query():
    found = small()
    assert set(click_qrels(found)) == {"red+shoes", "tent"}
    topics = {"7": "Red shoes", "8": "red  shoes", "9": "sleeping bag"}
    assert click_qrels(found, topics) == {"7": {"d1": 2}, "8": {"d1": 2}}
    with pytest.raises(DataError, match="none of the 1 topics"):
        click_qrels(found, {"9": "sleeping bag"})
    with pytest.raises(DataError, match="none of the 0 topics"):
        click_qrels(found, {})
    with pytest.raises(DataError, match="shown 10 times"):
        click_qrels(counted([Impression("q", "d", 1, True)]).judge())


def test_written_qrels_are_marked_as_clicks(tmp_path):
    path, found = tmp_path / "qrels.txt", small()
    qrels = write_click_qrels(path, found, created="2026-01-01T00:00:00+00:00", made_from={"log.csv": "ab" * 32})
    assert read_qrels(path) == qrels
    card = read_card(path)
    assert card is not None
    assert (card.source, dict(card.counts), dict(card.made_from)) == ("clicks", {"clicks": 3}, {"log.csv": "ab" * 32})
    assert card.rule == found.rule
    assert "grade: number of thresholds 0.5, 1, 2 reached; 10 impressions or more" in card.rule
    rows = [json.loads(line) for line in details_path(path).read_text(encoding="utf-8").splitlines()]
    assert [row["coec"] for row in rows] == [each.coec for each in found.judgments]


def test_invalid_arguments_are_errors():
    counts = ClickCounts()
    with pytest.raises(DataError, match="the position is 0"):
        counts.add(Impression("q", "d", 0, True))
    with pytest.raises(DataError, match="the query is empty"):
        counts.add(Impression("  ", "d", 1, True))
    with pytest.raises(UsageError, match="none of the 1 impressions"):
        counted([Impression("q", "d", 1, False)]).judge()
    for thresholds in ((), (1.0, 0.5), (0.0, 1.0), (0.5, 0.5), (float("nan"),), (float("inf"),), (0.5, float("nan"))):
        with pytest.raises(UsageError, match="ascending finite numbers"):
            counted([Impression("q", "d", 1, True)]).judge(thresholds=thresholds)
    with pytest.raises(UsageError, match="minimum"):
        counted([Impression("q", "d", 1, True)]).judge(minimum=0)


@pytest.mark.slow
def test_memory_grows_with_pairs_not_with_rows():
    import tracemalloc

    tracemalloc.start()
    counted(Impression(f"q{at % 50}", f"d{at % 7}", 1 + at % 7, at % 3 == 0) for at in range(100_000)).judge()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
