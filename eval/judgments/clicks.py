"""Judgments from clicks, corrected for position by COEC: clicks over expected clicks.

Source: Zhang and Jones, Comparing Click Logs and Editorial Labels for Training Query Rewriting (WWW 2007 workshop on
Query Log Analysis); the definition used is that of Chapelle and Zhang (WWW 2009), section 2.1: the clicks on a document
for a query, over the sum of the mean click rates of the positions that it was shown at. 1 is what any document gets at
those positions.

Both are smoothed: the click rate of a position by `POSITION_PRIOR` impressions at the rate of the whole log, COEC by
`PRIOR` expected clicks at the mean of 1, so (clicks + PRIOR) / (expected + PRIOR). Its interval is the 95% credible
interval of a Gamma(PRIOR, PRIOR) prior with Poisson clicks; clicks of one user count as independent.

**Second class.** The click rate of a position holds the relevance of what used to stand there, so that a good ranking
makes its own top documents look ordinary; what was never shown has no judgment; and a click is not satisfaction. Such
qrels are marked as `clicks` in their card, and do not stand in for human grades.
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
from searchlora.eval.files import atomic_text
from searchlora.eval.judgments.card import JudgmentsCard, check_new, write_judgments

POSITION_PRIOR = 10.0
PRIOR = 1.0

#: Impressions that a pair needs to be judged.
MINIMUM = 10

#: The grade is the number of these that COEC reaches: 0 below the first. By convention, not by comparison with people.
THRESHOLDS = (0.5, 1.0, 2.0)


class Impression(NamedTuple):
    """One document shown once for a query; positions count from 1."""

    query: str
    document: str
    position: int
    clicked: bool


@dataclass(frozen=True)
class Position:
    """Click rate of a position, with its 95% interval (Wilson)."""

    position: int
    impressions: int
    clicks: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class ClickJudgment:
    """A document judged for a query.

    Attributes:
        query: As in `clean_query`.
        document: Its id.
        impressions, clicks: Over the whole log.
        expected: Clicks that any document would have had at its positions.
        coec, low, high: Smoothed clicks over expected clicks, and the 95% interval.
        grade: By the thresholds.
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
        judgments: By query and document in the order of the log.
        positions: Click rates, from position 1.
        rows: Impressions read.
        pairs: Queries and documents seen together.
        minimum, thresholds: As they were given. Pairs with fewer impressions than the minimum have no judgment.
    """

    judgments: tuple[ClickJudgment, ...]
    positions: tuple[Position, ...]
    rows: int
    pairs: int
    minimum: int
    thresholds: tuple[float, ...]

    @property
    def rule(self) -> str:
        """How grades were made, for the card."""
        return (
            f"clicks over expected clicks by position, (clicks + {PRIOR:g}) / (expected + {PRIOR:g}); grade = how many "
            f"of {', '.join(f'{each:g}' for each in self.thresholds)} it reaches; {self.minimum} impressions or more"
        )


def clean_query(query: str) -> str:
    """The query by which impressions are counted together: blanks made one, letters small."""
    return " ".join(query.split()).casefold()


class ClickCounts:
    """A log, counted by query, document and position; its rows are not kept, so memory grows with the pairs only."""

    def __init__(self) -> None:
        self._pairs: dict[str, dict[str, int]] = {}
        self._clicks: list[int] = []
        self._shown: dict[int, Counter[int]] = {}
        self._clicked: Counter[int] = Counter()
        self.rows = 0

    def add(self, impression: Impression) -> None:
        """Count one row.

        Raises:
            DataError: when the position is below 1, or query or document is empty.
        """
        query, document, position, clicked = impression
        query = clean_query(query)
        if position < 1:
            raise DataError(f"the position is {position}", fix="Positions count from 1.")
        if not query or not document:
            raise DataError(f"the {'document' if query else 'query'} is empty")
        documents = self._pairs.setdefault(query, {})
        pair = documents.setdefault(document, len(self._clicks))
        if pair == len(self._clicks):
            self._clicks.append(0)
        self._shown.setdefault(position, Counter())[pair] += 1
        if clicked:
            self._clicks[pair] += 1
            self._clicked[position] += 1
        self.rows += 1

    def positions(self) -> tuple[Position, ...]:
        """The click rate of each position, as it was observed."""
        from statsmodels.stats.proportion import proportion_confint

        rows = []
        for position in sorted(self._shown):
            clicks, shown = self._clicked[position], self._shown[position].total()
            low, high = proportion_confint(clicks, shown, method="wilson")
            rows.append(Position(position, shown, clicks, clicks / shown, float(low), float(high)))
        return tuple(rows)

    def judge(self, *, minimum: int = MINIMUM, thresholds: Sequence[float] = THRESHOLDS) -> ClickJudgments:
        """Judge every pair that was shown often enough.

        Raises:
            UsageError: when the thresholds do not rise from above 0, the minimum is below 1, or nothing was clicked
                (of a log without rows, too).
        """
        cuts = _checked(minimum, thresholds)
        positions = self.positions()
        if not self._clicked:
            raise UsageError(
                f"none of the {self.rows} impressions was clicked" if self.rows else "there are no impressions",
                fix="Check the log, and the column that says what was clicked.",
            )
        shown, expected = np.zeros(len(self._clicks), dtype=int), np.zeros(len(self._clicks))
        overall = self._clicked.total() / self.rows
        for each in positions:
            rate = (each.clicks + POSITION_PRIOR * overall) / (each.impressions + POSITION_PRIOR)
            counts = self._shown[each.position]
            pairs, often = np.array(list(counts)), np.array(list(counts.values()))
            shown[pairs] += often
            expected[pairs] += often * rate
        return ClickJudgments(
            self._judgments(shown, expected, minimum, cuts), positions, self.rows, len(self._clicks), minimum, cuts
        )

    def _judgments(
        self, shown: np.ndarray, expected: np.ndarray, minimum: int, cuts: tuple[float, ...]
    ) -> tuple[ClickJudgment, ...]:
        from scipy.stats import gamma

        clicks = np.array(self._clicks)
        coec = (clicks + PRIOR) / (expected + PRIOR)
        low, high = (gamma.ppf(tail, clicks + PRIOR, scale=1 / (expected + PRIOR)) for tail in (0.025, 0.975))
        return tuple(
            ClickJudgment(
                query,
                document,
                int(shown[at]),
                int(clicks[at]),
                float(expected[at]),
                float(coec[at]),
                float(low[at]),
                float(high[at]),
                bisect_right(cuts, coec[at]),
            )
            for query, documents in self._pairs.items()
            for document, at in documents.items()
            if shown[at] >= minimum
        )


def _checked(minimum: int, thresholds: Sequence[float]) -> tuple[float, ...]:
    cuts = tuple(float(each) for each in thresholds)
    if (
        not cuts
        or not np.isfinite(cuts).all()
        or any(high <= low for low, high in zip((0.0, *cuts), cuts, strict=False))
    ):
        named = ", ".join(f"{each:g}" for each in cuts) or "none"
        raise UsageError(f"the thresholds ({named}) must be finite and rise, from above 0")
    if minimum < 1:
        raise UsageError(f"the minimum of impressions is {minimum}", fix="It is 1 or more.")
    return cuts


def topic_id(query: str) -> str:
    """An id for a query without topics: as in a URL, blanks as `+`; `urllib.parse.unquote_plus` gives the query back.

    `Red  running shoes` -> `red+running+shoes`.
    """
    return quote_plus(clean_query(query), safe="")


def click_qrels(found: ClickJudgments, topics: Mapping[str, str] | None = None) -> dict[str, dict[str, int]]:
    """Topic -> document -> grade.

    Args:
        topics: Topic id -> query; each query of the log goes to all topics with that text (as `clean_query` has it),
            the others are left out. None: every query, under the id of `topic_id`.

    Raises:
        DataError: when no query of the log is a topic's.
    """
    ids: dict[str, list[str]] = {}
    for topic, query in (topics or {}).items():
        ids.setdefault(clean_query(query), []).append(topic)
    qrels: dict[str, dict[str, int]] = {}
    for each in found.judgments:
        for topic in ids.get(each.query, []) if topics is not None else [topic_id(each.query)]:
            qrels.setdefault(topic, {})[each.document] = each.grade
    if not qrels:
        if topics is not None and found.judgments:
            raise DataError(f"none of the {len(topics)} topics has a query of the log", fix="Check their texts.")
        raise DataError(
            f"no pair of query and document was shown {found.minimum} times or more", fix="Lower the minimum."
        )
    return qrels


def details_path(qrels: str | Path) -> Path:
    """Where the figures behind the grades lie: `qrels.txt` -> `qrels.txt.clicks.jsonl`."""
    return Path(f"{qrels}.clicks.jsonl")


def write_click_qrels(
    path: str | Path,
    found: ClickJudgments,
    *,
    created: str,
    topics: Mapping[str, str] | None = None,
    made_from: Mapping[str, str] | None = None,
) -> dict[str, dict[str, int]]:
    """Write the qrels with a card that marks them as from clicks, and the figures of each judgment; returns the qrels.

    Args:
        created: When, ISO 8601.
        topics: As `click_qrels`.
        made_from: Name of each input file -> its sha256.

    Raises:
        DataError: as `click_qrels`, and when something cannot be written.
        UsageError: when the file is there already, or its name does not tell a format.
    """
    check_new(path)
    qrels = click_qrels(found, topics)
    count = sum(len(row) for row in qrels.values())
    card = JudgmentsCard("clicks", created, counts={"clicks": count}, rule=found.rule, made_from=made_from or {})
    with atomic_text(details_path(path)) as out:
        for each in found.judgments:
            out.write(json.dumps(asdict(each), ensure_ascii=False) + "\n")
        write_judgments(path, qrels, card)  # in here, so that qrels that cannot be written leave no figures behind
    return qrels
