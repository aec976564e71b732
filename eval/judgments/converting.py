"""Conversion of qrels to TREC or OpenSearch, with their card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from searchlora.errors import UsageError
from searchlora.eval.formats import Topics, read_qrels
from searchlora.eval.formats.opensearch import write_judgment_list
from searchlora.eval.judgments.card import invalid_path, read_card, source_of, write_judgments
from searchlora.eval.judgments.derived_cards import declared_card
from searchlora.eval.judgments.sources import Source
from searchlora.eval.trec import Qrels, write_qrels
from searchlora.files import atomic_text, numbered_lines


def convert_qrels(
    source: Path,
    target: Path,
    *,
    to_opensearch: bool = False,
    thresholds: Sequence[float] | None = None,
    topics: Topics | None = None,
    declared: Source | None = None,
) -> Qrels:
    """Convert judgments with their card, so that LLM grades stay marked as such; returns them.

    The file of probabilities is not copied.

    Args:
        to_opensearch: Write a judgment list of OpenSearch, with the queries of `topics`; else TREC.
        thresholds: As `read_qrels`.
        topics: For a file with queries instead of ids.
        declared: The source of judgments without a card; the target gets one.
    """
    source_of(source, declared)
    card = read_card(source)
    if to_opensearch and topics is None:
        raise UsageError("OpenSearch stores the texts of queries", where="--to opensearch", fix="Give --topics.")
    if to_opensearch and card is not None and card.invalid:
        raise UsageError(
            f"{card.invalid} invalid answers of the judge are stored by topic id",
            where=str(invalid_path(source)),
            fix="Convert to TREC.",
        )
    qrels = read_qrels(source, thresholds=thresholds, topics=topics)
    write = partial(write_judgment_list, topics=topics or {}) if to_opensearch else write_qrels
    if card is None and declared is not None:
        card = declared_card(declared, sum(map(len, qrels.values())))
    if card is None:
        write(target, qrels)
        return qrels
    if card.invalid:
        with atomic_text(invalid_path(target)) as out:
            out.writelines(line for _, line in numbered_lines(invalid_path(source)))
    write_judgments(target, qrels, replace(card, probabilities=None), write)
    return qrels
