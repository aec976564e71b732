"""Candidate rewrites that need no model, for `searchlora improve`, and the protected words that each must keep.

Reducing a verbose query by a word or two is the classic rule of query reduction (Kumaran and Carvalho, "Reducing Long
Queries Using Query Quality Predictors", SIGIR 2009).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from searchlora.eval.text_identity import words
from searchlora.records import Record
from searchlora.retrieval.analysis import ENGLISH
from searchlora.retrieval.feedback import plain_title
from searchlora.rewards import RewardContext
from searchlora.task import REFERENCE, UNCHANGED
from searchlora.tasks.rewriting import baselines
from searchlora.tasks.rewriting.listed_words import MAX_REDUCED, listed_words

#: Number of titles of the best graded documents that are candidates.
TITLES = 2


def rule_candidates(records: Sequence[Record], dataset: Path, context: RewardContext) -> list[dict[str, str]]:
    """The candidates of each record: name -> query, where equal queries have one name.

    * `unchanged`: the query as it is.
    * `reference`: the record's rewrite, if it has one.
    * the rules of `baselines`.
    * `first turn + reference`, and so on: the first question before each.
    * `without: WORD`, `without: WORD, WORD`: the query without one or two words, or without all words whose removal
      gains over all records (`listed_words`), where there is no conversation.
    * `title: 1`, `query + title: 1`, `reference + title: 1`: titles of the documents with the highest grade, without
      "(film)" at the end, if all of their words are in the query or the conversation. In a conversation a title may
      also be named in part; then it is the part.
    * `query + title twice: 1`: in a conversation. BM25 counts a word as often as the query has it, so the title decides
      more.
    """
    rules = baselines.baseline_outputs(records, dataset)
    names = {"raw query": UNCHANGED, baselines.REFERENCE: REFERENCE}
    # The first retriever is enough for a list of which each candidate is rewarded by all.
    listed = listed_words(records, replace(context, searches=context.searches[:1])) if context.searches else []
    candidates: list[dict[str, str]] = []
    for row, record in enumerate(records):
        queries = {names.get(name, name): outputs[row] for name, outputs in rules.items()}
        if "rewrite" in record:
            queries[REFERENCE] = record["rewrite"]
            queries.update(variants(record, str(record["rewrite"]), REFERENCE))
        if not record.get("history"):
            queries.update(_reduced(str(record["query"]), listed))
        # Where a name is the title, it counts as the title: the effect of the rule is that of other names.
        named = {rule: queries.pop(rule) for rule in (baselines.NAME_TWICE, baselines.FOUND_TWICE) if rule in queries}
        candidates.append(_distinct(queries | dict(_titles(record, context)) | named))
    return candidates


def variants(record: Record, rewrite: str, name: str = "rewrite") -> dict[str, str]:
    """The first question of the conversation before a rewrite; nothing for a record without conversation."""
    return {f"first turn + {name}": baselines.first_and(record, rewrite)} if record.get("history") else {}


def keeps_protected(record: Record, rewrite: str) -> bool:
    """Whether a rewrite has all protected words of its query: those of the record, and the words with a digit."""
    text = f" {' '.join(words(rewrite))} "
    codes = [word for word in words(str(record["query"])) if any(map(str.isdigit, word))]
    return all(f" {' '.join(words(phrase))} " in text for phrase in (*record.get("protected", ()), *codes))


def _reduced(query: str, listed: Sequence[str]) -> Iterator[tuple[str, str]]:
    tokens = query.split()
    if len(tokens) > MAX_REDUCED:
        return
    of_list = tuple(place for place, word in enumerate(tokens) if word.lower() in listed)
    choices = [left_out for size in (1, 2) for left_out in combinations(range(len(tokens)), size)]
    for left_out in [*choices, of_list] if len(of_list) > 2 else choices:
        rest = [word for place, word in enumerate(tokens) if place not in left_out]
        if rest:
            yield f"without: {', '.join(tokens[place] for place in left_out)}", " ".join(rest)


def _titles(record: Record, context: RewardContext) -> Iterator[tuple[str, str]]:
    grades = context.qrels.get(str(record["id"]), {})
    best = sorted(
        (document for document, grade in grades.items() if grade >= context.relevant),
        key=lambda document: -grades[document],
    )
    known = {
        *words(str(record["query"])),
        *(word for title in record.get("titles", ()) for word in words(title)),
        *(word for turn in record.get("history", ()) for word in words(turn["text"])),
    }
    talk = bool(record.get("history"))
    titles = (
        _named(plain_title(context.documents[document].title), known, in_part=talk)
        for document in best
        if document in context.documents
    )
    for number, title in enumerate(list(dict.fromkeys(filter(None, titles)))[:TITLES], 1):
        yield f"title: {number}", title
        yield f"query + title: {number}", f"{record['query']} {title}"
        if talk:
            yield f"query + title twice: {number}", f"{record['query']} {title} {title}"
        if "rewrite" in record:
            yield f"{REFERENCE} + title: {number}", f"{record['rewrite']} {title}"


def _named(title: str, known: set[str], *, in_part: bool) -> str:
    """The words of a title that the input names, others could only be guessed; "" for none but stop words."""
    named = [word for word in title.split() if (of_word := words(word)) and known.issuperset(of_word)]
    enough = in_part or known.issuperset(words(title))
    return " ".join(named) if enough and not ENGLISH.issuperset(words(" ".join(named))) else ""


def _distinct(named: Mapping[str, str]) -> dict[str, str]:
    """The candidates without later ones of the same text, blank space apart; `unchanged` comes first."""
    texts: dict[str, str] = {}
    for name in sorted(named, key=lambda name: name != UNCHANGED):
        text = named[name] if name == UNCHANGED else " ".join(named[name].split())
        if text:
            texts.setdefault(text, name)
    return {name: text for text, name in texts.items()}
