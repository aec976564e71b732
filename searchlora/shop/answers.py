"""Records of the rag_answer task: a question, passages from the help centre, and the answer that cites them.

Kinds: `one` (one fact), `two` (two facts of an article), `two-passages` (the same fact of two articles), `follow-up`
(a question that means something only after the conversation before it), and the unanswerable ones: `missing` (the
article that answers is not among the passages, its like are) and `unknown` (its own article is, but does not say).

Every record has the same number of passages, all of its split. Half of the records and more have articles beside the
gold one that are its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from searchlora.shop.dealing import SPLITS, distinct, portions
from searchlora.shop.help_centre import Article, Fact

ABSTENTION = "The passages do not answer this."

#: Passages of each record.
PASSAGES = 4

#: One record for so many queries of the shop.
QUERIES_PER_RECORD = 6

#: Kind -> share of the records, in per cent.
SHARES = {"one": 38, "two": 14, "two-passages": 10, "follow-up": 13, "missing": 15, "unknown": 10}

_PLAIN_TYPING = 0.3
_MISSING_IN_CONVERSATION = 0.25


def make_answers(articles: Sequence[Article], *, queries: int, seed: int) -> list[dict[str, Any]]:
    """At most one row without its id for every `QUERIES_PER_RECORD` queries, train first; no question twice."""
    writer = AnswerWriter(articles)
    rows: list[dict[str, Any]] = []
    for split, count in portions(queries // QUERIES_PER_RECORD, SPLITS).items():
        rng = Random(f"{seed} answers {split}")
        seen: set[tuple[str, ...]] = set()
        mixed: list[dict[str, Any]] = []
        for kind, quota in portions(count, SHARES).items():
            mixed += distinct(partial(writer.write, kind, split, rng), quota, seen, shown=_shown)
        rng.shuffle(mixed)
        rows += mixed
    return rows


class AnswerWriter:
    """Writes records of one kind for one split."""

    def __init__(self, articles: Sequence[Article]) -> None:
        self._articles = {split: [article for article in articles if article.split == split] for split in SPLITS}

    def write(self, kind: str, split: str, rng: Random) -> dict[str, Any]:
        """One record without its id."""
        article = rng.choice(self._articles[split])
        first, second = rng.sample(article.facts, 2)
        history: list[dict[str, str]] = []
        gold, answers = [article], [first.answer]
        if kind == "unknown":
            question, gold, answers = rng.choice(article.unknown), [], []
        elif kind == "two":
            question, answers = f"{rng.choice(first.ask)} {rng.choice(second.follow)}", [first.answer, second.answer]
        elif kind == "two-passages":
            other, same = self._like(article, first, rng)
            question = _joined(rng.choice(first.ask), rng.choice(same.ask))
            gold, answers = [article, other], [first.answer, same.answer]
        elif kind == "follow-up" or (kind == "missing" and rng.random() < _MISSING_IN_CONVERSATION):
            question, history = rng.choice(first.follow), _turns(second, rng)
        else:
            question = rng.choice(first.ask)
        if kind == "missing":
            gold, answers = [], []
        passages = self._passages(article, gold, with_it=kind != "missing", rng=rng)
        places = {passage.id: place for place, passage in enumerate(passages, start=1)}
        cited = [gold[0]] * len(answers) if len(gold) == 1 else gold
        return {
            "group": article.family.replace(" ", "-"),
            "question": _typed(question, rng),
            "history": history,
            "passages": [passage.document for passage in passages],
            "answer": " ".join(f"{answer} [{places[each.id]}]." for answer, each in zip(answers, cited, strict=True))
            or ABSTENTION,
            "gold": [each.id for each in gold],
            "answerable": bool(gold),
            "split": split,
            "kind": kind,
        }

    def _like(self, article: Article, fact: Fact, rng: Random) -> tuple[Article, Fact]:
        """Another article of the family, and what it says in the place of a fact."""
        other = rng.choice([each for each in self._family(article) if each is not article])
        return other, next(each for each in other.facts if each.number == fact.number)

    def _passages(self, article: Article, gold: Sequence[Article], *, with_it: bool, rng: Random) -> list[Article]:
        """The gold articles, one or more of the same family, and others of the split, in any order."""
        chosen = list(gold) or ([article] if with_it else [])
        family = [each for each in self._family(article) if each is not article and each not in chosen]
        like = rng.choice((1, 1, 2, 3)) + (not chosen)  # one more in the place of a gold one, or a lone one would tell
        chosen += rng.sample(family, min(len(family), like, PASSAGES - len(chosen)))
        others = [each for each in self._articles[article.split] if each.family != article.family]
        chosen += rng.sample(others, PASSAGES - len(chosen))
        rng.shuffle(chosen)
        return chosen

    def _family(self, article: Article) -> list[Article]:
        return [each for each in self._articles[article.split] if each.family == article.family]


def _turns(fact: Fact, rng: Random) -> list[dict[str, str]]:
    return [
        {"role": "user", "text": _typed(rng.choice(fact.ask), rng)},
        {"role": "assistant", "text": f"{fact.answer}."},
    ]


def _joined(first: str, second: str) -> str:
    """Two questions as one."""
    rest = second if second.startswith("I ") else second[0].lower() + second[1:]
    return f"{first.rstrip('?')}, and {rest}"


def _typed(question: str, rng: Random) -> str:
    """The question, now and then as it is typed in haste."""
    if rng.random() >= _PLAIN_TYPING:
        return question
    return question.lower().rstrip("?").replace("? and ", " and ").replace("? ", " and ")


def _shown(row: dict[str, Any]) -> str:
    return " ".join([*(turn["text"] for turn in row["history"]), row["question"]])
