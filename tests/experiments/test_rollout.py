"""Rollouts: a harmful candidate is taken back soon, a harmless one goes on, and the history says why."""

from __future__ import annotations

import random
import time
from itertools import count

import pytest

from searchlora.adapters.aliases import Decision
from searchlora.adapters.store import Store
from searchlora.errors import DataError, NotInStore, StoreError, UsageError
from searchlora.events.guardrails import GUARDRAILS, UNSERVED, compared, slow_from
from searchlora.events.interleaving import INTERLEAVED
from searchlora.events.log import EventLog, Feedback
from searchlora.experiments.rollout import RolloutPolicy, look, start_rollout, stop_rollout
from searchlora.files.yaml_text import read_settings
from tests.events.recorded import search_event, written
from tests.factories import first_word, random_adapter


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("rollout")
    store = Store(folder / "store")
    for seed in range(2):
        random_adapter(store, "shop", first_word(folder / f"task{seed}"), tiny_base, folder / f"a{seed}", seed)
    return store.root


@pytest.fixture
def store(stored):
    store = Store(stored)
    (stored / "shop" / "aliases.json").unlink(missing_ok=True)
    store.alias("shop", "production", 1)
    return store


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "events")
    answered(log, 1, 50, now=time.time() - 100)
    return log


USERS = count()


def answered(log, version, n, *, invalid=0.0, clicks=0.5, milliseconds=5.0, now=None, **more):
    """Searches that a version answered, each of a session of its own."""
    rng = random.Random(version)
    for _ in range(n):
        flags = ["invalid: empty"] if rng.random() < invalid else []
        event = search_event(
            milliseconds=milliseconds + rng.random(), flags=flags, session=f"user {next(USERS)}", **more
        )
        event["stages"][0]["adapter"] = f"shop@{version}"
        (search,) = written(log, event, now=now or time.time() + 1)  # after the second of the last step
        if rng.random() < clicks:
            log.write([], [Feedback(search, "click", "P1")])


def start(store, log, **policy):
    return start_rollout(store, "shop@2", "production", log, RolloutPolicy(**policy))


def test_a_rollout_begins_with_the_first_share_and_is_in_the_history(store, log):
    move = start(store, log)
    assert store.alias_history("shop").weights("production") == {1: 0.9, 2: 0.1}
    assert "versions 1 (90%), 2 (10%) (before: 1), rollout started" in str(move)
    assert move.rollout.evidence["slow_ms"] == pytest.approx(5.95, abs=0.1)
    assert store.pin("shop@production") == "shop@1"


def test_it_waits_advances_and_completes(store, log):
    start(store, log, min_users=30, steps=[0.1, 0.5, 1], guardrails={"invalid": 0.02, "chosen": 0.02})
    assert look(store, "shop", "production", log).outcome == "waiting"
    answered(log, 2, 29)
    answered(log, 1, 100)
    assert look(store, "shop", "production", log).outcome == "waiting"
    answered(log, 2, 1)
    time.sleep(1.1)
    found = look(store, "shop", "production", log)
    assert (found.outcome, found.share) == ("advanced", 0.5)
    assert store.alias_history("shop").weights("production") == {1: 0.5, 2: 0.5}
    # The second step counts its own searches.
    assert look(store, "shop", "production", log).guardrails[0].candidate.n == 0
    answered(log, 2, 30)
    answered(log, 1, 30)
    assert look(store, "shop", "production", log).outcome == "completed"
    assert store.pin("shop@production") == "shop@2"
    assert store.alias_history("shop").weights("production") is None
    with pytest.raises(NotInStore, match="no rollout"):
        look(store, "shop", "production", log)


