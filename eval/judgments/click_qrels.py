"""Judgments from clicks as a qrels file: topic ids for queries, and what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote_plus

from searchlora.errors import DataError
from searchlora.eval.files import atomic_text
from searchlora.eval.judgments.card import JudgmentsCard, check_new, write_judgments
from searchlora.eval.judgments.clicks import ClickJudgments, clean_query


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
