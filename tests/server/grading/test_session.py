"""Assignment of pairs to raters: overlap, order, concurrency and restarts."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.errors import UsageError
from searchlora.eval.judgments.ratings import by_pair, read_ratings
from searchlora.server.grading.session import MAX_RATERS, NAMES_PER_ADDRESS, RESERVATION_SECONDS, Progress
from tests.server.grading.synthetic import synthetic_pairs, synthetic_session


def grade_all(session, rater, grade=1):
    seen = []
    while shown := session.next(rater):
        session.rate(rater, shown.id, grade, seconds=1, note="")
        seen.append(shown)
    return seen


def test_pairs_of_a_topic_stay_together_in_a_seeded_order_per_rater(tmp_path):
    orders = {}
    for seed, rater, folder in ((0, "anna", "a"), (0, "ben", "b"), (0, "anna", "c"), (1, "anna", "d")):
        seen = grade_all(synthetic_session(tmp_path / folder, seed=seed), rater)
        topics = [topic for topic, _ in groupby(shown.pair.topic for shown in seen)]
        assert len(topics) == len(set(topics)) == 6
        orders[folder] = [shown.id for shown in seen]
    assert orders["a"] == orders["c"]
    assert orders["a"] != orders["b"]
    assert orders["a"] != orders["d"]
    assert sorted(orders["a"]) == sorted(orders["b"])


def test_the_order_does_not_reveal_the_pool_order(tmp_path):
    pairs = synthetic_pairs()
    forward = grade_all(synthetic_session(tmp_path / "a", pairs=pairs), "anna")
    backward = grade_all(synthetic_session(tmp_path / "b", pairs=pairs[::-1]), "anna")
    assert forward == backward


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    raters=st.integers(1, 5),
    overlap=st.integers(1, 4),
    turns=st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=200),
)
def test_every_pair_gets_exactly_the_required_raters(tmp_path_factory, raters, overlap, turns):
    folder = tmp_path_factory.mktemp("grades")
    pairs = synthetic_pairs(topics=3, documents=3)
    session = synthetic_session(folder, overlap=overlap, pairs=pairs)
    names = [f"rater-{number}" for number in range(raters)]
    for turn, only_looks in turns:
        rater = names[turn % raters]
        if (shown := session.next(rater)) and not only_looks:
            session.rate(rater, shown.id, turn % 2, seconds=0, note="")
    for _ in names:  # who looked and left a pair is served in a later round
        for rater in names:
            grade_all(session, rater)
    counts = Counter(row.pair for row in read_ratings(folder / "ratings.jsonl"))
    assert set(counts.values()) == {min(overlap, raters)}
    assert len(counts) == len(pairs)
    assert all(len(grades) == counts[pair] for pair, grades in by_pair(session._log.ratings).items())
    session._log.close()


def test_concurrent_raters_never_exceed_the_overlap(tmp_path):
    session = synthetic_session(tmp_path, overlap=1, pairs=synthetic_pairs(1, 2))
    first, second = session.next("anna"), session.next("ben")
    assert first.pair != second.pair
    assert session.next("carl") is None
    assert session.progress("carl") == Progress(0, 2)
    assert session.next("anna") == first


def test_an_abandoned_pair_is_reassigned_and_a_late_grade_is_kept(tmp_path):
    now = [0.0]
    session = synthetic_session(tmp_path, overlap=1, pairs=synthetic_pairs(1, 1), clock=lambda: now[0])
    lying = session.next("anna")
    now[0] = RESERVATION_SECONDS - 1
    assert session.next("ben") is None
    now[0] = RESERVATION_SECONDS + 1
    assert session.next("ben") == lying
    session.rate("ben", lying.id, 1, seconds=1, note="")
    session.rate("anna", lying.id, 0, seconds=999, note="")
    assert by_pair(read_ratings(tmp_path / "ratings.jsonl")) == {("topic-0", "document-0-0"): {"anna": 0, "ben": 1}}


def test_back_shows_the_earlier_grade_and_corrections_are_appended(tmp_path):
    session = synthetic_session(tmp_path)
    first = session.next("anna")
    session.rate("anna", first.id, 1, seconds=1, note="why")
    second = session.next("anna")
    session.rate("anna", second.id, None, seconds=1, note="")
    third = session.next("anna")
    shown = session.before("anna", third.id)
    assert (shown.pair, shown.earlier.grade) == (second.pair, None)
    shown = session.before("anna", second.id)
    assert (shown.pair, shown.earlier.grade, shown.earlier.note) == (first.pair, 1, "why")
    assert session.before("anna", first.id) is None
    session.rate("anna", first.id, 0, seconds=2, note="")
    assert session.next("anna") == third
    assert session.progress("anna") == Progress(2, 24)
    assert [row.grade for row in read_ratings(tmp_path / "ratings.jsonl")] == [1, None, 0]
    assert session.before("ben", first.id) is None


def test_a_restart_continues_for_every_rater(tmp_path):
    session = synthetic_session(tmp_path)
    for rater, count in (("anna", 7), ("ben", 3)):
        for _ in range(count):
            session.rate(rater, session.next(rater).id, 1, seconds=1, note="")
    expected = {rater: (session.next(rater), session.progress(rater)) for rater in ("anna", "ben")}
    last = session.before("anna", "none")
    session._log.close()
    again = synthetic_session(tmp_path)
    assert {rater: (again.next(rater), again.progress(rater)) for rater in ("anna", "ben")} == expected
    assert again.before("anna", "none") == last


def test_refused_grades_are_not_written(tmp_path):
    session = synthetic_session(tmp_path)
    pair = session.next("anna").id
    for rater, to, grade, says in (
        ("anna", pair, 2, "not on the scale 0, 1"),
        ("anna", "none", 1, "no such pair"),
        ("Anna B", pair, 1, "not a rater's name"),
    ):
        with pytest.raises(UsageError, match=says):
            session.rate(rater, to, grade, seconds=1, note="")
    assert (tmp_path / "ratings.jsonl").read_bytes() == b""


def test_ratings_of_another_pool_are_kept_and_those_of_another_scale_refused(tmp_path):
    session = synthetic_session(tmp_path, pairs=synthetic_pairs(1, 1))
    grade_all(session, "anna")
    session._log.close()
    other = synthetic_session(tmp_path, pairs=synthetic_pairs()[4:])
    assert other.progress("anna") == Progress(0, 20)
    other._log.close()
    path = tmp_path / "ratings.jsonl"
    path.write_text(path.read_text().replace('"grade": 1', '"grade": 3'))
    with pytest.raises(UsageError, match="grade 3 is not on the scale"):
        synthetic_session(tmp_path)


def test_invented_names_of_one_address_do_not_occupy_all_assignments(tmp_path):
    session = synthetic_session(tmp_path)
    for number in range(480):
        if number < NAMES_PER_ADDRESS:
            assert session.next(f"fake-{number}", "203.0.113.7") is not None
            continue
        for act in (session.next, lambda name, to: session.rate(name, "p0x0", 1, seconds=1, note="", address=to)):
            with pytest.raises(UsageError, match="too many names from this address"):
                act(f"fake-{number}", "203.0.113.7")
    assert len(grade_all(session, "anna")) >= 24 - NAMES_PER_ADDRESS
    # Known names are free: the limit is on new ones.
    assert session.next("fake-0", "203.0.113.7") is not None
    session._log.close()
    again = synthetic_session(tmp_path)
    for number in range(NAMES_PER_ADDRESS):
        again.next(f"new-{number}", "198.51.100.1")
    assert again.next("anna", "198.51.100.1") == again.next("anna", "another")


def test_the_number_of_names_is_bounded_over_all_addresses(tmp_path):
    session = synthetic_session(tmp_path)
    for number in range(MAX_RATERS):
        session.next(f"fake-{number}", f"address {number}")
    with pytest.raises(UsageError, match="too many names in this session"):
        session.next("one-more", "another address")


def test_only_listed_raters_may_grade(tmp_path):
    session = synthetic_session(tmp_path, raters=["anna", "ben"])
    pair = session.next("anna").id
    for act in (
        lambda: session.next("carl"),
        lambda: session.progress("carl"),
        lambda: session.before("carl", pair),
        lambda: session.rate("carl", pair, 1, seconds=1, note=""),
    ):
        with pytest.raises(UsageError, match="'carl' is not among the raters"):
            act()
    assert session.next("ben") is not None
    assert (tmp_path / "ratings.jsonl").read_bytes() == b""
    session._log.close()
    with pytest.raises(UsageError, match="not a rater's name"):
        synthetic_session(tmp_path / "other", raters=["Anna B"])