@pytest.mark.parametrize(
    ("harm", "rule"),
    [({"invalid": 1.0}, "invalid"), ({"milliseconds": 50.0}, "slow"), ({"hits": ()}, "no_hits")],
)
def test_a_broken_candidate_is_taken_back_within_200_of_its_requests(store, log, harm, rule):
    start(store, log)
    needed = 0
    while store.alias_history("shop").rollout("production") is not None:
        answered(log, 2, 5, **harm)
        answered(log, 1, 45)
        needed += 5
        assert needed <= 200
        found = look(store, "shop", "production", log)
    assert (found.outcome, found.share) == ("rolled back", 0)
    assert store.alias_history("shop").weights("production") is None
    assert store.pin("shop@production") == "shop@1"
    move = store.history("shop")[-1]
    assert [each.rule for each in move.rollout.rules if not each.passed] == [rule]
    assert f"rollout rolled back for {rule}" in str(move)
    assert needed <= 40


def test_a_candidate_that_cannot_be_loaded_is_taken_back(store, log):
    start(store, log)
    for number in range(40):
        event = search_event(session=f"u{number}", **{UNSERVED: ["shop@2"]})
        event["stages"][0]["adapter"] = "shop@1"
        written(log, event, now=time.time() + 1)
    answered(log, 1, 200)
    assert look(store, "shop", "production", log).outcome == "rolled back"


def test_searches_of_one_user_count_once_and_chosen_versions_do_not(log):
    since = time.time()
    for _ in range(50):
        event = search_event(session="the same", flags=["invalid: empty"])
        event["stages"][0]["adapter"] = "shop@2"
        written(log, event)
    answered(log, 2, 30, slots={"shop": "shop@2"})
    (found,) = compared(log.searches(since), "shop@2", "shop@1", {"invalid": 0.02}, 1e9, 0.05)
    assert found.candidate == (1.0, 1)
    assert not found.is_harmed


def test_a_user_of_many_sessions_counts_once_and_interleaved_searches_do_not_say_what_is_slow(log):
    since = time.time()
    for number in range(50):
        event = search_event(session=f"session {number}", user="one", flags=["invalid: empty"])
        event["stages"][0]["adapter"] = "shop@2"
        written(log, event)
    (found,) = compared(log.searches(since), "shop@2", "shop@1", {"invalid": 0.02}, 1e9, 0.05)
    assert found.candidate == (1.0, 1)
    before = slow_from(log.searches(), "shop@1")
    answered(log, 1, 50, milliseconds=500.0, **{INTERLEAVED: {"other": "x", "method": "team_draft", "credits": []}})
    answered(log, 1, 50, milliseconds=500.0, slots={"shop": "shop@1"})
    assert slow_from(log.searches(), "shop@1") == before


def test_a_candidate_that_loses_clicks_is_taken_back_and_one_that_wins_is_not(store, log):
    start(store, log, min_users=10_000)
    answered(log, 2, 300, clicks=0.1)
    answered(log, 1, 300, clicks=0.6)
    found = look(store, "shop", "production", log)
    assert (found.outcome, [each.name for each in found.guardrails if each.is_harmed]) == ("rolled back", ["chosen"])
    time.sleep(2.1)
    start(store, log, min_users=10_000)
    answered(log, 2, 300, clicks=0.9)
    answered(log, 1, 300, clicks=0.5)
    assert look(store, "shop", "production", log).outcome == "waiting"


def test_safe_asks_for_more_than_no_harm(store, log):
    start(store, log, min_users=30, advance="safe", guardrails={"invalid": 0.1})
    answered(log, 1, 40)
    answered(log, 2, 40)
    found = look(store, "shop", "production", log)
    assert (found.outcome, found.guardrails[0].is_safe) == ("waiting", False)
    answered(log, 1, 400)
    answered(log, 2, 400)
    assert look(store, "shop", "production", log).outcome == "advanced"


def test_a_user_stops_a_rollout(store, log):
    start(store, log)
    move = stop_rollout(store, "shop", "production", "a complaint")
    assert (move.target, store.alias_history("shop").weights("production")) == (1, None)
    assert "rollout stopped: a complaint" in str(move)
    with pytest.raises(NotInStore, match="no rollout"):
        stop_rollout(store, "shop", "production")


