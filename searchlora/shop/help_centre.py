"""The help centre: articles made from families of templates (`data_tables/help/`), with the questions they answer.

The articles of a family are alike but for what they are about and their figures: whoever is asked for one of them and
reads another has the wrong answer. A family is in one split only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from searchlora.shop.dealing import deal
from searchlora.shop.tables import load_table, table_names


@dataclass(frozen=True)
class Fact:
    """A sentence of an article.

    Args:
        number: Its place in the template; facts of one number in a family answer the same question.
        ask: Questions that stand alone.
        follow: Questions in a conversation about the article.
        answer: A sentence without its full stop.
    """

    number: int
    ask: Sequence[str]
    follow: Sequence[str]
    answer: str


@dataclass(frozen=True)
class Article:
    """An article.

    Args:
        facts: What it answers.
        unknown: Questions about its subject that no article answers.
    """

    id: str
    family: str
    split: str
    title: str
    text: str
    facts: Sequence[Fact]
    unknown: Sequence[str]

    @property
    def document(self) -> dict[str, str]:
        """As it stands in `articles.jsonl` and among the passages of a record."""
        return {"id": self.id, "title": self.title, "text": self.text}


def make_articles(seed: int) -> list[Article]:
    """All articles, in the order of the tables."""
    families = {name: raw for table in table_names("help") for name, raw in load_table(f"help/{table}").items()}
    dealt = deal(families, seed=f"{seed} help")
    splits = {name: split for split, names in dealt.items() for name in names}
    made = [article for name, raw in families.items() for article in _family(name, raw, splits[name], seed)]
    return [replace(article, id=f"h{number:03d}") for number, article in enumerate(made, start=1)]


def _family(name: str, raw: Mapping[str, Any], split: str, seed: int) -> Iterator[Article]:
    rng = Random(f"{seed} help {name}")
    drawn = {field: rng.sample(values, len(raw["articles"])) for field, values in raw.get("draws", {}).items()}
    for place, subject in enumerate(raw["articles"]):
        words = _with_capitals({**subject, **{field: values[place] for field, values in drawn.items()}})
        paragraphs = [" ".join(_said(fact, words, rng) for fact in facts) for facts in raw["paragraphs"]]
        yield Article(
            id="",
            family=name,
            split=split,
            title=_filled(raw["title"], words),
            text="\n\n".join(paragraphs),
            facts=list(_facts(raw, words)),
            unknown=[_filled(question, words) for question in raw["unknown"]],
        )


def _facts(raw: Mapping[str, Any], words: Mapping[str, str]) -> Iterator[Fact]:
    for number, fact in enumerate(fact for paragraph in raw["paragraphs"] for fact in paragraph):
        if "ask" in fact:
            yield Fact(
                number,
                [_filled(question, words) for question in fact["ask"]],
                [_filled(question, words) for question in fact["follow"]],
                _filled(fact["answer"], words),
            )


def _said(fact: Mapping[str, Any], words: Mapping[str, str], rng: Random) -> str:
    return _filled(rng.choice(fact["say"]), words)


def _filled(template: str, words: Mapping[str, str]) -> str:
    return template.format_map(words)


def _with_capitals(words: Mapping[str, Any]) -> dict[str, str]:
    """The words, and each under its name with a capital letter with one itself."""
    texts = {name: str(value) for name, value in words.items()}
    return {**texts, **{name.capitalize(): value[0].upper() + value[1:] for name, value in texts.items()}}
