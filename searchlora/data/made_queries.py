"""Queries made of documents by a rule: training data of an encoder for a collection that has no labels."""

from __future__ import annotations

import random

from searchlora.records import Document

#: The share of queries without the title, their words, and those beside a title, most often two, as names have.
_ALONE, _WORDS_ALONE, _WORDS_BESIDE_TITLE = 0.2, 6, (1, 2, 2, 2, 3)


def made_query(document: Document, seed: str) -> str:
    """A query made of a document: its title with one to three words of its text that stand together, as people add an
    actor or a brand to a title; for a fifth, and without a title, six words of the text alone.

    Args:
        seed: For the choice of the words; another seed makes another query.

    Returns:
        The query in lower case; empty for a document without words.

    Examples:
        >>> made_query(Document("1", "Sturdy and light, for two.", "Red tent"), "1")
        'red tent sturdy and'
    """
    chance = random.Random(f"{seed} {document.id}")
    words = document.text.split()
    alone = not document.title or chance.random() < _ALONE
    count = _WORDS_ALONE if alone else chance.choice(_WORDS_BESIDE_TITLE)
    first = chance.randrange(max(1, len(words) - count + 1))
    chosen = " ".join(words[first : first + count]).strip(".,;:()")
    return (chosen if alone else f"{document.title} {chosen}").strip().lower()
