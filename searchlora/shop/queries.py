"""Queries that stand alone: what a shopper types, and the same in the catalogue's language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from searchlora.shop.catalogue import Product
from searchlora.shop.misspelling import Typist, can_misspell
from searchlora.shop.needs import Draft, Sampler, draft
from searchlora.shop.tables import Attribute, Tables, Words
from searchlora.shop.vocabulary import known_words
from searchlora.shop.wording import TRAILS

MOST_WORDS = 8

#: Kind -> how often the product type, and an attribute, is said in a shopper's word and not the catalogue's.
SLANG = {
    "plain": (0.0, 0.0),
    "code": (0.9, 0.0),
    "slang": (0.85, 0.7),
    "misspelling": (0.6, 0.5),
    "unit": (0.8, 0.6),
    "ambiguous": (0.0, 0.6),
    "unseen-word": (0.5, 0.6),
}


@dataclass
class Said:
    """A piece of a query: the shopper's words, and the catalogue term that the rewrite has in their place."""

    words: str
    term: str
    trails: bool = False
    name: bool = False


class QueryWriter:
    """Writes queries of one kind for one split. Forms of misspellings that train saw are not used again elsewhere.

    Attributes:
        typist: Makes the misspellings; whoever misspells for the same file has to use it too.
    """

    def __init__(self, sampler: Sampler, tables: Tables) -> None:
        self._sampler = sampler
        self._tables = tables
        self.typist = Typist(known_words(tables))

    def write(self, kind: str, split: str, rng: Random) -> list[Draft]:
        """One query as a list, or none when this draw does not make a query of that kind and split."""
        product = self._sampler.product(split, rng)
        names = self._names(kind, product, rng)
        need = self._sampler.need(product, names, split)
        if need is None:
            return []
        pieces = self._pieces(kind, product, names, rng)
        if pieces is None or (kind == "misspelling" and not self._misspell(pieces, split, rng)):
            return []
        query = " ".join(piece.words for piece in pieces)
        rewrite = " ".join(piece.term for piece in pieces if piece.term)
        if kind not in ("plain", "code"):
            query = self._with_fillers(query, rng)
        if (query == rewrite) != (kind == "plain") or not 2 <= len(query.split()) <= MOST_WORDS:
            return []
        return [draft(need, group=product.family, split=split, kind=kind, query=query, rewrite=rewrite)]

    def _names(self, kind: str, product: Product, rng: Random) -> list[str]:
        """Which facts the query names, in the order in which they are said."""
        if kind == "code":
            return ["sku"]
        attributes = list(self._tables.types[product.type].attributes)
        names = rng.sample(attributes, min(len(attributes), rng.choices((1, 2, 3), weights=(30, 50, 20))[0]))
        if kind != "ambiguous" and rng.random() < 0.2:
            names = ["brand", "line", *names[:1]] if rng.random() < 0.3 else ["brand", *names[:2]]
        return names

    def _pieces(self, kind: str, product: Product, names: Sequence[str], rng: Random) -> list[Said] | None:
        """The pieces in the order of the query, or None where the product has no words of that kind."""
        special = self._special(kind, product, names, rng)
        if special is None:
            return None
        table = self._tables.types[product.type]
        of_type, of_value = SLANG[kind]
        head, cue = Said(_pick(table.words, table.name, of_type, rng), table.name), ""
        if kind == "ambiguous":
            head.words, cue = rng.choice(table.ambiguous)
        elif special == "type":
            head.words = rng.choice(table.words.unseen)
        said = [self._say(product, name, of_value, name == special, kind, rng) for name in names]
        pieces = [piece for piece in said if not piece.trails] + [head] + [piece for piece in said if piece.trails]
        return [*pieces, Said(cue, "")] if cue else pieces

    def _special(self, kind: str, product: Product, names: Sequence[str], rng: Random) -> str | None:
        """The one piece that makes the query one of its kind ("type", or a fact); None: it cannot be one."""
        if kind == "ambiguous":
            return "type" if self._tables.types[product.type].ambiguous else None
        attributes = [name for name in names if name in self._tables.attributes]
        if kind == "unit":
            units = [name for name in attributes if self._tables.attributes[name].unit]
            return rng.choice(units) if units else None
        if kind == "unseen-word":
            return "type" if not attributes or rng.random() < 0.5 else rng.choice(attributes)
        return ""

    def _say(self, product: Product, name: str, slang: float, special: bool, kind: str, rng: Random) -> Said:
        value = product.facts[name]
        if name not in self._tables.attributes:
            return Said(value, value, name=True)
        attribute = self._tables.attributes[name]
        words = attribute.values[value]
        if special:
            chosen = rng.choice(words.unseen if kind == "unseen-word" else words.words)
        else:
            chosen = _pick(words, value, slang, rng)
        return Said(chosen, value, trails=_trails(chosen, attribute, rng))

    def _misspell(self, pieces: Sequence[Said], split: str, rng: Random) -> bool:
        """One or two typing errors in the pieces that are no names; False where no word of them can have one."""
        places = [
            (piece, place)
            for piece in pieces
            if not piece.name
            for place, word in enumerate(piece.words.split())
            if can_misspell(word)
        ]
        if not places:
            return False
        for piece, place in rng.sample(places, min(len(places), rng.choice((1, 1, 2)))):
            words = piece.words.split()
            wrong = self.typist.wrong(words[place], split, rng)
            if wrong is None:
                return False
            words[place] = wrong
            piece.words = " ".join(words)
        return True

    def _with_fillers(self, query: str, rng: Random) -> str:
        if rng.random() < 0.15:
            return f"{rng.choice(self._tables.phrases['lead_ins'])} {query}"
        if rng.random() < 0.08:
            return f"{query} {rng.choice(self._tables.phrases['lead_outs'])}"
        return query


def _pick(words: Words, term: str, slang: float, rng: Random) -> str:
    return rng.choice(words.words) if rng.random() < slang else term


def _trails(words: str, attribute: Attribute, rng: Random) -> bool:
    """Whether these words stand behind the product: always "for four people", often a measure or a size."""
    return words.startswith(TRAILS) or (attribute.unit and rng.random() < 0.5)
