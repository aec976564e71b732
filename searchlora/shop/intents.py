"""Intent records of the shop: queries with the object that states what the shopper wants.

Kinds of query, by which results can be sliced: the kinds of stand-alone rewriting queries (the same shopper words, here
with price bounds; a `code` is navigational), `known-item` (brand, line, number and type: one product page),
`shelf` (a whole category), `question` (about a product type), `policy` (about the shop), `page` and `brand-page`
(navigational) and `out-of-scope`.

In test only: unseen words, and pages, topics, questions of a product type and shelf requests that occur neither in
train nor in validation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from searchlora.shop.catalogue import Product
from searchlora.shop.queries import QueryWriter
from searchlora.shop.sampling import Need, Sampler, deal, draw_rows
from searchlora.shop.tables import Tables, load_table
from searchlora.shop.vocabulary import noun_forms, place_value, words_of_split

NAVIGATIONAL, INFORMATIONAL, TRANSACTIONAL = "navigational", "informational", "transactional"
OUT_OF_SCOPE = "out-of-scope"

#: Kind -> share of the rows, in per cent. The first kind takes what kinds with few different queries leave.
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


def make_intents(catalogue: Sequence[Product], tables: Tables, *, total: int, seed: int) -> list[dict[str, Any]]:
    """At most `total` rows without ids, see `draw_rows`; a small shop yields fewer."""
    return draw_rows(
        IntentWriter(catalogue, tables, seed=seed).write,
        total,
        lambda split: TEST_SHARES if split == "test" else SHARES,
        seed=f"{seed} intent ",
        rest=next(iter(SHARES)),
    )


class IntentWriter:
    """Writes rows of one kind for one split."""

    def __init__(self, catalogue: Sequence[Product], tables: Tables, *, seed: int) -> None:
        self._tables = tables
        self._sampler = Sampler(catalogue, seed=seed)
        self._queries = QueryWriter(self._sampler, tables)
        self._brand_words = {word for brand in tables.brands for word in brand.split()}
        pages = load_table("intents/pages")
        self._pages = pages["pages"]
        self._brand_pages = pages["brand pages"]
        self._policies = pages["policies"]
        self._elsewhere = load_table("intents/elsewhere")
        self._topics = {
            name: deal(topics, seed=f"{seed} {name}")
            for name, topics in (
                ("page", self._pages),
                ("policy", self._policies),
                ("out-of-scope", self._elsewhere["topics"]),
            )
        }
        self._writers: Mapping[str, Callable[[str, Random], dict[str, Any] | None]] = {
            "known-item": self._known_item,
            "shelf": self._shelf,
            "question": self._question,
            "policy": self._policy,
            "page": self._page,
            "brand-page": self._brand_page,
            "out-of-scope": self._out_of_scope,
        }

    def write(self, kind: str, split: str, rng: Random) -> list[dict[str, Any]]:
        """One row without its id as a list; an empty list when the draw yields none."""
        row = self._writers[kind](split, rng) if kind in self._writers else self._product(kind, split, rng)
        return [{**row, "split": split, "kind": kind}] if row else []

    def _product(self, kind: str, split: str, rng: Random) -> dict[str, Any] | None:
        rows = self._queries.write(kind, split, rng)
        if not rows:
            return None
        need, query = rows[0]["need"], rows[0]["query"]
        category = self._tables.types[need.type].category
        price = price_bound(category, split, rng) if kind != "code" and rng.random() < _PRICED else None
        target = intent(
            NAVIGATIONAL if kind == "code" else TRANSACTIONAL,
            self._tables,
            product_type=need.type,
            facts=need.facts,
            price=price,
        )
        return _row(rows[0]["group"], price.add_to(query, rng) if price else query, target)

    def _known_item(self, split: str, rng: Random) -> dict[str, Any]:
        product = self._sampler.product(split, rng)
        brand, line = product.facts["brand"], product.facts["line"]
        words = f"{brand} {line} {product.model} {self._noun(product.type, split, rng)}"
        target = intent(NAVIGATIONAL, self._tables, product_type=product.type, facts={"brand": brand})
        return _row(product.family, self._with_errors(words, split, rng), target)

    def _shelf(self, split: str, rng: Random) -> dict[str, Any] | None:
        category = rng.choice(self._tables.categories)
        shelf = load_table("intents/shelves")[category]
        words = rng.choice(words_of_split(shelf, split))
        facts: dict[str, str] = {}
        if rng.random() < 0.5:
            name = rng.choice(shelf["attributes"])
            value = rng.choice(list(self._tables.attributes[name].values))
            words = place_value(self._value(name, value, split, rng), words)
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
        words = self._with_errors(words, split, rng)
        target = intent(TRANSACTIONAL, self._tables, category=category, facts=facts, price=price)
        return _row(group, price.add_to(words, rng) if price else words, target)

    def _question(self, split: str, rng: Random) -> dict[str, Any] | None:
        kind = rng.choice(list(self._tables.types.values()))
        table = load_table("intents/questions")
        asked = [
            table["general"],
            *(table["attributes"][name] for name in kind.attributes if name in table["attributes"]),
        ]
        about = rng.choice([table["brand"], *asked, *asked])
        template = rng.choice(words_of_split(about, split))
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
        query = template.format(**noun_forms(self._noun(kind.name, split, rng), value), brand=facts.get("brand"))
        target = intent(INFORMATIONAL, self._tables, product_type=kind.name, facts=facts)
        return _row(f"question {kind.name} {template}", self._with_errors(query, split, rng), target)

    def _policy(self, split: str, rng: Random) -> dict[str, Any]:
        topic = rng.choice(self._topics["policy"][split])
        query = self._with_errors(rng.choice(self._policies[topic]), split, rng)
        return _row(f"policy {topic}", query, intent(INFORMATIONAL, self._tables))

    def _page(self, split: str, rng: Random) -> dict[str, Any]:
        page = rng.choice(self._topics["page"][split])
        query = self._with_errors(rng.choice(self._pages[page]), split, rng)
        return _row(f"page {page}", query, intent(NAVIGATIONAL, self._tables))

    def _brand_page(self, split: str, rng: Random) -> dict[str, Any] | None:
        brand, table = rng.choice(self._tables.brands), self._brand_pages
        template = rng.choice(words_of_split(table, split))
        group = f"brand page {brand}"
        if self._sampler.split_of(group) != split:
            return None
        query = self._with_errors(template.format(brand=brand), split, rng)
        return _row(group, query, intent(NAVIGATIONAL, self._tables, facts={"brand": brand}))

    def _out_of_scope(self, split: str, rng: Random) -> dict[str, Any]:
        topic = rng.choice(self._topics["out-of-scope"][split])
        words = {name: rng.sample(values, 2) for name, values in self._elsewhere["words"].items()}
        fillers = {name: pair[0] for name, pair in words.items()}
        fillers |= {f"{name}2": words[name][1] for name in ("city", "number")}
        query = rng.choice(self._elsewhere["topics"][topic]).format(**fillers)
        return _row(f"out of scope {topic}", self._with_errors(query, split, rng), intent(OUT_OF_SCOPE, self._tables))

    def _noun(self, product_type: str, split: str, rng: Random) -> str:
        words = self._tables.types[product_type].words
        return product_type if rng.random() < 0.3 else rng.choice(words_of_split(words, split))

    def _value(self, attribute: str, value: str, split: str, rng: Random) -> str:
        words = self._tables.attributes[attribute].values[value]
        return value if rng.random() < 0.4 else rng.choice(words_of_split(words, split))

    def _with_errors(self, query: str, split: str, rng: Random) -> str:
        """The query, sometimes with a typing error in a word that is not a brand."""
        if rng.random() >= _MISSPELLED:
            return query
        return self._queries.typist.misspell_text(query, split, rng, spared=self._brand_words) or query


def _row(group: object, query: str, target: Mapping[str, Any]) -> dict[str, Any]:
    return {"group": group, "query": query, "object": target}


def intent(
    need: str,
    tables: Tables,
    *,
    category: str | None = None,
    product_type: str | None = None,
    facts: Mapping[str, str] | None = None,
    price: PriceBound | None = None,
) -> dict[str, Any]:
    """An intent object with all fields, in schema order (constrained decoding writes them in that order).

    Args:
        need: One of the four kinds of need.
        category: A category of the taxonomy; ignored when `product_type` is set.
        facts: Brand and attributes; line and article number are dropped.
    """
    facts = facts or {}
    return {
        "need": need,
        "category": tables.types[product_type].category if product_type else category,
        "product_type": product_type,
        "brand": facts.get("brand"),
        "attributes": {name: facts[name] for name in tables.attributes if name in facts},
        "min_price": price.lowest if price else None,
        "max_price": price.highest if price else None,
    }


def intent_schema(tables: Tables) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of intent objects; it enumerates all names and values of the catalogue."""
    price = {"type": ["number", "null"], "minimum": 0}
    properties: dict[str, Any] = {
        "need": {
            "enum": [NAVIGATIONAL, INFORMATIONAL, TRANSACTIONAL, OUT_OF_SCOPE],
            "description": "go to a page or a known article, learn something, find products to buy, or nothing for us",
        },
        "category": {"enum": [*tables.categories, None]},
        "product_type": {"enum": [*tables.types, None]},
        "brand": {"enum": [*tables.brands, None]},
        "attributes": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: {"enum": list(table.values)} for name, table in tables.attributes.items()},
        },
        "min_price": price,
        "max_price": price,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What a shopper wants",
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


