"""Short conversations: a request, then turns that mean something only after it.

The first turn ("show me tents") is no record: a product type alone is too broad to be judged. Each later turn is one,
with the stand-alone query as its rewrite: it adds a fact, changes one, asks for another product type with the same
facts, or opens a new topic in the catalogue's language, which is to be left alone.
"""

from __future__ import annotations

from random import Random

from searchlora.shop.catalogue import Product
from searchlora.shop.needs import Draft, Need, Sampler, draft
from searchlora.shop.tables import Tables, Words

_PREPOSITIONS = ("for ", "with ", "without ", "in ", "to ")


class ConversationWriter:
    """Writes conversations whose every need is in the split asked for."""

    def __init__(self, sampler: Sampler, tables: Tables) -> None:
        self._sampler = sampler
        self._tables = tables

    def write(self, kind: str, split: str, rng: Random) -> list[Draft]:
        """The records of one conversation, turns 2 and 3, in one group; none when this draw does not make one."""
        product = self._sampler.product(split, rng)
        first, second = rng.sample(list(self._tables.types[product.type].attributes), 2)
        need = self._sampler.need(product, [first], split)
        if need is None:
            return []
        history = self._opening(product, rng)
        query = self._follow(product, first, rng)
        common = {"group": product.family, "split": split, "kind": kind}
        drafts = [draft(need, query=query, rewrite=_stand_alone(need), history=list(history), turn=2, **common)]
        history.append({"role": "user", "text": query})
        third = self._third(product, first, second, split, rng)
        if third is not None:
            need, query = third
            drafts.append(draft(need, query=query, rewrite=_stand_alone(need), history=history, turn=3, **common))
        return drafts

    def _opening(self, product: Product, rng: Random) -> list[dict[str, str]]:
        table = self._tables.types[product.type]
        word = _pick(table.words, table.name, 0.6, rng)
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
        here = self._tables.types[product.type].category
        kinds = [
            kind
            for kind in self._tables.types.values()
            if kind.name != product.type and kind.category == here and first in kind.attributes
        ]
        kind = rng.choice(kinds) if kinds else None
        other = self._sampler.product_of_type(kind.name, split, rng) if kind else None
        if kind is None or other is None or other.facts[first] != product.facts[first]:
            return None
        need = self._sampler.need(other, [first], split)
        word = _pick(kind.words, kind.name, 0.6, rng)
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
        return _pick(self._tables.attributes[name].values[value], value, 0.7, rng)


def plural(words: str) -> str:
    """The regular English plural of the last word; a word that ends in one s is taken to be one already."""
    if words.endswith("s") and not words.endswith("ss"):
        return words
    if words.endswith(("ch", "sh", "x", "ss")):
        return f"{words}es"
    if words.endswith("y") and words[-2] not in "aeiou":
        return f"{words[:-1]}ies"
    if words.endswith("fe"):
        return f"{words[:-2]}ves"
    return f"{words}s"


def _stand_alone(need: Need) -> str:
    return " ".join([*need.facts.values(), need.type])


def _pick(words: Words, term: str, slang: float, rng: Random) -> str:
    return rng.choice(words.words) if rng.random() < slang else term
