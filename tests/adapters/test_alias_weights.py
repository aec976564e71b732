"""Weights of an alias: several versions share its requests, the same user keeps the same one, and history says so."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.adapters.alias_weights import choose_version, parse_weights
from searchlora.adapters.aliases import Decision
from searchlora.adapters.store import Store
from searchlora.errors import InvalidName, NotInStore, StoreError, UsageError
from tests.factories import first_word, random_adapter


@pytest.fixture
def store(tmp_path, tiny_base):
    store = Store(tmp_path / "store")
    for seed in range(3):
        random_adapter(store, "shop", first_word(tmp_path / f"task{seed}"), tiny_base, tmp_path / f"a{seed}", seed)
    store.alias("shop", "production", 1)
    return store


@pytest.mark.parametrize(
    ("text", "weights"), [("3=.9,4=.1", {3: 0.9, 4: 0.1}), ("1=1", {1: 1.0}), ("2=0.5, 1=0.5", {2: 0.5, 1: 0.5})]
)
def test_weights_are_read(text, weights):
    assert parse_weights(text) == weights


@pytest.mark.parametrize(
    "text", ["", "3", "3=", "3=x", "3=.9", "3=.9,4=.2", "3=1.5,4=-.5", "3=.5,3=.5", "a=1", "0=1", "3=nan"]
)
def test_what_are_no_weights_is_refused(text):
    with pytest.raises(UsageError):
        parse_weights(text)


@given(st.text(max_size=20), st.floats(0.01, 0.98), st.floats(0.01, 0.98))
def test_a_key_that_has_left_the_main_version_does_not_come_back_while_the_share_grows(key, one, other):
    small, large = sorted((one, other))
    if choose_version({1: 1 - small, 2: small}, 1, key) == 2:
        assert choose_version({1: 1 - large, 2: large}, 1, key) == 2


@pytest.mark.parametrize("keys", [None, "user"])
def test_requests_are_shared_as_the_weights_say(keys):
    weights = {1: 0.7, 2: 0.2, 3: 0.1}
    drawn = Counter(choose_version(weights, 1, keys and f"{keys} {n}") for n in range(20_000))
    assert {version: round(n / 20_000, 1) for version, n in drawn.items()} == weights


def test_an_alias_with_weights_points_to_the_main_version_and_chooses_by_key(store):
    move = store.split("shop", "production", {1: 0.5, 2: 0.5}, "a trial", main=1)
    assert store.pin("shop@production") == "shop@1"
    assert str(move).endswith("production -> versions 1 (50%), 2 (50%) (before: 1): a trial")
    chosen = {key: str(store.choose("shop@production", key)) for key in map(str, range(50))}
    assert set(chosen.values()) == {"shop@1", "shop@2"}
    assert {key: str(Store(store.root).choose("shop@production", key)) for key in chosen} == chosen
    assert str(store.choose("shop@2", "x")) == "shop@2"
    assert str(store.choose("shop", "x")) == "shop@3"
    store.alias("shop", "production", 2)
    assert {str(store.choose("shop@production", key)) for key in chosen} == {"shop@2"}


def test_users_fall_differently_for_each_alias(store):
    for alias in ("production", "other"):
        store.split("shop", alias, {1: 0.5, 2: 0.5}, main=1)
    chosen = [tuple(store.choose(f"shop@{alias}", str(n)) for alias in ("production", "other")) for n in range(50)]
    assert len(set(chosen)) == 4


def test_versions_and_names_are_checked_before_anything_is_written(store):
    before = store.history("shop")
    with pytest.raises(NotInStore, match="shop@9"):
        store.split("shop", "production", {1: 0.9, 9: 0.1})
    with pytest.raises(InvalidName):
        store.split("shop", "Bad Name", {1: 0.9, 2: 0.1})
    assert store.history("shop") == before


def test_a_rollback_takes_the_weights_back_and_then_goes_to_the_version_before(store):
    store.alias("shop", "production", 2)
    store.split("shop", "production", {2: 0.9, 3: 0.1}, main=2)
    assert (store.rollback("shop", "production").target, store.alias_history("shop").weights("production")) == (2, None)
    assert store.rollback("shop", "production").target == 1


def test_a_version_that_has_a_share_is_not_removed(store):
    store.split("shop", "production", {1: 0.9, 3: 0.1}, main=1)
    with pytest.raises(StoreError, match="production points to it"):
        store.remove("shop@3")


def test_a_refused_promotion_leaves_the_weights_as_they_are(store):
    store.split("shop", "production", {1: 0.9, 2: 0.1}, main=1)
    store.decide(
        "shop", "production", Decision(version=3, outcome="refused", rules=(), policy={}, evidence={}), incumbent=1
    )
    history = store.alias_history("shop")
    assert history.weights("production") == {1: 0.9, 2: 0.1}
    assert history.current["production"] == 1


def test_the_command_takes_weights(cli, refused, store):
    called = cli("adapters", "alias", "shop", "production", "--weights", "1=.75,2=.25", "--store", store.root)
    assert "production -> versions 1 (75%), 2 (25%)" in called.out, called.err
    assert "the shares sum to 0.8" in refused(
        "adapters", "alias", "shop", "production", "--weights", "1=.75,2=.05", "--store", store.root
    )
