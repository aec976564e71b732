"""Promotion decisions on an alias: both outcomes are recorded, and forced moves stay visible."""

from __future__ import annotations

import getpass
import socket

import pytest

from searchlora.adapters.aliases import Decision, Rule, actor
from searchlora.adapters.store import Store
from searchlora.errors import NotInStore, StoreError

BROKEN = Rule(rule="beat incumbent", passed=False, finding="nDCG@10 -0.02 (-0.04 to +0.01)", short_by=0.04)
HELD = Rule(rule="enough data", passed=True, finding="200 rows")


def decision(version, outcome):
    rules = (HELD,) if outcome == "promoted" else (HELD, BROKEN)
    return Decision(version=version, outcome=outcome, rules=rules, policy={}, evidence={"data": "ab"})


def decide(store, found, reason=None):
    return store.decide("echo", "production", found, reason, incumbent=store.aliases("echo").get("production"))


@pytest.fixture
def three(store, trained, draft):
    for _ in range(3):
        store.add("echo", trained, draft)
    return store


def test_a_promotion_moves_the_alias_and_a_refusal_does_not(three):
    decide(three, decision(1, "promoted"))
    refusal = decide(three, decision(2, "refused"))
    assert three.aliases("echo") == {"production": 1}
    assert refusal.refused
    assert (refusal.source, refusal.target) == (1, 1)
    moves = [str(move) for move in three.history("echo")]
    assert "production -> version 1, by its policy" in moves[0]
    assert "refused to version 2: beat incumbent (nDCG@10 -0.02 (-0.04 to +0.01))" in moves[1]


def test_a_refusal_of_the_first_version_makes_no_alias(three):
    decide(three, decision(1, "refused"))
    assert three.aliases("echo") == {}
    with pytest.raises(NotInStore):
        three.get("echo@production")


def test_a_forced_move_stays_in_the_history(three):
    decide(three, decision(1, "promoted"))
    decide(three, decision(2, "forced"), "agreed with the search team")
    assert {entry.version: entry.forced for entry in three.list()} == {
        1: frozenset(),
        2: frozenset({"production"}),
        3: frozenset(),
    }
    decide(three, decision(3, "promoted"))
    assert not any(entry.forced for entry in three.list())
    forced = [str(move) for move in Store(three.root).history("echo") if move.forced]
    assert len(forced) == 1
    assert "BY FORCE against: beat incumbent: agreed with the search team" in forced[0]


def test_a_rollback_skips_refused_decisions(three):
    decide(three, decision(1, "promoted"))
    decide(three, decision(3, "promoted"))
    decide(three, decision(2, "refused"))
    assert three.rollback("echo", "production").target == 1


def test_a_decision_on_a_missing_version_is_an_error(three):
    with pytest.raises(NotInStore):
        decide(three, decision(9, "promoted"))
    assert three.history("echo") == []


def test_a_refusal_and_a_manual_move_keep_the_mark_of_a_forced_move(three):
    decide(three, decision(2, "forced"), "we know")
    decide(three, decision(3, "refused"))
    assert next(entry for entry in three.list() if entry.version == 2).forced == {"production"}
    for by_hand in (lambda: three.alias("echo", "production", 2), lambda: three.rollback("echo", "production")):
        three.alias("echo", "production", 1)
        by_hand()
        assert next(entry for entry in three.list() if entry.version == 2).forced == {"production"}
    three.alias("echo", "production", 1)
    assert not any(entry.forced for entry in three.list())
    decide(three, decision(2, "promoted"))
    assert not any(entry.forced for entry in three.list())


def by_hand(store):
    return {entry.version for entry in store.list() if entry.by_hand == {"production"}}


def test_a_manual_move_after_a_decision_is_marked_until_the_next_decision(three, cli):
    three.alias("echo", "production", 1)
    assert by_hand(three) == set()
    decide(three, decision(2, "refused"))
    assert by_hand(three) == set()
    three.alias("echo", "production", 2)
    assert by_hand(three) == {2}
    decide(three, decision(3, "refused"))
    assert by_hand(three) == {2}
    assert "production (by hand)" in cli("adapters", "list", "--store", three.root).out
    decide(three, decision(3, "promoted"))
    assert by_hand(three) == set()
    three.rollback("echo", "production")
    assert by_hand(three) == {2}


def test_a_rollback_to_a_promoted_version_is_not_marked_as_manual(three):
    decide(three, decision(1, "promoted"))
    decide(three, decision(2, "promoted"))
    three.rollback("echo", "production")
    assert by_hand(three) == set()
    three.alias("echo", "production", 2)
    assert by_hand(three) == {2}
    three.remove("echo@2", force=True)
    assert by_hand(three) == set()


@pytest.mark.parametrize("outcome", ["promoted", "refused", "forced"])
def test_a_decision_is_refused_if_the_alias_moved_meanwhile(three, outcome):
    three.alias("echo", "production", 3)
    before = three.history("echo")
    for incumbent in (1, None):
        with pytest.raises(StoreError, match="was moved while the candidate was measured"):
            three.decide("echo", "production", decision(2, outcome), incumbent=incumbent)
    assert three.history("echo") == before


def test_the_history_has_who_moved_an_alias_and_why(three, cli):
    three.alias("echo", "production", 1, "first release")
    token = actor.set("API key ci")
    three.alias("echo", "production", 2, "a gain of .03")
    actor.reset(token)
    first, second = three.history("echo")
    assert (first.who, first.reason) == (f"{getpass.getuser()}@{socket.gethostname()}", "first release")
    assert (second.who, second.reason) == ("API key ci", "a gain of .03")
    shown = cli("adapters", "show", "echo", "--store", three.root).out
    assert f"(by {first.who})" in shown and "(by API key ci)" in shown
