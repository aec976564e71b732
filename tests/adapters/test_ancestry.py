"""Ancestors and training queries, over copies and combinations, as far as they are in the store."""

from __future__ import annotations

import pytest

from searchlora.adapters.ancestry import ancestors, training_queries, write_training_queries
from searchlora.adapters.store import Store
from searchlora.errors import NotInStore
from searchlora.eval.judgments.lineage import query_hash
from searchlora.systems.lineage import run_lineage


@pytest.fixture
def family(store, trained, draft, tmp_path):
    """a@1 and b@1 with queries, both@1 of the two, grown@1 of both@1, odd@1 of a@1 and one that is not there."""

    def add(name, *parents, queries=()):
        beside = [write_training_queries(tmp_path, queries)] if queries else []
        store.add(name, trained, draft.model_copy(update={"parents": list(parents)}), extra_files=beside)

    add("a", queries=("red shoes", "Tent  pegs", "tent pegs"))
    add("b", queries=("boots",))
    add("both", "a@1", "b@1")
    add("grown", "both@1")
    add("odd", "a@1", "gone@4")
    add("old")
    return store


@pytest.mark.slow
def test_known_ancestors_are_listed_once(family):
    assert ancestors(family, "a") == ()
    assert ancestors(family, "grown") == ("both@1", "a@1", "b@1")
    assert ancestors(family, "odd@1") == ("a@1", "gone@4")
    with pytest.raises(NotInStore):
        ancestors(family, "gone@4")


@pytest.mark.slow
def test_training_queries_come_from_the_adapter_file_or_from_all_parents(family):
    shoes, pegs, boots = map(query_hash, ("red shoes", "tent pegs", "boots"))
    assert training_queries(family, "a") == tuple(sorted((shoes, pegs)))
    assert training_queries(family, "grown") == tuple(sorted((shoes, pegs, boots)))


def test_unknown_training_queries_are_not_an_empty_set(family):
    assert training_queries(family, "old") is None
    assert training_queries(family, "odd") is None


def test_a_renamed_copy_keeps_query_file_and_parent(family, tmp_path):
    other = Store(tmp_path / "elsewhere")
    stored = family.get("a@1")
    other.adopt(stored.path, stored.manifest, "renamed")
    assert ancestors(other, "renamed") == ("a@1",)
    assert training_queries(other, "renamed") == training_queries(family, "a")


def test_an_adapter_merged_into_the_base_is_an_ancestor(family, trained, draft, tmp_path):
    base = tmp_path / "innocent"
    base.mkdir()
    (base / "merged.json").write_text('{"adapter": "both@1"}', encoding="utf-8")
    on_it = draft.model_copy(update={"base": draft.base.model_copy(update={"name": str(base)})})
    family.add("above", trained, on_it, extra_files=[write_training_queries(tmp_path, ["a stove"])])
    family.add("untold", trained, on_it)
    assert ancestors(family, "above") == ("both@1", "a@1", "b@1")
    queries = ("red shoes", "tent pegs", "boots", "a stove")
    assert training_queries(family, "above") == tuple(sorted(map(query_hash, queries)))
    assert training_queries(family, "untold") is None
    assert run_lineage(family, (), [str(base)]).references == ("base innocent", "both@1", "a@1", "b@1")
