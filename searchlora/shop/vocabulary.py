"""What shoppers say and what the catalogue says, the dictionary a shop would have, and the rewriter made from it.

The dictionary is incomplete as a team's is: it lacks the words marked `unseen` in the tables, and gives an ambiguous
word one meaning only. Misspellings are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from searchlora.shop.tables import Tables, Words


def dictionary(tables: Tables) -> dict[str, str]:
    """Shopper's word or phrase -> catalogue term, in lower case.

    A word with several meanings has the first one: that of a product type's own words, then of an attribute, then of
    the first product type that calls it ambiguous. A catalogue term that contains a shopper's word ("bath mat")
    stands for itself, so that looking up the word inside it cannot spoil it.
    """
    entries: dict[str, str] = {}
    for word, term in _pairs(tables):
        entries.setdefault(word, term)
    for term in catalogue_terms(tables):
        if any(f" {word} " in f" {term} " for word in entries if word != term):
            entries[term] = term
    return dict(sorted(entries.items()))


def catalogue_terms(tables: Tables) -> list[str]:
    """Every name of a product type and every value of an attribute, once, in the order of the tables."""
    values = [value for attribute in tables.attributes.values() for value in attribute.values]
    return list(dict.fromkeys([*tables.types, *values]))


def known_words(tables: Tables) -> set[str]:
    """Every single word, catalogue's or shopper's, unseen ones and brands included; a misspelling must not be one."""
    phrases = [*catalogue_terms(tables), *(phrase for group in _all_words(tables) for phrase in group)]
    phrases += [phrase for kind in tables.types.values() for pair in kind.ambiguous for phrase in pair]
    phrases += [brand.lower() for kind in tables.types.values() for brand in kind.brands]
    return {word for phrase in phrases for word in phrase.split()}


def dictionary_rewrite(query: str, vocabulary: Mapping[str, str]) -> str:
    """Replace what the vocabulary knows, from left to right, the longest phrase first; the rest stays as it is.

    Args:
        query: Any text; compared in lower case and split at spaces.
        vocabulary: Lower-case word or phrase -> catalogue term, as in a shop's `vocabulary.json`.

    Example:
        >>> dictionary_rewrite("red kicks", {"red": "crimson", "kicks": "running shoes"})
        'crimson running shoes'
    """
    words = query.split()
    longest = max((phrase.count(" ") + 1 for phrase in vocabulary), default=0)
    rewritten: list[str] = []
    place = 0
    while place < len(words):
        for length in range(min(longest, len(words) - place), 0, -1):
            phrase = " ".join(words[place : place + length]).lower()
            if phrase in vocabulary:
                rewritten.append(vocabulary[phrase])
                place += length
                break
        else:
            rewritten.append(words[place])
            place += 1
    return " ".join(rewritten)


def _pairs(tables: Tables) -> Iterator[tuple[str, str]]:
    for name, kind in tables.types.items():
        yield from ((word, name) for word in kind.words.words)
    for attribute in tables.attributes.values():
        for value, words in attribute.values.items():
            yield from ((word, value) for word in words.words)
    for name, kind in tables.types.items():
        yield from ((word, name) for word, _ in kind.ambiguous)


def _all_words(tables: Tables) -> Iterator[list[str]]:
    groups: list[Words] = [kind.words for kind in tables.types.values()]
    groups += [words for attribute in tables.attributes.values() for words in attribute.values.values()]
    for group in groups:
        yield [*group.words, *group.unseen]