def test_of_two_that_look_at_once_the_second_fails_and_changes_nothing(store, log, monkeypatch):
    start(store, log, min_users=1, guardrails={"invalid": 0.02})
    answered(log, 2, 5)
    answered(log, 1, 5)
    split = Store.split

    def later(self, *given, **more):
        monkeypatch.setattr(Store, "split", split)
        assert look(Store(store.root), "shop", "production", log).outcome == "advanced"
        return split(self, *given, **more)

    monkeypatch.setattr(Store, "split", later)
    with pytest.raises(StoreError, match="moved meanwhile"):
        look(store, "shop", "production", log)
    assert len([move for move in store.history("shop") if move.rollout is not None]) == 2


def test_what_cannot_be_rolled_out_is_refused(store, log, tmp_path):
    with pytest.raises(NotInStore, match="there is no alias"):
        start_rollout(store, "shop@2", "elsewhere", log, RolloutPolicy())
    with pytest.raises(UsageError, match="already"):
        start_rollout(store, "shop@1", "production", log, RolloutPolicy())
    with pytest.raises(DataError, match="shop@1 has answered no recorded search"):
        start_rollout(store, "shop@2", "production", EventLog(tmp_path / "none"), RolloutPolicy())
    with pytest.raises(DataError, match="has no shadow search"):
        start(store, log, min_overlap=0.5)
    start(store, log)
    with pytest.raises(StoreError, match="several versions share"):
        start(store, log)
    stop_rollout(store, "shop", "production")
    decision = Decision(version=1, outcome="promoted", rules=(), policy={}, evidence={})
    store.decide("shop", "production", decision, incumbent=1)
    with pytest.raises(StoreError, match="a policy decides"):
        start(store, log)
    start_rollout(store, "shop@2", "production", log, RolloutPolicy(), force="agreed")


def test_shadow_searches_say_whether_a_candidate_is_rolled_out(store, log):
    for number in range(200):
        (search,) = written(log, search_event(hits=("P1", "P2", "P3"), session=f"s{number}"))
        shadow = {**search_event(hits=("P1", "P3", "P2")), "shadow": search, "candidates": {"shop": "shop@2"}}
        log.write([shadow], [])
    with pytest.raises(DataError, match=r"shop@2 is not rolled out: overlap.*at least 0.99"):
        start(store, log, min_overlap=0.99)
    move = start(store, log, min_overlap=0.7)
    assert move.rollout.rules[0].passed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [0.5, 0.1, 1]", "ascending"),
        ("steps: [0.1, 0.5]", "the last is 1"),
        ("guardrails: {speed: 0.1}", "no guardrail 'speed'"),
        ("guardrails: {slow: 1.5}", "difference of shares"),
        ("guardrails: {}", "needs a guardrail"),
        ("colour: red", "colour"),
        ("min_users: 0", "min_users"),
        ("[", "rollout.yaml"),
    ],
)
def test_a_policy_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "rollout.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_settings(tmp_path / "rollout.yaml", RolloutPolicy)


def test_a_policy_is_read_with_its_defaults(tmp_path):
    (tmp_path / "rollout.yaml").write_text("steps: [0.2, 1]\nguardrails: {slow: 0.1}\n", encoding="utf-8")
    policy = read_settings(tmp_path / "rollout.yaml", RolloutPolicy)
    assert (policy.steps, policy.guardrails, policy.min_users) == ((0.2, 1.0), {"slow": 0.1}, 100)
    (tmp_path / "rollout.yaml").write_text("", encoding="utf-8")
    assert read_settings(tmp_path / "rollout.yaml", RolloutPolicy) == RolloutPolicy()
    assert RolloutPolicy().guardrails.keys() == GUARDRAILS.keys()


def test_the_command_starts_looks_and_stops(cli, store, log, tmp_path):
    where = ("--events", tmp_path / "events", "--store", store.root)
    started = cli("rollout", "start", "shop@2", *where, "--reason", "a test")
    assert "rollout started: a test" in started.out, started.err
    answered(log, 2, 10)
    answered(log, 1, 10)
    printed = cli("rollout", "look", "shop", *where).out
    assert "shop@2 waits at 10% of the requests." in printed
    assert " invalid   open  invalid outputs 0.000 (n = 10), before 0.000 (n = 10)" in printed
    assert "rollout stopped" in cli("rollout", "stop", "shop", "--store", store.root).out
