"""Consistency of the hand-written tables on which the generator relies."""

from __future__ import annotations

from collections import Counter

from searchlora.shop.tables import load_tables

TABLES = load_tables()


def test_the_catalogue_has_the_documented_size():
    assert len({kind.category for kind in TABLES.types.values()}) >= 12
    assert len(TABLES.types) >= 80
    assert min(len(kind.attributes) for kind in TABLES.types.values()) >= 2


def test_every_reference_between_tables_resolves():
    for kind in TABLES.types.values():
        assert set(kind.attributes) <= set(TABLES.attributes), kind.name
        assert set(kind.goes_with) <= set(TABLES.types) - {kind.name}, kind.name
        assert kind.words.words and kind.words.unseen and kind.brands, kind.name
    values = {value for attribute in TABLES.attributes.values() for value in attribute.values}
    for attribute in TABLES.attributes.values():
        assert set(attribute.never_with) <= set(attribute.values)
        assert {value for banned in attribute.never_with.values() for value in banned} <= values
        assert attribute.shared or not attribute.never_with, "shared values are drawn first"


def test_shopper_words_are_unambiguous_unless_marked():
    uses = Counter(word for kind in TABLES.types.values() for word in [*kind.words.words, *kind.words.unseen])
    assert [word for word, count in uses.items() if count > 1] == []
    assert set(uses) & set(TABLES.types) == set()


def test_unseen_words_are_in_no_training_phrase():
    groups = [kind.words for kind in TABLES.types.values()]
    groups += [words for attribute in TABLES.attributes.values() for words in attribute.values.values()]
    unseen = {word for group in groups for word in group.unseen}
    seen = {word for group in groups for word in group.words} | set(TABLES.types)
    seen |= {value for attribute in TABLES.attributes.values() for value in attribute.values}
    seen |= {f"{word} {cue}" for kind in TABLES.types.values() for word, cue in kind.ambiguous}
    assert [(new, old) for new in unseen for old in seen if f" {new} " in f" {old} "] == []
