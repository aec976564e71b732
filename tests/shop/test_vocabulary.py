from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.shop import dictionary_rewrite
from searchlora.shop.tables import load_tables
from searchlora.shop.vocabulary import catalogue_terms, dictionary

TABLES = load_tables()
WORDS = {"red": "crimson", "kicks": "running shoes", "trail": "path", "trail kicks": "trail running shoes"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("red kicks", "crimson running shoes"),
        ("trail kicks red", "trail running shoes crimson"),
        ("trail red kicks", "path crimson running shoes"),
        ("Red KICKS", "crimson running shoes"),
        ("reddish kicksy", "reddish kicksy"),
        ("", ""),
    ],
)
def test_the_longest_whole_word_phrase_is_replaced(query: str, expected: str):
    assert dictionary_rewrite(query, WORDS) == expected


@given(st.text())
def test_an_empty_vocabulary_normalises_only_white_space(query: str):
    assert dictionary_rewrite(query, {}) == " ".join(query.split())


def test_the_vocabulary_has_several_hundred_pairs_and_no_unseen_word():
    entries = dictionary(TABLES)
    assert len(entries) >= 500
    unseen = {word for kind in TABLES.types.values() for word in kind.words.unseen}
    unseen |= {w for each in TABLES.attributes.values() for words in each.values.values() for w in words.unseen}
    assert unseen & set(entries) == set()
    assert set(entries.values()) <= set(catalogue_terms(TABLES))


def test_catalogue_terms_are_not_replaced_partially():
    entries = dictionary(TABLES)
    assert "mat" in entries
    assert [term for term in catalogue_terms(TABLES) if dictionary_rewrite(term, entries) != term] == []


def test_an_ambiguous_word_has_one_entry():
    meanings = {kind.name for kind in TABLES.types.values() for word, _ in kind.ambiguous if word == "boiler"}
    assert len(meanings) >= 2
    assert dictionary(TABLES)["boiler"] in meanings
    assert dictionary(TABLES)["trainers"] == "running shoes"
