"""Conversion of qrels and run files to other formats, with their cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from searchlora.errors import UsageError
from searchlora.eval.formats import Topics, read_qrels, read_run, write_qrels, write_run
from searchlora.eval.judgments.card import (
    invalid_path,
    read_card,
    read_run_card,
    source_of,
    write_judgments,
    write_run_with_card,
)
from searchlora.eval.judgments.derived_cards import declared_card
from searchlora.eval.judgments.sources import Source
from searchlora.eval.trec import Qrels, Run
from searchlora.files import atomic_text, numbered_lines


def convert_qrels(
    source: Path,
    target: Path,
    read_from: str,
    write_to: str,
    *,
    thresholds: Sequence[float] | None = None,
    topics: Topics | None = None,
    declared: Source | None = None,
) -> Qrels:
    """Convert judgments to another format with their card, so that LLM grades stay marked as such; returns them.

    The file of probabilities is not copied.

    Args:
        read_from, write_to: Names of formats.
        declared: The source of judgments without a card; the target gets one.
        thresholds, topics: As `read_qrels` and `write_qrels`.

    Raises:
        DataError: when the source cannot be read or was changed since its card was written.
        UsageError: for an unknown format, a card that names another source than the declared one, or if invalid
            answers cannot be copied.
    """
    source_of(source, declared)
    card = read_card(source)
    qrels = read_qrels(source, read_from, thresholds=thresholds, topics=topics)
    if card is None and declared is not None:
        card = declared_card(declared, sum(map(len, qrels.values())))
    if card is None:
        write_qrels(target, qrels, write_to, topics=topics)
        return qrels
    if card.invalid:
        if topics is not None:
            raise UsageError(
                f"{card.invalid} invalid answers of the judge are stored by topic id",
                where=str(invalid_path(source)),
                fix="Convert to a format with ids, without topics.",
            )
        with atomic_text(invalid_path(target)) as out:
            out.writelines(line for _, line in numbered_lines(invalid_path(source)))
    write_judgments(target, qrels, replace(card, probabilities=None), write_to, topics=topics)
    return qrels


def convert_run(
    source: Path, target: Path, read_from: str, write_to: str, *, tag: str, topics: Topics | None = None
) -> Run:
    """Convert a run to another format with its card; returns it.

    Args:
        topics: As `read_run`.

    Raises:
        DataError: when the source cannot be read or was changed since its card was written.
        UsageError: for an unknown format.
    """
    card = read_run_card(source)
    run = read_run(source, read_from, topics=topics)
    if card is None:
        write_run(target, run, tag, write_to)
    else:
        write_run_with_card(target, card, lambda draft: write_run(draft, run, tag, write_to))
    return run
