"""Stand-alone queries: what a shopper types, its rewrite in catalogue language, and keyboard misspellings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from searchlora.shop.catalogue import Product
from searchlora.shop.sampling import IDENTIFYING_FACTS, Need, Sampler
from searchlora.shop.tables import Attribute, Tables
from searchlora.shop.vocabulary import TRAILING_VALUES, known_words, pick_word

MAX_WORDS = 8

#: Kind -> probability of a shopper word for the product type, and for an attribute value.
SLANG = {
    "plain": (0.0, 0.0),
    "code": (0.9, 0.0),
    "slang": (0.85, 0.7),
    "misspelling": (0.6, 0.5),
    "unit": (0.8, 0.6),
    "ambiguous": (0.0, 0.6),
    "unseen-word": (0.5, 0.6),
}


def rewriting_row(
    need: Need,
    *,
    group: str,
    split: str,
    kind: str,
    query: str,
    rewrite: str,
    history: Sequence[Mapping[str, str]] = (),
    **more: object,
) -> dict[str, Any]:
    """A rewriting record without its id, and `need`, from which its judgments are made.

    Protected are the words of the query that the rewrite keeps and that no synonym can replace: brand, line, article
    number and every word with a digit in it.
    """
    names = {need.facts[name] for name in IDENTIFYING_FACTS if name in need.facts}
    unchanged = set(rewrite.split())
    protected = [
        word
        for word in query.split()
        if word in unchanged and (word in names or any(letter.isdigit() for letter in word))
    ]
    return {
        "need": need,
        "group": group,
        "query": query,
        "history": list(history),
        "rewrite": rewrite,
        "needs_rewrite": query != rewrite,
        "protected": protected,
        "split": split,
        "kind": kind,
        **more,
    }


@dataclass
class Piece:
    """A piece of a query.

    Args:
        words: The shopper's words.
        term: The catalogue term that replaces them in the rewrite; empty when nothing does.
        trails: It follows the product type.
        name: It is a proper name and is never misspelled.
    """

    words: str
    term: str
    trails: bool = False
    name: bool = False


class QueryWriter:
    """Writes stand-alone queries of one kind for one split.

    Attributes:
        typist: Source of the misspellings. Share it between the writers of a file, so that no misspelling of train
            occurs in another split.
    """

    def __init__(self, sampler: Sampler, tables: Tables) -> None:
        self._sampler = sampler
        self._tables = tables
        self.typist = Typist(known_words(tables))

    def write(self, kind: str, split: str, rng: Random) -> list[dict[str, Any]]:
        """One query as a list; an empty list when the draw yields no query of that kind and split."""
        product = self._sampler.product(split, rng)
        names = self._fact_names(kind, product, rng)
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
        if (query == rewrite) != (kind == "plain") or not 2 <= len(query.split()) <= MAX_WORDS:
            return []
        return [rewriting_row(need, group=product.family, split=split, kind=kind, query=query, rewrite=rewrite)]

    def _fact_names(self, kind: str, product: Product, rng: Random) -> list[str]:
        """The facts that the query names, in query order."""
        if kind == "code":
            return ["sku"]
        attributes = list(self._tables.types[product.type].attributes)
        names = rng.sample(attributes, min(len(attributes), rng.choices((1, 2, 3), weights=(30, 50, 20))[0]))
        if kind != "ambiguous" and rng.random() < 0.2:
            names = ["brand", "line", *names[:1]] if rng.random() < 0.3 else ["brand", *names[:2]]
        return names

    def _pieces(self, kind: str, product: Product, names: Sequence[str], rng: Random) -> list[Piece] | None:
        """The pieces in query order, or None when the product has no words of that kind."""
        special = self._special(kind, product, names, rng)
        if special is None:
            return None
        table = self._tables.types[product.type]
        slang_type, slang_value = SLANG[kind]
        head, cue = Piece(pick_word(table.words, table.name, slang_type, rng), table.name), ""
        if kind == "ambiguous":
            head.words, cue = rng.choice(table.ambiguous)
        elif special == "type":
            head.words = rng.choice(table.words.unseen)
        facts = [self._piece(product, name, slang_value, name == special, kind, rng) for name in names]
        pieces = [piece for piece in facts if not piece.trails] + [head] + [piece for piece in facts if piece.trails]
        return [*pieces, Piece(cue, "")] if cue else pieces

    def _special(self, kind: str, product: Product, names: Sequence[str], rng: Random) -> str | None:
        """The piece that defines the kind: "type", a fact, or "" for none; None when the kind is impossible here."""
        if kind == "ambiguous":
            return "type" if self._tables.types[product.type].ambiguous else None
        attributes = [name for name in names if name in self._tables.attributes]
        if kind == "unit":
            units = [name for name in attributes if self._tables.attributes[name].unit]
            return rng.choice(units) if units else None
        if kind == "unseen-word":
            return "type" if not attributes or rng.random() < 0.5 else rng.choice(attributes)
        return ""

    def _piece(self, product: Product, name: str, slang: float, special: bool, kind: str, rng: Random) -> Piece:
        value = product.facts[name]
        if name not in self._tables.attributes:
            return Piece(value, value, name=True)
        attribute = self._tables.attributes[name]
        words = attribute.values[value]
        if special:
            chosen = rng.choice(words.unseen if kind == "unseen-word" else words.words)
        else:
            chosen = pick_word(words, value, slang, rng)
        return Piece(chosen, value, trails=_trails(chosen, attribute, rng))

    def _misspell(self, pieces: Sequence[Piece], split: str, rng: Random) -> bool:
        """Put one or two typing errors into the pieces that are not names; False when no word can have one."""
        positions = [
            (piece, position)
            for piece in pieces
            if not piece.name
            for position, word in enumerate(piece.words.split())
            if can_misspell(word)
        ]
        if not positions:
            return False
        for piece, position in rng.sample(positions, min(len(positions), rng.choice((1, 1, 2)))):
            words = piece.words.split()
            wrong = self.typist.misspelling(words[position], split, rng)
            if wrong is None:
                return False
            words[position] = wrong
            piece.words = " ".join(words)
        return True

    def _with_fillers(self, query: str, rng: Random) -> str:
        if rng.random() < 0.15:
            return f"{rng.choice(self._tables.phrases['lead_ins'])} {query}"
        if rng.random() < 0.08:
            return f"{query} {rng.choice(self._tables.phrases['lead_outs'])}"
        return query


def _trails(words: str, attribute: Attribute, rng: Random) -> bool:
    """Whether these words follow the product type: always "for four people", often a measure or a size."""
    return words.startswith(TRAILING_VALUES) or (attribute.unit and rng.random() < 0.5)


#: Shortest word that can be misspelled: an error in a shorter one often yields another word.
MIN_MISSPELLED_LENGTH = 4

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """The neighbours of each key in its row and, shifted by about half a key, in the rows above and below."""
    neighbours: dict[str, set[str]] = {key: set() for row in _ROWS for key in row}
    for row in _ROWS:
        for left, right in pairwise(row):
            neighbours[left].add(right)
            neighbours[right].add(left)
    for upper, lower in pairwise(_ROWS):
        for column, key in enumerate(lower):
            for other in upper[column : column + 2]:
                neighbours[key].add(other)
                neighbours[other].add(key)
    return {key: "".join(sorted(keys)) for key, keys in neighbours.items()}


NEIGHBOURS = _neighbours()


def can_misspell(word: str) -> bool:
    """Whether a word can be misspelled: ASCII letters only, and at least `MIN_MISSPELLED_LENGTH` of them."""
    return len(word) >= MIN_MISSPELLED_LENGTH and word.isascii() and word.isalpha()


def misspell(word: str, rng: Random) -> str:
    """Put one typing error into `word`: a neighbouring key, or a dropped, doubled or swapped letter.

    The first letter stays; the result always differs from `word`.

    Args:
        word: At least `MIN_MISSPELLED_LENGTH` ASCII letters in lower case (see `can_misspell`).
    """
    while True:
        position = rng.randrange(1, len(word))
        error = rng.choices(("drop", "swap", "double", "neighbour"), weights=(30, 30, 15, 25))[0]
        if error == "drop":
            wrong = word[:position] + word[position + 1 :]
        elif error == "double":
            wrong = word[:position] + word[position] + word[position:]
        elif error == "neighbour":
            wrong = word[:position] + rng.choice(NEIGHBOURS[word[position]]) + word[position + 1 :]
        else:
            wrong = word[:position] + word[position : position + 2][::-1] + word[position + 2 :]
        if wrong != word:
            return wrong


class Typist:
    """Source of misspellings that are not words and, outside train, do not occur in train.

    Args:
        known: Words that a misspelling must not equal.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._trained_errors: set[str] = set()

    def misspelling(self, word: str, split: str, rng: Random) -> str | None:
        """A misspelling of a word that `can_misspell`, or None when the draw yields a forbidden one."""
        wrong = misspell(word, rng)
        if wrong in self._known or (split != "train" and wrong in self._trained_errors):
            return None
        if split == "train":
            self._trained_errors.add(wrong)
        return wrong

    def misspell_text(self, text: str, split: str, rng: Random, *, spared: Collection[str] = ()) -> str | None:
        """The text with one word misspelled, `spared` words excepted; None when the draw yields none."""
        words = text.split()
        positions = [position for position, word in enumerate(words) if can_misspell(word) and word not in spared]
        if not positions:
            return None
        position = rng.choice(positions)
        wrong = self.misspelling(words[position], split, rng)
        return None if wrong is None else " ".join([*words[:position], wrong, *words[position + 1 :]])
