"""Help centre of the shop: articles made from template families (`data_tables/help/`), and question answering records.

The articles of a family differ only in their subject and figures, so an answer from the wrong one is wrong. A family
belongs to one split only.

Kinds of record: `one` (one fact), `two` (two facts of an article), `two-passages` (the same fact of two articles),
`follow-up` (a question that depends on the conversation), and the unanswerable ones: `missing` (the answering article
is not among the passages, similar ones are) and `unknown` (the article is among the passages but does not say).

Every record has `PASSAGES` passages, all of its split; more than half of the records have an article similar to the
gold one among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from searchlora.shop.sampling import SPLITS, deal, draw_rows
from searchlora.shop.tables import load_table, table_names

ABSTENTION = "The passages do not answer this."

#: Passages per record.
PASSAGES = 4

#: One record for this many queries of the shop.
QUERIES_PER_RECORD = 6

#: Kind -> share of the records, in per cent.
SHARES = {"one": 38, "two": 14, "two-passages": 10, "follow-up": 13, "missing": 15, "unknown": 10}

_HASTY_TYPING = 0.3
_MISSING_IN_CONVERSATION = 0.25


@dataclass(frozen=True)
class Fact:
    """A fact stated by an article.

    Args:
        number: Its position in the template; facts of one number in a family answer the same question.
        ask: Stand-alone questions.
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
        facts: The facts it states, in template order.
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
        """The row of `articles.jsonl`, also used as a passage of a record."""
        return {"id": self.id, "title": self.title, "text": self.text}


def make_articles(seed: int) -> list[Article]:
    """All articles, in table order."""
    families = {name: raw for table in table_names("help") for name, raw in load_table(f"help/{table}").items()}
    dealt = deal(families, seed=f"{seed} help")
    splits = {name: split for split, names in dealt.items() for name in names}
    articles = [article for name, raw in families.items() for article in _family(name, raw, splits[name], seed)]
    return [replace(article, id=f"h{number:03d}") for number, article in enumerate(articles, start=1)]


def _family(name: str, raw: Mapping[str, Any], split: str, seed: int) -> Iterator[Article]:
    rng = Random(f"{seed} help {name}")
    drawn = {field: rng.sample(values, len(raw["articles"])) for field, values in raw.get("draws", {}).items()}
    for position, subject in enumerate(raw["articles"]):
        words = _with_capitals({**subject, **{field: values[position] for field, values in drawn.items()}})
        paragraphs = [
            " ".join(rng.choice(fact["say"]).format_map(words) for fact in facts) for facts in raw["paragraphs"]
        ]
        yield Article(
            id="",
            family=name,
            split=split,
            title=raw["title"].format_map(words),
            text="\n\n".join(paragraphs),
            facts=list(_facts(raw, words)),
            unknown=[question.format_map(words) for question in raw["unknown"]],
        )


def _facts(raw: Mapping[str, Any], words: Mapping[str, str]) -> Iterator[Fact]:
    for number, fact in enumerate(fact for paragraph in raw["paragraphs"] for fact in paragraph):
        if "ask" in fact:
            yield Fact(
                number,
                [question.format_map(words) for question in fact["ask"]],
                [question.format_map(words) for question in fact["follow"]],
                fact["answer"].format_map(words),
            )


def _with_capitals(words: Mapping[str, Any]) -> dict[str, str]:
    """The fields as text; `Name` is `name` with a capital first letter."""
    texts = {name: str(value) for name, value in words.items()}
    return {**texts, **{name.capitalize(): value[0].upper() + value[1:] for name, value in texts.items()}}


def make_answers(articles: Sequence[Article], *, queries: int, seed: int) -> list[dict[str, Any]]:
    """At most one row for every `QUERIES_PER_RECORD` queries, without ids, see `draw_rows`."""
    writer, total = AnswerWriter(articles), queries // QUERIES_PER_RECORD
    return draw_rows(writer.write, total, lambda _: SHARES, seed=f"{seed} answers ", query="question")


