from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from searchlora.errors import DataError
from searchlora.shop import make_shop
from searchlora.shop import rewriting as rewriting_module
from searchlora.shop.catalogue import Catalogue
from searchlora.shop.rewriting import make_drafts
from searchlora.shop.tables import load_tables
from searchlora.shop.vocabulary import known_words

TABLES = load_tables()
Records = list[dict[str, Any]]


def texts(record: dict[str, Any]) -> list[str]:
    return [*(turn["text"] for turn in record["history"]), record["query"]]


def splits_of(records: Records, key: Any) -> dict[Any, set[str]]:
    found: dict[Any, set[str]] = defaultdict(set)
    for record in records:
        for value in key(record):
            found[value].add(record["split"])
    return found


def test_record_counts_by_kind(records: Records):
    assert len(records) == 2400
    assert len({record["id"] for record in records}) == 2400
    counts = {split: sum(record["split"] == split for record in records) for split in ("train", "validation", "test")}
    assert counts == {"train": 1680, "validation": 240, "test": 480}
    kinds = {"plain", "code", "slang", "misspelling", "unit", "ambiguous", "conversation"}
    assert {record["kind"] for record in records if record["split"] == "train"} == kinds
    assert {record["kind"] for record in records if record["split"] == "test"} == kinds | {"unseen-word"}


def test_records_are_short(records: Records):
    assert max(len(record["query"].split()) for record in records) <= 8
    assert max(len(record["rewrite"].split()) for record in records) <= 12
    assert all(len(record["query"].split()) >= 2 for record in records if record["kind"] != "conversation")


def test_groups_are_in_one_split(records: Records):
    assert all(len(splits) == 1 for splits in splits_of(records, lambda record: [record["group"]]).values())


@pytest.mark.slow
def test_combinations_of_type_and_attributes_are_in_one_split():
    drafts = make_drafts(Catalogue(TABLES, size=2000, seed=13), TABLES, total=2400, seed=13)
    found: dict[str, set[Any]] = defaultdict(set)
    for draft in drafts:
        if set(draft.need.facts) - {"brand", "line", "sku"}:
            found[draft.need.combination].add(draft.fields["split"])
    assert len(found) > 500
    assert all(len(splits) == 1 for splits in found.values())


def test_records_have_distinct_words(records: Records):
    shown = [tuple(sorted(re.findall(r"\w+", " ".join(texts(record)).lower()))) for record in records]
    assert len(set(shown)) == len(shown)


def test_unseen_words_are_in_test_records_of_their_kind_only(records: Records):
    groups = [kind.words for kind in TABLES.types.values()]
    groups += [words for attribute in TABLES.attributes.values() for words in attribute.values.values()]
    unseen = [f" {word} " for group in groups for word in group.unseen]

    def has_one(record: dict[str, Any]) -> bool:
        return any(word in f" {text} " for text in texts(record) for word in unseen)

    assert [record for record in records if record["kind"] != "unseen-word" and has_one(record)] == []
    assert all(has_one(record) for record in records if record["kind"] == "unseen-word")


@pytest.mark.slow
def test_misspellings_of_train_are_not_reused(records: Records):
    fillers = {word for name in ("lead_ins", "lead_outs") for each in TABLES.phrases[name] for word in each.split()}
    wrong: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record["kind"] == "misspelling":
            names = set(record["rewrite"].split())
            wrong[record["split"]] |= set(record["query"].split()) - known_words(TABLES) - fillers - names
    assert len(wrong["test"]) > 80
    assert wrong["train"] & (wrong["validation"] | wrong["test"]) == set()


def test_needs_rewrite_equals_whether_the_query_changes(records: Records):
    assert all(record["needs_rewrite"] == (record["query"] != record["rewrite"]) for record in records)
    plain = [record for record in records if record["kind"] == "plain"]
    assert plain and not any(record["needs_rewrite"] for record in plain)
    alone = [record for record in records if record["kind"] == "conversation" and not record["needs_rewrite"]]
    assert 10 < len(alone) < 100


def test_protected_words_are_in_query_and_rewrite(records: Records):
    protecting = [record for record in records if record["protected"]]
    assert len(protecting) > 300
    for record in protecting:
        assert set(record["protected"]) <= set(record["query"].split()) & set(record["rewrite"].split())


def test_conversations_have_turns_and_history(records: Records):
    for record in records:
        if record["kind"] == "conversation":
            user_turns = [turn["text"] for turn in record["history"] if turn["role"] == "user"]
            assert record["turn"] == len(user_turns) + 1 in (2, 3)
        else:
            assert record["history"] == [] and "turn" not in record


@pytest.mark.slow
def test_too_many_queries_for_the_products_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rewriting_module, "_PATIENCE", 200)
    with pytest.raises(DataError, match=r"only \d+ different queries of kind 'plain' in train.*more products"):
        make_shop(tmp_path / "shop", products=600, queries=30_000)
    assert list(tmp_path.iterdir()) == []
