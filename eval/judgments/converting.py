"""Judgments and runs into another format, with what their cards say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from searchlora.errors import UsageError
from searchlora.eval.files import atomic_text, numbered_lines
from searchlora.eval.formats import Topics, read_qrels, read_run, write_qrels, write_run
from searchlora.eval.judgments.card import (
    invalid_path,
    read_card,
    read_run_card,
    write_judgments,
    write_run_card,
)
from searchlora.eval.trec import Qrels, Run


def convert_qrels(
    source: Path,
    target: Path,
    read_from: str,
    write_to: str,
    *,
    thresholds: Sequence[float] | None = None,
    topics: Topics | None = None,
) -> Qrels:
    """Write judgments in another format; returns them.

    Their card goes along, or an LLM's grades would pass for those of people. The probabilities of grades stay behind.

    Args:
        read_from, write_to: Names of formats.
        thresholds, topics: As `read_qrels` and `write_qrels`.

    Raises:
        DataError: when the source cannot be read or was changed since its card was written.
        UsageError: for a format that there is not, or where answers that were no grade cannot go along.
    """
    card = read_card(source)
    found = read_qrels(source, read_from, thresholds=thresholds, topics=topics)
    if card is None:
        write_qrels(target, found, write_to, topics=topics)
        return found
    if card.invalid:
        if topics is not None:
            raise UsageError(
                f"{card.invalid} answers of the judge were no grade, and are known by the ids of their topics",
                where=str(invalid_path(source)),
                fix="Convert into a format with ids, without topics.",
            )
        with atomic_text(invalid_path(target)) as out:
            out.writelines(line for _, line in numbered_lines(invalid_path(source)))
    write_judgments(target, found, replace(card, probabilities=None), write_to, topics=topics)
    return found


def convert_run(source: Path, target: Path, read_from: str, write_to: str, *, tag: str) -> Run:
    """Write a run in another format, its card beside it; returns it.

    Raises:
        DataError: when the source cannot be read or was changed since its card was written.
        UsageError: for a format that there is not.
    """
    card = read_run_card(source)
    found = read_run(source, read_from)
    write_run(target, found, tag, write_to)
    if card is not None:
        write_run_card(target, card)
    return found
