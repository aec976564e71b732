"""Interleaving: fair to both systems, credits of clicks, and a preference that may be watched."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.eval.preference import preference
from searchlora.events.interleaving import INTERLEAVED, METHODS, interleave, preference_for, preferences
from searchlora.events.log import EventLog, Feedback
from tests.events.recorded import search_event, written

RANKINGS = st.lists(st.integers(0, 15).map(str), unique=True, max_size=12)


@given(RANKINGS, RANKINGS, st.integers(0, 12), st.sampled_from(METHODS), st.integers())
def test_hits_are_those_of_both_without_repetition_as_many_as_asked_for(a, b, k, method, seed):
    found = interleave(a, b, k, method, random.Random(seed))
    assert len(found.documents) == len(set(found.documents)) == len(found.credits) == min(k, len({*a, *b}))
    assert {*found.documents} <= {*a, *b}
    assert all(-1 <= credit <= 1 for credit in found.credits)
    for rank, (document, credit) in enumerate(zip(*found, strict=True)):
        before = found.documents[:rank]
        both_have_more = all({*ranking} - {*before} for ranking in (a, b))
        if method == "probabilistic" and document not in b:
            assert credit == (-1 if both_have_more else 0)
        if method == "probabilistic" and document not in a:
            assert credit == (1 if both_have_more else 0)


@given(RANKINGS, st.sampled_from(METHODS))
def test_equal_rankings_are_shown_as_they_are_and_prefer_nobody(ranking, method):
    assert interleave(ranking, ranking, 10, method) == (ranking[:10], [0.0] * len(ranking[:10]))


@pytest.mark.parametrize("method", METHODS)
def test_the_first_hits_that_both_have_give_no_credit(method):
    found = interleave(["x", "y", "a", "b"], ["x", "y", "c", "d"], 4, method)
    assert (found.documents[:2], found.credits[:2]) == (["x", "y"], [0.0, 0.0])
    assert all(found.credits[2:])


@pytest.mark.parametrize("method", METHODS)
def test_a_user_who_clicks_at_random_prefers_neither(method):
    a, b = ["p", "q", "r", "s", "t"], ["t", "r", "u", "p", "v"]
    rng = random.Random(5)
    outcomes = []
    for _ in range(20_000):
        found = interleave(a, b, 5, method, rng)
        clicked = [credit for credit in found.credits if rng.random() < 0.3]
        outcomes.append(sum(clicked))
    signs = np.sign(np.round(outcomes, 9))
    assert abs(np.mean(signs)) < 3 / 20_000**0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_user_who_clicks_on_what_is_relevant_prefers_the_system_that_ranks_it_higher(method):
    a, b, relevant = ["x", "y", "z", "w"], ["w", "x", "y", "z"], "w"
    rng = random.Random(6)
    outcomes = []
    for _ in range(2000):
        found = interleave(a, b, 3, method, rng)
        outcomes.append(sum(credit for document, credit in zip(*found, strict=True) if document == relevant))
    assert preference(outcomes).decision == "B"


@pytest.mark.parametrize("method", METHODS)
def test_a_short_list_does_not_lose_by_clicks_at_random(method):
    rng = random.Random(8)
    outcomes = []
    for _ in range(20_000):
        found = interleave(["x", "y"], list("abcdefghij"), 10, method, rng)
        outcomes.append(rng.choice(found.credits))
    assert abs(np.mean(outcomes)) < 0.02


def test_team_draft_takes_turns():
    found = interleave(list("abcd"), list("wxyz"), 8, "team_draft", random.Random(1))
    for round_ in range(4):
        assert {*found.credits[2 * round_ : 2 * round_ + 2]} == {-1.0, 1.0}
    assert [each for each in found.documents if each in "abcd"] == list("abcd")


def test_ties_decide_nothing_and_the_side_can_be_either():
    assert preference([0.0] * 1000).decision == "open"
    assert preference([]).share == 0.5
    assert preference([-1.0] * 30).decision == "A"
    assert preference([1.0, -1.0] * 200).decision == "open"


def test_sessions_of_recorded_searches_are_counted_once(tmp_path):
    log = EventLog(tmp_path)
    more = {INTERLEAVED: {"other": "new", "method": "team_draft", "credits": [-1.0, 1.0, 1.0]}}
    for number in range(30):
        searches = written(log, *[search_event(session=f"s{number}", **more)] * 2)
        log.write([], [Feedback(search, "click", "P3") for search in searches])
    written(log, search_event())
    ((systems, found),) = preferences(log.searches()).items()
    assert systems == ("lexical", "new")
    assert (found.wins_b, found.wins_a, found.ties, found.searches, found.decision) == (30, 0, 0, 60, "B")


def test_the_outcome_of_a_user_is_not_changed_by_later_searches(tmp_path):
    log = EventLog(tmp_path)
    more = {INTERLEAVED: {"other": "new", "method": "team_draft", "credits": [-1.0, 1.0, 0.0]}}
    for document in ("P3", "P1", "P2", "P2"):  # no credit, A, B, B
        (search,) = written(log, search_event(user="u", **more))
        log.write([], [Feedback(search, "click", document)])
    ((_, found),) = preferences(log.searches()).items()
    assert (found.wins_a, found.wins_b, found.ties) == (1, 0, 0)


def test_evidence_for_a_candidate_is_against_the_incumbent_only(tmp_path):
    log = EventLog(tmp_path)
    for number, adapters in enumerate([[["r@5"], ["r@4"]]] * 30 + [[["r@4"], ["r@3"]]] * 10):
        shown = {"other": "new", "method": "team_draft", "credits": [-1.0, 1.0, 1.0], "adapters": adapters}
        (search,) = written(log, search_event(session=f"s{number}", **{INTERLEAVED: shown}))
        log.write([], [Feedback(search, "click", "P2")])
    against = preference_for(log.searches(), "r@4", "r@3")
    assert (against.wins_a, against.wins_b, against.searches) == (10, 0, 10)
    assert preference_for(log.searches(), "r@4", None).searches == 40
    assert preference_for(log.searches(), "r@9", "r@3") is None


def test_the_command_prints_the_preference(cli, tmp_path):
    log = EventLog(tmp_path / "events")
    assert cli("events", "interleaving", tmp_path / "events").out == "There are no interleaved searches.\n"
    more = {INTERLEAVED: {"other": "new", "method": "team_draft", "credits": [-1.0, 1.0, 1.0]}}
    for number in range(30):
        (search,) = written(log, search_event(session=f"s{number}", **more))
        log.write([], [Feedback(search, "click", "P2")])
    printed = cli("events", "interleaving", tmp_path / "events").out
    assert "30 users prefer new, 0 lexical, 0 neither, in 30 searches." in printed
    assert "Users prefer new." in printed
