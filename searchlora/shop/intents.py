"""Records of the intent task: what a shopper types, and the object that says what is wanted (`intent_objects`).

Kinds, by which results can be sliced: those of rewriting for queries that stand alone (the same shoppers' words, here
with price bounds; a `code` is navigational), `known-item` (brand, line, number and type: the shopper wants that page),
`shelf` (a whole category), `question` (about a kind of product), `policy` (about the shop), `page` and `brand-page`
(navigational) and `out-of-scope`.

In test only: the words marked unseen, and pages, topics, questions of a product type and shelf requests that neither
train nor validation has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any

from searchlora.shop.catalogue import Catalogue
from searchlora.shop.dealing import SPLITS, deal, distinct, portions
from searchlora.shop.intent_objects import INFORMATIONAL, NAVIGATIONAL, OUT_OF_SCOPE, TRANSACTIONAL, intent
from searchlora.shop.needs import Need, Sampler
from searchlora.shop.prices import price_bound
from searchlora.shop.queries import QueryWriter
from searchlora.shop.tables import Tables, load_table
from searchlora.shop.wording import forms, said, with_value

#: Kind -> share of the rows, in per cent. What a kind with few different queries cannot fill goes to the first.
SHARES = {
    "slang": 14,
    "plain": 8,
    "misspelling": 13,
    "unit": 6,
    "ambiguous": 8,
    "code": 2,
    "known-item": 5,
    "shelf": 9,
    "question": 13,
    "policy": 3,
    "page": 6,
    "brand-page": 3,
    "out-of-scope": 10,
}
TEST_SHARES = {**SHARES, "slang": 7, "unseen-word": 7}

_PRICED = 0.35
_MISSPELLED = 0.12


def make_intents(catalogue: Catalogue, tables: Tables, *, total: int, seed: int) -> list[dict[str, Any]]:
    """At most `total` rows without ids, train first, then validation, then test, mixed within each.

    No two show the same words. There are fewer where a small shop has no more different queries.
    """
    writer = IntentWriter(catalogue, tables, seed=seed)
    seen: set[tuple[str, ...]] = set()
    rows: list[dict[str, Any]] = []
    for split, count in portions(total, SPLITS).items():
        rng = Random(f"{seed} intent {split}")
        mixed: list[dict[str, Any]] = []
        quotas = portions(count, TEST_SHARES if split == "test" else SHARES)
        first, *others = quotas
        for kind in [*others, first]:
            quota = quotas[kind] if kind != first else count - len(mixed)
            mixed += distinct(partial(writer.write, kind, split, rng), quota, seen)
        rng.shuffle(mixed)
        rows += mixed
    return rows


class IntentWriter:
    """Writes rows of one kind for one split."""

    def __init__(self, catalogue: Catalogue, tables: Tables, *, seed: int) -> None:
        self._tables = tables
        self._sampler = Sampler(catalogue, tables, seed=seed)
        self._queries = QueryWriter(self._sampler, tables)
        self._categories = list(dict.fromkeys(kind.category for kind in tables.types.values()))
        self._brands = sorted({brand.lower() for kind in tables.types.values() for brand in kind.brands})
        self._brand_words = {word for brand in self._brands for word in brand.split()}
        pages = load_table("intents/pages")
        self._pages = pages["pages"]
        self._brand_pages = pages["brand pages"]
        self._policies = pages["policies"]
        self._elsewhere = load_table("intents/elsewhere")
        self._dealt = {
            name: deal(topics, seed=f"{seed} {name}")
            for name, topics in (
                ("page", self._pages),
                ("policy", self._policies),
                ("out-of-scope", self._elsewhere["topics"]),
            )
        }
        self._others: Mapping[str, Callable[[str, Random], dict[str, Any] | None]] = {
            "known-item": self._known_item,
            "shelf": self._shelf,
            "question": self._question,
            "policy": self._policy,
            "page": self._page,
            "brand-page": self._brand_page,
            "out-of-scope": self._out_of_scope,
        }

    def write(self, kind: str, split: str, rng: Random) -> dict[str, Any] | None:
        """One row without its id, or None where this draw does not make one."""
        row = self._others[kind](split, rng) if kind in self._others else self._product(kind, split, rng)
        return {**row, "split": split, "kind": kind} if row else None

    def _product(self, kind: str, split: str, rng: Random) -> dict[str, Any] | None:
        drafts = self._queries.write(kind, split, rng)
        if not drafts:
            return None
        need, query = drafts[0].need, str(drafts[0].fields["query"])
        category = self._tables.types[need.type].category
        price = price_bound(category, split, rng) if kind != "code" and rng.random() < _PRICED else None
        wants = intent(
            NAVIGATIONAL if kind == "code" else TRANSACTIONAL,
            self._tables,
            product_type=need.type,
            facts=need.facts,
            price=price,
        )
        return _row(drafts[0].fields["group"], price.said_with(query, rng) if price else query, wants)

    def _known_item(self, split: str, rng: Random) -> dict[str, Any]:
        product = self._sampler.product(split, rng)
        brand, line = product.facts["brand"], product.facts["line"]
        words = f"{brand} {line} {product.model} {self._noun(product.type, split, rng)}"
        wants = intent(NAVIGATIONAL, self._tables, product_type=product.type, facts={"brand": brand})
        return _row(product.family, self._typed(words, split, rng), wants)

    def _shelf(self, split: str, rng: Random) -> dict[str, Any] | None:
        category = rng.choice(self._categories)
        shelf = load_table("intents/shelves")[category]
        words = rng.choice(said(shelf["words"], shelf["unseen"], split=split))
        facts: dict[str, str] = {}
        if rng.random() < 0.5:
            name = rng.choice(shelf["attributes"])
            value = rng.choice(list(self._tables.attributes[name].values))
            words = with_value(self._value(name, value, split, rng), words)
            facts[name] = value
        if rng.random() < 0.25:
            brands = next(kind.brands for kind in self._tables.types.values() if kind.category == category)
            facts["brand"] = rng.choice(brands).lower()
            words = f"{facts['brand']} {words}"
        group = f"shelf {category} {sorted(facts.items())}"
        if self._sampler.split_of(group) != split:
            return None
        if rng.random() < 0.2:
            words = f"{rng.choice(self._tables.phrases['lead_ins'])} {words}"
        price = price_bound(category, split, rng) if rng.random() < _PRICED else None
        words = self._typed(words, split, rng)
        wants = intent(TRANSACTIONAL, self._tables, category=category, facts=facts, price=price)
        return _row(group, price.said_with(words, rng) if price else words, wants)

    def _question(self, split: str, rng: Random) -> dict[str, Any] | None:
        kind = rng.choice(list(self._tables.types.values()))
        table = load_table("intents/questions")
        asked = [
            table["general"],
            *(table["attributes"][name] for name in kind.attributes if name in table["attributes"]),
        ]
        about = rng.choice([table["brand"], *asked, *asked])
        template = rng.choice(said(about["words"], about["unseen"], split=split))
        if self._sampler.split_of(f"{kind.name} {template}") != split:
            return None
        facts: dict[str, str] = {}
        value = None
        if "{value" in template:
            name = next(name for name in kind.attributes if table["attributes"].get(name) is about)
            facts[name] = rng.choice(list(self._tables.attributes[name].values))
            value = self._value(name, facts[name], split, rng)
            if self._sampler.split_of(Need(kind.name, facts).combination) != split:
                return None
        if "{brand}" in template:
            facts["brand"] = rng.choice(kind.brands).lower()
        query = template.format(**forms(self._noun(kind.name, split, rng), value), brand=facts.get("brand"))
        wants = intent(INFORMATIONAL, self._tables, product_type=kind.name, facts=facts)
        return _row(f"question {kind.name} {template}", self._typed(query, split, rng), wants)

    def _policy(self, split: str, rng: Random) -> dict[str, Any]:
        topic = rng.choice(self._dealt["policy"][split])
        query = self._typed(rng.choice(self._policies[topic]), split, rng)
        return _row(f"policy {topic}", query, intent(INFORMATIONAL, self._tables))

    def _page(self, split: str, rng: Random) -> dict[str, Any]:
        page = rng.choice(self._dealt["page"][split])
        query = self._typed(rng.choice(self._pages[page]), split, rng)
        return _row(f"page {page}", query, intent(NAVIGATIONAL, self._tables))

    def _brand_page(self, split: str, rng: Random) -> dict[str, Any] | None:
        brand, table = rng.choice(self._brands), self._brand_pages
        template = rng.choice(said(table["words"], table["unseen"], split=split))
        group = f"brand page {brand}"
        if self._sampler.split_of(group) != split:
            return None
        query = self._typed(template.format(brand=brand), split, rng)
        return _row(group, query, intent(NAVIGATIONAL, self._tables, facts={"brand": brand}))

    def _out_of_scope(self, split: str, rng: Random) -> dict[str, Any]:
        topic = rng.choice(self._dealt["out-of-scope"][split])
        words = {name: rng.sample(values, 2) for name, values in self._elsewhere["words"].items()}
        fillers = {name: pair[0] for name, pair in words.items()}
        fillers |= {f"{name}2": words[name][1] for name in ("city", "number")}
        query = rng.choice(self._elsewhere["topics"][topic]).format(**fillers)
        return _row(f"out of scope {topic}", self._typed(query, split, rng), intent(OUT_OF_SCOPE, self._tables))

    def _noun(self, product_type: str, split: str, rng: Random) -> str:
        words = self._tables.types[product_type].words
        return product_type if rng.random() < 0.3 else rng.choice(said(words.words, words.unseen, split=split))

    def _value(self, attribute: str, value: str, split: str, rng: Random) -> str:
        words = self._tables.attributes[attribute].values[value]
        return value if rng.random() < 0.4 else rng.choice(said(words.words, words.unseen, split=split))

    def _typed(self, query: str, split: str, rng: Random) -> str:
        """The query, now and then with a typing error in a word that is no brand."""
        if rng.random() >= _MISSPELLED:
            return query
        return self._queries.typist.text_with_error(query, split, rng, spared=self._brand_words) or query


def _row(group: object, query: str, wants: Mapping[str, Any]) -> dict[str, Any]:
    return {"group": group, "query": query, "object": wants}