class AnswerWriter:
    """Writes records of one kind for one split."""

    def __init__(self, articles: Sequence[Article]) -> None:
        self._articles = {split: [article for article in articles if article.split == split] for split in SPLITS}

    def write(self, kind: str, split: str, rng: Random) -> list[dict[str, Any]]:
        """One record without its id, as a list."""
        article = rng.choice(self._articles[split])
        first, second = rng.sample(article.facts, 2)
        history: list[dict[str, str]] = []
        gold, answers = [article], [first.answer]
        if kind == "unknown":
            question, gold, answers = rng.choice(article.unknown), [], []
        elif kind == "two":
            question, answers = f"{rng.choice(first.ask)} {rng.choice(second.follow)}", [first.answer, second.answer]
        elif kind == "two-passages":
            other, same = self._similar(article, first, rng)
            question = _joined(rng.choice(first.ask), rng.choice(same.ask))
            gold, answers = [article, other], [first.answer, same.answer]
        elif kind == "follow-up" or (kind == "missing" and rng.random() < _MISSING_IN_CONVERSATION):
            question, history = rng.choice(first.follow), _turns(second, rng)
        else:
            question = rng.choice(first.ask)
        if kind == "missing":
            gold, answers = [], []
        passages = self._passages(article, gold, include=kind != "missing", rng=rng)
        positions = {passage.id: position for position, passage in enumerate(passages, start=1)}
        cited = [gold[0]] * len(answers) if len(gold) == 1 else gold
        row = {
            "group": article.family.replace(" ", "-"),
            "question": _typed(question, rng),
            "history": history,
            "passages": [passage.document for passage in passages],
            "answer": " ".join(
                f"{answer} [{positions[source.id]}]." for answer, source in zip(answers, cited, strict=True)
            )
            or ABSTENTION,
            "gold": [article.id for article in gold],
            "answerable": bool(gold),
            "split": split,
            "kind": kind,
        }
        return [row]

    def _similar(self, article: Article, fact: Fact, rng: Random) -> tuple[Article, Fact]:
        """Another article of the family, and its fact with the same number."""
        other = rng.choice([sibling for sibling in self._family(article) if sibling is not article])
        return other, next(same for same in other.facts if same.number == fact.number)

    def _passages(self, article: Article, gold: Sequence[Article], *, include: bool, rng: Random) -> list[Article]:
        """The gold articles, one or more of the same family, and others of the split, shuffled."""
        chosen = list(gold) or ([article] if include else [])
        family = [other for other in self._family(article) if other is not article and other not in chosen]
        like = rng.choice((1, 1, 2, 3)) + (
            not chosen
        )  # one more replaces the gold one; a lone one would give the case away
        chosen += rng.sample(family, min(len(family), like, PASSAGES - len(chosen)))
        others = [other for other in self._articles[article.split] if other.family != article.family]
        chosen += rng.sample(others, PASSAGES - len(chosen))
        rng.shuffle(chosen)
        return chosen

    def _family(self, article: Article) -> list[Article]:
        return [other for other in self._articles[article.split] if other.family == article.family]


def _turns(fact: Fact, rng: Random) -> list[dict[str, str]]:
    return [
        {"role": "user", "text": _typed(rng.choice(fact.ask), rng)},
        {"role": "assistant", "text": f"{fact.answer}."},
    ]


def _joined(first: str, second: str) -> str:
    """Two questions as one sentence."""
    rest = second if second.startswith("I ") else second[0].lower() + second[1:]
    return f"{first.rstrip('?')}, and {rest}"


def _typed(question: str, rng: Random) -> str:
    """The question, sometimes as it is typed in haste: lower case, no question mark."""
    if rng.random() >= _HASTY_TYPING:
        return question
    return question.lower().rstrip("?").replace("? and ", " and ").replace("? ", " and ")
