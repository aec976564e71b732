from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest

from searchlora.shop.intents import price_bound
from searchlora.shop.sampling import Need
from searchlora.shop.tables import load_table, load_tables
from tests.shop.reading import only_in_one, rows_of, splits_of

TABLES = load_tables()
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def intents(shop: Path) -> Rows:
    return rows_of(shop / "intent.jsonl")


@pytest.fixture(scope="module")
def schema(shop: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shop / "intent.schema.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_every_object_matches_the_schema_in_its_key_order(intents: Rows, schema: dict[str, Any]):
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    names = list(schema["properties"]["attributes"]["properties"])
    for row in intents:
        assert not list(check.iter_errors(row["object"])), row
        assert list(row["object"]) == schema["required"] == list(schema["properties"])
        assert list(row["object"]["attributes"]) == [name for name in names if name in row["object"]["attributes"]]


def test_the_schema_refuses_unknown_values(intents: Rows, schema: dict[str, Any]):
    check = jsonschema.Draft202012Validator(schema)
    good = intents[0]["object"]
    for wrong in (
        {"brand": "nobody"},
        {"category": "cars"},
        {"attributes": {"colour": "red"}},
        {"attributes": {"horsepower": "12"}},
        {"max_price": -1},
        {"mood": "good"},
    ):
        assert list(check.iter_errors({**good, **wrong})), wrong


def test_all_needs_are_in_all_splits(intents: Rows):
    assert len(intents) == 2400
    counts = Counter((row["split"], row["object"]["need"]) for row in intents)
    assert sum(count for (split, _), count in counts.items() if split == "test") == 480
    assert len(counts) == 12
    assert min(counts.values()) >= 20


def test_groups_and_word_sets_are_in_one_split(intents: Rows):
    assert len({row["id"] for row in intents}) == len(intents)
    assert only_in_one(splits_of(intents, lambda row: [row["group"]]))
    shown = [tuple(sorted(re.findall(r"\w+", row["query"].lower()))) for row in intents]
    assert len(set(shown)) == len(shown)


def test_products_and_combinations_are_in_one_split(intents: Rows):
    families: dict[str, set[str]] = defaultdict(set)
    combinations: dict[str, set[str]] = defaultdict(set)
    for row in intents:
        wants = row["object"]
        if wants["product_type"] and wants["attributes"]:
            combinations[Need(wants["product_type"], wants["attributes"]).combination].add(row["split"])
        if row["kind"] == "known-item":
            families[row["group"]].add(row["split"])
    assert len(families) > 80 and len(combinations) > 500
    assert {len(splits) for splits in [*families.values(), *combinations.values()]} == {1}


def test_words_marked_unseen_are_in_test_only(intents: Rows):
    groups = [kind.words for kind in TABLES.types.values()]
    groups += [words for attribute in TABLES.attributes.values() for words in attribute.values.values()]
    unseen = [f" {word} " for group in groups for word in group.unseen]
    unseen += [f" {word} " for shelf in load_table("intents/shelves").values() for word in shelf["unseen"]]
    having = [row for row in intents if any(word in f" {row['query']} " for word in unseen)]
    assert len(having) > 40
    assert {row["split"] for row in having} == {"test"}


def test_out_of_scope_queries_have_no_attributes(intents: Rows):
    outside = [row["object"] for row in intents if row["kind"] == "out-of-scope"]
    assert {row["kind"] for row in intents if row["object"]["need"] == "out-of-scope"} == {"out-of-scope"}
    assert all(not any(value for name, value in wants.items() if name != "need") for wants in outside)


def test_numeric_bounds_are_in_the_query(intents: Rows):
    spelled = load_table("intents/prices")["spelled"]
    priced = [row for row in intents if row["object"]["min_price"] or row["object"]["max_price"]]
    assert len(priced) > 400
    for row in priced:
        bounds = [row["object"][name] for name in ("min_price", "max_price") if row["object"][name] is not None]
        assert bounds == sorted(bounds) and len(set(bounds)) == len(bounds)
        for bound in bounds:
            number = f"{bound:.2f}" if bound % 1 else str(bound)
            assert number in row["query"] or spelled.get(bound, number) in row["query"], row
    assert all(row["object"]["need"] == "transactional" for row in priced)


def test_requested_attributes_belong_to_the_product_type(intents: Rows):
    for row in intents:
        wants = row["object"]
        if wants["product_type"]:
            kind = TABLES.types[wants["product_type"]]
            assert wants["category"] == kind.category
            assert set(wants["attributes"]) <= set(kind.attributes)
            assert wants["brand"] is None or wants["brand"] in [brand.lower() for brand in kind.brands]


def test_every_category_has_prices_and_shelves_and_every_question_an_attribute():
    categories = {kind.category for kind in TABLES.types.values()}
    assert set(load_table("intents/prices")["ranges"]) == set(load_table("intents/shelves")) == categories
    shelves = load_table("intents/shelves").values()
    assert {name for shelf in shelves for name in shelf["attributes"]} <= set(TABLES.attributes)
    assert set(load_table("intents/questions")["attributes"]) <= set(TABLES.attributes)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_category_has_bound_phrases(split: str):
    bound_words: set[str] = set()
    for number in range(100):
        for category in load_table("intents/prices")["ranges"]:
            bound = price_bound(category, split, Random(number))
            assert bound.lowest is not None or bound.highest is not None
            assert bound.lowest is None or bound.highest is None or bound.lowest < bound.highest
            bound_words.add(bound.words)
    assert any("tops" in words for words in bound_words) == (split == "test")


@pytest.mark.slow
def test_constrained_decoding_admits_every_object(intents: Rows, schema: dict[str, Any]):
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    for row in intents[::20]:
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        tokens = tokenizer.tokenize_str(json.dumps(row["object"], ensure_ascii=False))
        assert matcher.try_consume_tokens(tokens) == len(tokens), row
        assert matcher.is_accepting()