@dataclass(frozen=True)
class PriceBound:
    """A price bound.

    Args:
        words: In the shopper's words.
        marked: It names a currency, so it may precede the product.
        lowest, highest: In the currency of the shop; None for no bound.
    """

    words: str
    marked: bool
    lowest: float | None
    highest: float | None

    def add_to(self, query: str, rng: Random) -> str:
        """The query with the bound after it, or sometimes before it."""
        return f"{self.words} {query}" if self.marked and rng.random() < 0.15 else f"{query} {self.words}"


def price_bound(category: str, split: str, rng: Random) -> PriceBound:
    """A price bound in the range of a category: mostly an upper one, else a lower one or both."""
    table = load_table("intents/prices")
    kind = rng.choices(("most", "least", "between"), weights=(65, 12, 23))[0]
    amounts = sorted(_distinct_amounts(*table["ranges"][category], count=1 + (kind == "between"), rng=rng))
    template = rng.choice(words_of_split(table[kind], split))
    marked = rng.random() < 0.6
    form = rng.choice(
        words_of_split({"words": table["amounts"]["marked"], "unseen": table["amounts"]["unseen"]}, split)
    )
    if not marked or template == "{}-{}":
        form = table["amounts"]["bare"]
    spelled = table["spelled"] if form.startswith("{}") and template != "{}-{}" else {}
    words = template.format(*(form.format(_in_words(amount, spelled, rng)) for amount in amounts))
    lowest = amounts[0] if kind != "most" else None
    highest = amounts[-1] if kind != "least" else None
    return PriceBound(words, form != table["amounts"]["bare"], lowest, highest)


def _distinct_amounts(low: int, high: int, *, count: int, rng: Random) -> list[float]:
    """Different round amounts, the larger the rounder; about one in twenty ends in .99."""
    steps = [amount for amount in range(low, high + 1, 5) if amount % _roundness(amount) == 0]
    amounts: list[float] = list(rng.sample(steps, count))
    return [amount - 0.01 if rng.random() < 0.05 else amount for amount in amounts]


def _roundness(amount: int) -> int:
    return 5 if amount < 60 else 10 if amount < 200 else 50


def _in_words(amount: float, spelled: Mapping[int, str], rng: Random) -> str:
    if amount in spelled and rng.random() < 0.1:
        return spelled[int(amount)]
    return f"{amount:.2f}" if amount % 1 else str(int(amount))
