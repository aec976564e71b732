"""How a noun is put into a sentence: with an article, in the plural, with a value before or behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from searchlora.shop.conversations import plural
from searchlora.shop.tables import load_table

#: A value that starts so stands behind the noun ("a torch with batteries").
TRAILS = ("for ", "with ", "without ", "in ", "to ", "beside ", "under ", "family of ", "runs ", "wont ", "blocks ")
_SOUNDS_LIKE_YOU = ("uk ", "us ", "usb", "u lock", "eu ", "one")
_SOUNDS_LIKE_A_VOWEL = ("8", "11", "18", "mtb", "xl", "xxl", "lpg", "hour")


def is_plural(noun: str) -> bool:
    """Whether a verb behind the noun has its plural form."""
    table = load_table("intents/questions")
    return noun not in table["singular"] and noun not in table["mass"] and plural(noun) == noun


def with_article(phrase: str, noun: str) -> str:
    """ "a down puffer", "an igloo tent", "kicks"; `noun` is the phrase without what was put before or behind it."""
    if is_plural(noun) or noun in load_table("intents/questions")["mass"]:
        return phrase
    vowel = phrase.startswith((*"aeiou", *_SOUNDS_LIKE_A_VOWEL)) and not phrase.startswith(_SOUNDS_LIKE_YOU)
    return f"{'an' if vowel else 'a'} {phrase}"


def in_plural(noun: str) -> str:
    """The plural, or the word itself where it has none."""
    table = load_table("intents/questions")
    if noun in table["mass"]:
        return noun
    return f"{noun}es" if noun in table["singular"] else plural(noun)


def with_value(value: str, noun: str) -> str:
    """The value before the noun, or behind it where it has a preposition."""
    return f"{noun} {value}" if value.startswith(TRAILS) else f"{value} {noun}"


def forms(noun: str, value: str | None) -> Mapping[str, str]:
    """What the templates of questions are filled with: `one`, `a`, `them`, `does`, `is`, and those with the value."""
    many = is_plural(noun)
    found = {
        "one": noun,
        "a": with_article(noun, noun),
        "them": in_plural(noun),
        "does": "do" if many else "does",
        "is": "are" if many else "is",
    }
    if value is not None:
        found["value_a"] = with_article(with_value(value, noun), noun)
        found["value_them"] = with_value(value, in_plural(noun))
    return found


def said(words: Sequence[str], unseen: Sequence[str], *, split: str) -> Sequence[str]:
    """The words that a split may use: in test, those that no other split has are there too."""
    return [*words, *unseen] if split == "test" else words
