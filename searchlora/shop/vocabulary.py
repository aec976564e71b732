"""Shopper vocabulary: the dictionary of the shop, dictionary rewriting, and the grammar of product nouns.

The dictionary is as incomplete as that of a real team: it lacks the words marked `unseen` in the tables, gives an
ambiguous word one meaning only, and holds no misspellings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from searchlora.shop.tables import Tables, Words, load_table

#: A value that starts with one of these follows the noun ("a torch with batteries").
TRAILING_VALUES = (
    *("for ", "with ", "without ", "in ", "to ", "beside ", "under "),
    *("family of ", "runs ", "wont ", "blocks "),
)
_SOUNDS_LIKE_YOU = ("uk ", "us ", "usb", "u lock", "eu ", "one")
_SOUNDS_LIKE_A_VOWEL = ("8", "11", "18", "mtb", "xl", "xxl", "lpg", "hour")


def dictionary(tables: Tables) -> dict[str, str]:
    """Map each shopper word or phrase to its catalogue term, in lower case.

    An ambiguous word keeps its first meaning: the words of product types come first, then those of attributes, then
    the words that product types list as ambiguous. A catalogue term that contains a shopper word ("bath mat") maps to
    itself, so that a look-up of the inner word cannot change it.
    """
    entries: dict[str, str] = {}
    for word, term in _word_term_pairs(tables):
        entries.setdefault(word, term)
    for term in catalogue_terms(tables):
        if any(f" {word} " in f" {term} " for word in entries if word != term):
            entries[term] = term
    return dict(sorted(entries.items()))


def catalogue_terms(tables: Tables) -> list[str]:
    """All product type names and attribute values, each once, in table order."""
    values = [value for attribute in tables.attributes.values() for value in attribute.values]
    return list(dict.fromkeys([*tables.types, *values]))


def known_words(tables: Tables) -> set[str]:
    """All single words of the catalogue and of shoppers, unseen words and brands included.

    A misspelling must not be one of them.
    """
    phrases = [*catalogue_terms(tables), *(phrase for group in _all_words(tables) for phrase in group)]
    phrases += [phrase for kind in tables.types.values() for pair in kind.ambiguous for phrase in pair]
    phrases += [brand.lower() for kind in tables.types.values() for brand in kind.brands]
    return {word for phrase in phrases for word in phrase.split()}


def dictionary_rewrite(query: str, vocabulary: Mapping[str, str]) -> str:
    """Replace each phrase that the vocabulary holds, from left to right, longest match first.

    Args:
        query: Any text; compared in lower case and split at white space. Other words stay unchanged.
        vocabulary: Lower-case word or phrase -> catalogue term, as in a shop's `vocabulary.json`.

    Examples:
        >>> dictionary_rewrite("red kicks", {"red": "crimson", "kicks": "running shoes"})
        'crimson running shoes'
        >>> dictionary_rewrite("Bath Mat", {"mat": "rug", "bath mat": "bath mat"})
        'bath mat'
    """
    words = query.split()
    longest = max((phrase.count(" ") + 1 for phrase in vocabulary), default=0)
    rewritten: list[str] = []
    position = 0
    while position < len(words):
        for length in range(min(longest, len(words) - position), 0, -1):
            phrase = " ".join(words[position : position + length]).lower()
            if phrase in vocabulary:
                rewritten.append(vocabulary[phrase])
                position += length
                break
        else:
            rewritten.append(words[position])
            position += 1
    return " ".join(rewritten)


def pick_word(words: Words, term: str, slang: float, rng: Random) -> str:
    """A shopper word with probability `slang`, else the catalogue term."""
    return rng.choice(words.words) if rng.random() < slang else term


def words_of_split(words: Words | Mapping[str, Sequence[str]], split: str) -> Sequence[str]:
    """The words that a split may use: the unseen words occur in test only."""
    seen, unseen = (words.words, words.unseen) if isinstance(words, Words) else (words["words"], words["unseen"])
    return [*seen, *unseen] if split == "test" else seen


def plural(words: str) -> str:
    """The regular English plural of the last word; a word that ends in a single s counts as plural already."""
    if words.endswith("s") and not words.endswith("ss"):
        return words
    if words.endswith(("ch", "sh", "x", "ss")):
        return f"{words}es"
    if words.endswith("y") and words[-2] not in "aeiou":
        return f"{words[:-1]}ies"
    if words.endswith("fe"):
        return f"{words[:-2]}ves"
    return f"{words}s"


def place_value(value: str, noun: str) -> str:
    """The value before the noun, or after it when it starts with a preposition."""
    return f"{noun} {value}" if value.startswith(TRAILING_VALUES) else f"{value} {noun}"


def noun_forms(noun: str, value: str | None) -> Mapping[str, str]:
    """The fields of a question template: `one`, `a`, `them`, `does`, `is`, and `value_a`, `value_them` with a value."""
    many = _is_plural(noun)
    fields = {
        "one": noun,
        "a": _with_article(noun, noun),
        "them": _in_plural(noun),
        "does": "do" if many else "does",
        "is": "are" if many else "is",
    }
    if value is not None:
        fields["value_a"] = _with_article(place_value(value, noun), noun)
        fields["value_them"] = place_value(value, _in_plural(noun))
    return fields


def _is_plural(noun: str) -> bool:
    table = load_table("intents/questions")
    return noun not in table["singular"] and noun not in table["mass"] and plural(noun) == noun


def _with_article(phrase: str, noun: str) -> str:
    """ "a down puffer", "an igloo tent", "kicks"; `noun` is the phrase without its value."""
    if _is_plural(noun) or noun in load_table("intents/questions")["mass"]:
        return phrase
    vowel = phrase.startswith((*"aeiou", *_SOUNDS_LIKE_A_VOWEL)) and not phrase.startswith(_SOUNDS_LIKE_YOU)
    return f"{'an' if vowel else 'a'} {phrase}"


def _in_plural(noun: str) -> str:
    """The plural; a mass noun stays as it is."""
    table = load_table("intents/questions")
    if noun in table["mass"]:
        return noun
    return f"{noun}es" if noun in table["singular"] else plural(noun)


def _word_term_pairs(tables: Tables) -> Iterator[tuple[str, str]]:
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
