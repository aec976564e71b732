"""Query rewriting records of the shop: their kinds and shares, and the conversations among them.

The first turn of a conversation ("show me tents") is no record: a product type alone is too broad to be judged. Each
later turn is a record whose rewrite is the stand-alone query. It adds a fact, changes one, asks for another product
type with the same facts, or opens a new topic in catalogue language, which needs no rewrite.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from searchlora.shop.catalogue import Product
from searchlora.shop.queries import QueryWriter, rewriting_row
from searchlora.shop.sampling import Need, Sampler, draw_rows
from searchlora.shop.tables import Tables
from searchlora.shop.vocabulary import pick_word, plural

#: Kind -> share of the records, in per cent. In test, half of the share of "slang" goes to "unseen-word".
SHARES = {"plain": 15, "slang": 22, "misspelling": 20, "unit": 8, "ambiguous": 11, "code": 2, "conversation": 22}
TEST_SHARES = {**SHARES, "slang": 11, "unseen-word": 11}

#: Consecutive draws without a new record after which a catalogue counts as exhausted.
_PATIENCE = 20_000

#: Share of shopper words for the product type, and for an attribute value, in conversations.
_SLANG_TYPE, _SLANG_VALUE = 0.6, 0.7

_PREPOSITIONS = ("for ", "with ", "without ", "in ", "to ")


def make_rewriting(catalogue: Sequence[Product], tables: Tables, *, total: int, seed: int) -> list[dict[str, Any]]:
    """Make `total` rows of `queries.rewriting_row`, see `draw_rows`.

    Raises:
        DataError: if the catalogue is too small for that many different queries.
    """
    sampler = Sampler(catalogue, seed=seed)
    queries, conversations = QueryWriter(sampler, tables), ConversationWriter(sampler, tables)

    def write(kind: str, split: str, rng: Random) -> list[dict[str, Any]]:
        return (conversations if kind == "conversation" else queries).write(kind, split, rng)

    return draw_rows(
        write,
        total,
        lambda split: TEST_SHARES if split == "test" else SHARES,
        seed=f"{seed} ",
        patience=_PATIENCE,
        complete=True,
    )


class ConversationWriter:
    """Writes conversations all of whose needs belong to the requested split."""

    def __init__(self, sampler: Sampler, tables: Tables) -> None:
        self._sampler = sampler
        self._tables = tables

    def write(self, kind: str, split: str, rng: Random) -> list[dict[str, Any]]:
        """The records of one conversation, turns 2 and 3, in one group; an empty list when the draw yields none."""
        product = self._sampler.product(split, rng)
        first, second = rng.sample(list(self._tables.types[product.type].attributes), 2)
        need = self._sampler.need(product, [first], split)
        if need is None:
            return []
        history = self._opening(product, rng)
        query = self._follow(product, first, rng)
        common = {"group": product.family, "split": split, "kind": kind}
        rows = [rewriting_row(need, query=query, rewrite=_stand_alone(need), history=history, turn=2, **common)]
        history.append({"role": "user", "text": query})
        third = self._third(product, first, second, split, rng)
        if third is not None:
            need, query = third
            rows.append(rewriting_row(need, query=query, rewrite=_stand_alone(need), history=history, turn=3, **common))
        return rows

    def _opening(self, product: Product, rng: Random) -> list[dict[str, str]]:
        table = self._tables.types[product.type]
        word = pick_word(table.words, table.name, _SLANG_TYPE, rng)
        opener = rng.choice(self._tables.phrases["openers"]).format(word=word, plural=plural(word))
        history = [{"role": "user", "text": opener}]
        if rng.random() < 0.5:
            answer = rng.choice(self._tables.phrases["answers"]).format(plural=plural(table.name))
            history.append({"role": "assistant", "text": answer})
        return history

    def _third(self, product: Product, first: str, second: str, split: str, rng: Random) -> tuple[Need, str] | None:
        move = rng.choices((self._add, self._change, self._switch, self._new_topic), weights=(55, 15, 15, 15))[0]
        return move(product, first, second, split, rng)

    def _add(self, product: Product, first: str, second: str, split: str, rng: Random) -> tuple[Need, str] | None:
        need = self._sampler.need(product, [first, second], split)
        return (need, self._follow(product, second, rng)) if need else None

    def _change(self, product: Product, first: str, _: str, split: str, rng: Random) -> tuple[Need, str] | None:
        other = self._sampler.product_of_type(product.type, split, rng)
        if other is None or other.facts[first] == product.facts[first]:
            return None
        need = self._sampler.need(other, [first], split)
        words = self._word(other, first, rng)
        return (need, rng.choice(self._tables.phrases["changes"]).format(words)) if need else None

    def _switch(self, product: Product, first: str, _: str, split: str, rng: Random) -> tuple[Need, str] | None:
        category = self._tables.types[product.type].category
        kinds = [
            kind
            for kind in self._tables.types.values()
            if kind.name != product.type and kind.category == category and first in kind.attributes
        ]
        kind = rng.choice(kinds) if kinds else None
        other = self._sampler.product_of_type(kind.name, split, rng) if kind else None
        if kind is None or other is None or other.facts[first] != product.facts[first]:
            return None
        need = self._sampler.need(other, [first], split)
        word = pick_word(kind.words, kind.name, _SLANG_TYPE, rng)
        query = rng.choice(self._tables.phrases["switches"]).format(word=word, plural=plural(word))
        return (need, query) if need else None

    def _new_topic(self, product: Product, _: str, __: str, split: str, rng: Random) -> tuple[Need, str] | None:
        other = self._sampler.product(split, rng)
        names = rng.sample(list(self._tables.types[other.type].attributes), 2)
        need = self._sampler.need(other, names, split)
        return (need, _stand_alone(need)) if need and other.type != product.type else None

    def _follow(self, product: Product, name: str, rng: Random) -> str:
        words = self._word(product, name, rng)
        if words.startswith(_PREPOSITIONS):
            return words
        return rng.choice(self._tables.attributes[name].follow).format(words)

    def _word(self, product: Product, name: str, rng: Random) -> str:
        value = product.facts[name]
        return pick_word(self._tables.attributes[name].values[value], value, _SLANG_VALUE, rng)


def _stand_alone(need: Need) -> str:
    return " ".join([*need.facts.values(), need.type])
