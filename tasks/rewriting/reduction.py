"""Reduced queries: rewrites that only leave words out, so that a small model cannot miscopy a name or make one up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from searchlora.errors import UsageError
from searchlora.outputs import Grammar, InvalidOutput, subsequence_rules
from searchlora.records import Option, Options, Record

#: Words of a query among which a rewrite is written: as many as a parser of the grammar has room for, even if they are
#: all alike, and more than an answer has.
MAX_WORDS = 128

#: The option of every format, and the key of the task's settings.
WORDS = "words"
OPTION = Option(
    "words of a rewrite: any, or query: those of the query in their order, some left out", "any or query", "any"
)


@dataclass(frozen=True)
class ReducedQuery:
    """Words of a query in their order, at least one of them; words are what blanks separate."""

    query: str
    choices: None = None

    @property
    def grammar(self) -> Grammar | None:
        """A Lark grammar of the first `MAX_WORDS` words with blanks between, see `outputs.subsequence_rules`.

        None for a query without words, to which every answer is invalid.
        """
        words = self.query.split()[:MAX_WORDS]
        if not words:
            return None
        literals = [json.dumps(word, ensure_ascii=False) for word in words]
        return Grammar("lark", "\n".join(["start: some", *subsequence_rules(literals, " ")]))

    def parse(self, text: str) -> str | InvalidOutput:
        """Parse a completion strictly: the query's words that it keeps, or `InvalidOutput`."""
        words = text.split()
        if not words:
            return InvalidOutput(text, "empty")
        left = iter(self.query.split())
        if not all(word in left for word in words):
            return InvalidOutput(text, "not words of the query in their order")
        return " ".join(words)


def settings_of(options: Options) -> dict[str, Any]:
    """The task's settings by the builder's options; empty for rewrites of any words. Raises `UsageError`."""
    words = options.get(WORDS, "any")
    if words not in ("any", "query"):
        raise UsageError(f"'{words}' is neither any nor query", where=f"--option {WORDS}")
    return {WORDS: words} if words == "query" else {}


def fault(record: Record) -> str | None:
    """Why a rewrite is no reduction of its query; None if it is one, or if the record schema rejects them."""
    query, rewrite = record.get("query"), record.get("rewrite")
    if not isinstance(query, str) or not isinstance(rewrite, str):
        return None
    parsed = ReducedQuery(query).parse(rewrite)
    return f"field 'rewrite': {parsed.reason} (--option {WORDS}=query)" if isinstance(parsed, InvalidOutput) else None
