"""Who or what graded a dataset: the source of each record's grade or label, and of each judgment.

A card beside a file of the source says it, the format (clicks), or the user, in this order; otherwise it is unknown. A
declaration never replaces what a card says. The dataset folder keeps the sources of its records in `sources.jsonl`, and
those of its judgments in the card of `qrels.txt`. All are on the dataset's card with their hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from searchlora.errors import UsageError
from searchlora.eval.judgments.card import (
    JudgmentsCard,
    has_card,
    read_card,
    sources_of,
    write_card,
)
from searchlora.eval.judgments.derived_cards import graded_card
from searchlora.eval.judgments.sources import (
    UNKNOWN,
    Source,
    SourceWriter,
    check_source,
    write_source,
)
from searchlora.files import file_sha256
from searchlora.records import Format

OPTION = "--judgments-source"


class SourceLog(SourceWriter):
    """The source of each grade, written to the file `path` while a dataset is built; bounded in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(path.open("w", encoding="utf-8"))

    def close(self) -> Source | None:
        """Close the file; the source of all grades, or None if there are several."""
        self._file.close()
        sources = list(self.counts.counts)
        return (sources or [UNKNOWN])[0] if len(sources) < 2 else None


class DeclaredSources:
    """What is known about the sources of a build before its rows are read.

    Args:
        source: The source file or folder.
        format: Its format.
        declared: The source that the user named; None: none.

    Raises:
        UsageError: for an unknown word, or one that the card of the file or the format contradicts.
        DataError: when the file was changed since its card was written.
    """

    def __init__(self, source: Path, format: Format, declared: str | None) -> None:
        self.declared = None if declared is None else check_source(declared, OPTION)
        if self.declared is not None and format.graded_by not in (None, self.declared):
            raise _contradicted(f"the format '{format.name}'", format.graded_by, self.declared, str(source))
        of_file = sources_of(source, self.declared).whole if source.is_file() and has_card(source) else None
        self.of_rows: Source = of_file or self.declared or format.graded_by or UNKNOWN

    def check_cards(self, files: Iterable[Path]) -> list[JudgmentsCard]:
        """The cards of the files that were read.

        Raises:
            UsageError: for a card that the user's declaration contradicts.
            DataError: for a card that is malformed or of another file.
        """
        cards = []
        for path in files:
            if has_card(path) and (card := read_card(path)) is not None:
                sources_of(path, self.declared)
                cards.append(card)
        return cards

    def check_collection(self, card: JudgmentsCard | None) -> None:
        """Raise `UsageError` if a reader knows that its judgments are of another source than the declared one."""
        if card is not None and self.declared not in (None, card.source):
            raise _contradicted("the reader", card.source, str(self.declared), OPTION)


def _contradicted(who: str, source: Source, declared: str, where: str) -> UsageError:
    return UsageError(
        f"{who} says that the judgments are '{source}', not '{declared}'", where=where, fix=f"Leave {OPTION} out."
    )


def finish_records(log: SourceLog, cards: Sequence[JudgmentsCard]) -> None:
    """Close the log of the records' sources; without a known source and without a card, no file is left.

    Args:
        cards: The cards of the files that the records were read from; kept together beside the file.
    """
    only = log.close()
    if only is not None:
        log.path.unlink()
        if only != UNKNOWN or cards:
            write_source(log.path, only)
    if cards:
        write_card(log.path, graded_card(cards, log.counts))


def finish_judgments(log: SourceLog, qrels: Path, cards: Sequence[JudgmentsCard]) -> None:
    """Close the log of the judgments' sources, and write the card of the judgments, if anything is known.

    Args:
        log: Written to `sources_path(qrels)`.
        cards: The cards of the files that the judgments were read from.
    """
    only = log.close()
    several = file_sha256(log.path) if only is None else None
    if only is not None:
        log.path.unlink()
    if only != UNKNOWN or cards:
        write_card(qrels, replace(graded_card(cards, log.counts), grade_sources=several))


def rule_card(source: Source, file: Path, judgments: int, rule: str) -> JudgmentsCard:
    """The card of judgments that a rule made from a file, such as a log of clicks; `created` is its last change."""
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return JudgmentsCard(
        source, written, counts={source: judgments}, rule=rule, made_from={file.name: file_sha256(file)}
    )
