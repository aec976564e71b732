"""Judgments from clicks with position correction: clicks over expected clicks (COEC).

Source: Zhang and Jones, Comparing Click Logs and Editorial Labels for Training Query Rewriting (WWW 2007 workshop on
Query Log Analysis), in the definition of Chapelle and Zhang (WWW 2009), section 2.1: the clicks on a document for a
query, over the sum of the mean click-through rates of the positions at which it was shown. 1 is the average document
at those positions.

The click-through rate of a position is smoothed by `POSITION_PRIOR` impressions at the rate of the whole log, COEC by
`PRIOR` expected clicks at the mean of 1: (clicks + PRIOR) / (expected + PRIOR). Its interval is the 95% credible
interval of a Gamma(PRIOR, PRIOR) prior with Poisson clicks; clicks of one user count as independent.

**Limits.** The click-through rate of a position includes the relevance of the documents shown there, so a good ranking
makes its own top documents look average; documents that were never shown have no judgment; and a click is not
satisfaction. Such qrels are marked as `clicks` and do not replace human grades.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_plus

import numpy as np

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard, check_new, write_judgments
from searchlora.files import atomic_text

POSITION_PRIOR = 10.0
PRIOR = 1.0

#: Minimum number of impressions of a judged pair.
MINIMUM = 10

#: The grade is the number of thresholds that COEC reaches. A convention, not fitted to human grades.
THRESHOLDS = (0.5, 1.0, 2.0)


class Impression(NamedTuple):
    """One document shown once for a query; the first position is 1."""

    query: str
    document: str
    position: int
    clicked: bool


@dataclass(frozen=True)
class Position:
    """Click-through rate of a position, with its 95% Wilson interval."""

    position: int
    impressions: int
    clicks: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class ClickJudgment:
    """Judgment of a query-document pair.

    Attributes:
        query: Normalised by `clean_query`.
        document: Document id.
        impressions, clicks: Counts over the whole log.
        expected: Expected clicks of an average document at the same positions.
        coec, low, high: Smoothed clicks over expected clicks, and the 95% credible interval.
        grade: Number of thresholds that `coec` reaches.
    """

    query: str
    document: str
    impressions: int
    clicks: int
    expected: float
    coec: float
    low: float
    high: float
    grade: int


@dataclass(frozen=True)
class ClickJudgments:
    """All judgments of a log.

    Attributes:
        judgments: In the order of first appearance in the log.
        positions: Click-through rate of each position, ascending.
        rows, pairs: Number of impressions and of distinct query-document pairs.
        minimum, thresholds: As in `ClickCounts.judge`.
    """

    judgments: tuple[ClickJudgment, ...]
    positions: tuple[Position, ...]
    rows: int
    pairs: int
    minimum: int
    thresholds: tuple[float, ...]

    @property
    def rule(self) -> str:
        """Description of the grading rule, for the card."""
        thresholds = ", ".join(f"{ratio:g}" for ratio in self.thresholds)
        return (
            f"clicks over expected clicks by position, (clicks + {PRIOR:g}) / (expected + {PRIOR:g}); grade: number of"
            f" thresholds {thresholds} reached; {self.minimum} impressions or more"
        )


def clean_query(query: str) -> str:
    """The normalised query under which impressions are aggregated: whitespace collapsed, case folded.

    Examples:
        >>> clean_query("Red  Running shoes ")
        'red running shoes'
    """
    return " ".join(query.split()).casefold()


class ClickCounts:
    """Click log aggregated by query, document and position; memory grows with the number of pairs, not of rows.

    Examples:
        >>> counts = ClickCounts()
        >>> for n in range(20):
        ...     counts.add(Impression("red shoes", "d1", 1, clicked=n % 2 == 0))
        ...     counts.add(Impression("red shoes", "d2", 2, clicked=False))
        >>> [(judgment.document, round(judgment.coec, 2), judgment.grade) for judgment in counts.judge().judgments]
        [('d1', 1.18, 2), ('d2', 0.38, 0)]
    """

    def __init__(self) -> None:
        self._pairs: dict[str, dict[str, int]] = {}
        self._clicks: list[int] = []
        self._impressions: dict[int, Counter[int]] = {}
        self._clicked: Counter[int] = Counter()
        self.rows = 0

    def add(self, impression: Impression) -> None:
        """Add one impression."""
        query, document, position, clicked = impression
        query = clean_query(query)
        if position < 1:
            raise DataError(f"the position is {position}", fix="The first position is 1.")
        if not query or not document:
            raise DataError(f"the {'document' if query else 'query'} is empty")
        documents = self._pairs.setdefault(query, {})
        pair = documents.setdefault(document, len(self._clicks))
        if pair == len(self._clicks):
            self._clicks.append(0)
        self._impressions.setdefault(position, Counter())[pair] += 1
        if clicked:
            self._clicks[pair] += 1
            self._clicked[position] += 1
        self.rows += 1

    def positions(self) -> tuple[Position, ...]:
        """Observed click-through rate of each position."""
        from statsmodels.stats.proportion import proportion_confint

        rows = []
        for position in sorted(self._impressions):
            clicks, impressions = self._clicked[position], self._impressions[position].total()
            low, high = proportion_confint(clicks, impressions, method="wilson")
            rows.append(Position(position, impressions, clicks, clicks / impressions, float(low), float(high)))
        return tuple(rows)

    def judge(self, *, minimum: int = MINIMUM, thresholds: Sequence[float] = THRESHOLDS) -> ClickJudgments:
        """Judge every pair with at least `minimum` impressions."""
        thresholds = _checked(minimum, thresholds)
        positions = self.positions()
        if not self._clicked:
            raise UsageError(
                f"none of the {self.rows} impressions was clicked" if self.rows else "there are no impressions",
                fix="Check the log and its column of clicks.",
            )
        totals, expected = np.zeros(len(self._clicks), dtype=int), np.zeros(len(self._clicks))
        overall = self._clicked.total() / self.rows
        for position in positions:
            rate = (position.clicks + POSITION_PRIOR * overall) / (position.impressions + POSITION_PRIOR)
            counts = self._impressions[position.position]
            pairs, impressions = np.array(list(counts)), np.array(list(counts.values()))
            totals[pairs] += impressions
            expected[pairs] += impressions * rate
        return ClickJudgments(
            self._judgments(totals, expected, minimum, thresholds),
            positions,
            self.rows,
            len(self._clicks),
            minimum,
            thresholds,
        )

    def _judgments(
        self, impressions: np.ndarray, expected: np.ndarray, minimum: int, thresholds: tuple[float, ...]
    ) -> tuple[ClickJudgment, ...]:
        from scipy.stats import gamma

        clicks = np.array(self._clicks)
        coec = (clicks + PRIOR) / (expected + PRIOR)
        low, high = (gamma.ppf(tail, clicks + PRIOR, scale=1 / (expected + PRIOR)) for tail in (0.025, 0.975))
        return tuple(
            ClickJudgment(
                query,
                document,
                int(impressions[at]),
                int(clicks[at]),
                float(expected[at]),
                float(coec[at]),
                float(low[at]),
                float(high[at]),
                bisect_right(thresholds, coec[at]),
            )
            for query, documents in self._pairs.items()
            for document, at in documents.items()
            if impressions[at] >= minimum
        )


def _checked(minimum: int, thresholds: Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(ratio) for ratio in thresholds)
    ascending = all(low < high for low, high in zip((0.0, *values), values, strict=False))
    if not values or not np.isfinite(values).all() or not ascending:
        listed = ", ".join(f"{ratio:g}" for ratio in values) or "none"
        raise UsageError(f"the thresholds are {listed}", fix="Give ascending finite numbers above 0.")
    if minimum < 1:
        raise UsageError(f"the minimum number of impressions is {minimum}", fix="Give 1 or more.")
    return values


def topic_id(query: str) -> str:
    """Topic id of a query: URL-quoted, with `+` for blanks; `urllib.parse.unquote_plus` restores the query.

    Examples:
        >>> topic_id("Red  running shoes")
        'red+running+shoes'
    """
    return quote_plus(clean_query(query), safe="")


def click_qrels(clicks: ClickJudgments, topics: Mapping[str, str] | None = None) -> dict[str, dict[str, int]]:
    """Topic -> document -> grade.

    Args:
        topics: Topic id -> query; a query of the log is matched with all topics of the same `clean_query`, other
            queries are left out. None: every query, with the id of `topic_id`.
    """
    ids: dict[str, list[str]] = {}
    for topic, query in (topics or {}).items():
        ids.setdefault(clean_query(query), []).append(topic)
    qrels: dict[str, dict[str, int]] = {}
    for judgment in clicks.judgments:
        for topic in ids.get(judgment.query, []) if topics is not None else [topic_id(judgment.query)]:
            qrels.setdefault(topic, {})[judgment.document] = judgment.grade
    if not qrels:
        if topics is not None and clicks.judgments:
            raise DataError(
                f"none of the {len(topics)} topics has a query of the log", fix="Check the text of the queries."
            )
        raise DataError(f"no query-document pair was shown {clicks.minimum} times or more", fix="Lower the minimum.")
    return qrels


def details_path(qrels: str | Path) -> Path:
    """Path of the click statistics of each judgment: `qrels.txt` -> `qrels.txt.clicks.jsonl`."""
    return Path(f"{qrels}.clicks.jsonl")


def write_click_qrels(
    path: str | Path,
    clicks: ClickJudgments,
    *,
    created: str,
    topics: Mapping[str, str] | None = None,
    made_from: Mapping[str, str] | None = None,
) -> dict[str, dict[str, int]]:
    """Write qrels with a card of source `clicks`, and the statistics of each judgment; returns the qrels.

    Args:
        created: Time in ISO 8601.
        topics: As in `click_qrels`.
        made_from: Name of each input file -> its sha256.
    """
    check_new(path)
    qrels = click_qrels(clicks, topics)
    count = sum(len(row) for row in qrels.values())
    card = JudgmentsCard("clicks", created, counts={"clicks": count}, rule=clicks.rule, made_from=made_from or {})
    with atomic_text(details_path(path)) as out:
        for judgment in clicks.judgments:
            out.write(json.dumps(asdict(judgment), ensure_ascii=False) + "\n")
        write_judgments(path, qrels, card)  # inside the block: a failure here discards the statistics too
    return qrels
