"""The words of the shop: its tables, its dictionary, misspellings and plurals."""

from __future__ import annotations

import string
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.shop import dictionary_rewrite
from searchlora.shop.catalogue import make_catalogue
from searchlora.shop.intents import price_bound
from searchlora.shop.queries import MIN_MISSPELLED_LENGTH, NEIGHBOURS, misspell
from searchlora.shop.tables import load_table, load_tables, table_names
from searchlora.shop.vocabulary import catalogue_terms, dictionary

TABLES = load_tables()
GROUPS = [
    *(kind.words for kind in TABLES.types.values()),
    *(words for attribute in TABLES.attributes.values() for words in attribute.values.values()),
]


def test_every_reference_between_tables_resolves():
    assert len(TABLES.categories) >= 12 and len(TABLES.types) >= 80
    for kind in TABLES.types.values():
        assert len(kind.attributes) >= 2 and set(kind.attributes) <= set(TABLES.attributes), kind.name
        assert set(kind.goes_with) <= set(TABLES.types) - {kind.name}, kind.name
        assert kind.words.words and kind.words.unseen and kind.brands, kind.name
    for attribute in TABLES.attributes.values():
        assert set(attribute.never_with) <= set(attribute.values)
        assert attribute.shared or not attribute.never_with, "shared values are drawn first"
    prices, shelves = load_table("intents/prices")["ranges"], load_table("intents/shelves")
    assert set(prices) == set(shelves) == set(TABLES.categories)
    asked = {*load_table("intents/questions")["attributes"], *(n for s in shelves.values() for n in s["attributes"])}
    assert asked <= set(TABLES.attributes)
    for family in (family for table in table_names("help") for family in load_table(f"help/{table}").values()):
        assert len(family["articles"]) >= 2
        assert all(len(set(values)) >= len(family["articles"]) for values in family["draws"].values())


def test_shopper_words_are_unambiguous_and_unseen_ones_in_no_training_phrase():
    uses = Counter(word for kind in TABLES.types.values() for word in [*kind.words.words, *kind.words.unseen])
    assert max(uses.values()) == 1 and not set(uses) & set(TABLES.types)
    unseen = {word for group in GROUPS for word in group.unseen}
    seen = {word for group in GROUPS for word in group.words} | set(catalogue_terms(TABLES))
    seen |= {f"{word} {cue}" for kind in TABLES.types.values() for word, cue in kind.ambiguous}
    assert [(new, old) for new in unseen for old in seen if f" {new} " in f" {old} "] == []
    assert not unseen & set(dictionary(TABLES))


def test_the_dictionary_replaces_no_part_of_a_term_and_knows_one_meaning_of_a_word():
    entries = dictionary(TABLES)
    assert len(entries) >= 500 and set(entries.values()) <= set(catalogue_terms(TABLES))
    assert [term for term in catalogue_terms(TABLES) if dictionary_rewrite(term, entries) != term] == []
    assert len({kind.name for kind in TABLES.types.values() for word, _ in kind.ambiguous if word == "boiler"}) >= 2
    assert entries["trainers"] == "running shoes"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("trail kicks red", "trail running shoes crimson"),
        ("trail Red KICKS", "path crimson running shoes"),
        ("reddish  kicksy", "reddish kicksy"),
        ("", ""),
    ],
)
def test_the_longest_whole_word_phrase_is_replaced(query, expected):
    words = {"red": "crimson", "kicks": "running shoes", "trail": "path", "trail kicks": "trail running shoes"}
    assert dictionary_rewrite(query, words) == expected


@given(st.text(alphabet=string.ascii_lowercase, min_size=MIN_MISSPELLED_LENGTH, max_size=12), st.integers())
def test_a_misspelling_has_one_error_and_keeps_the_first_letter(word, seed):
    wrong = misspell(word, Random(seed))
    assert wrong != word and wrong[0] == word[0] and abs(len(wrong) - len(word)) <= 1
    if len(wrong) == len(word):
        places = [place for place, (a, b) in enumerate(zip(word, wrong, strict=True)) if a != b]
        swapped = len(places) == 2 and sorted(word) == sorted(wrong) and places[1] == places[0] + 1
        assert swapped or (len(places) == 1 and wrong[places[0]] in NEIGHBOURS[word[places[0]]])
    else:
        short, long = sorted((word, wrong), key=len)
        assert any(long[:place] + long[place + 1 :] == short for place in range(len(long)))


@pytest.mark.parametrize("split", ["train", "test"])
def test_price_bounds_are_ordered_and_unseen_phrases_in_test_only(split):
    phrases = set()
    for number in range(100):
        for category in TABLES.categories:
            bound = price_bound(category, split, Random(number))
            lowest, highest = bound.lowest, bound.highest
            assert highest if lowest is None else highest is None or lowest < highest
            phrases.add(bound.words)
    assert any("tops" in words for words in phrases) == (split == "test")


def test_children_products_use_the_sizes_for_children():
    products = [p for p in make_catalogue(TABLES, size=6000, seed=1) if p.facts.get("wearer") == "children's"]
    assert {p.facts["shoe_size"] for p in products if "shoe_size" in p.facts} == {"size 38", "size 40"}
