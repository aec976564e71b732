"""Who or what graded a dataset: the source of each record's grade or label, and of each judgment.

A card beside a file of the source says it, the format (clicks), or the user, in this order; otherwise it is unknown. A
declaration never replaces what a card says. The dataset folder keeps the numbers of each split in `sources.json`,
and the judges in the cards of `sources.json` and `qrels.txt`. All are on the dataset's card with their hashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from searchlora.errors import UsageError
from searchlora.eval.formatting import write_json
from searchlora.eval.judgments.card import (
    JudgmentsCard,
    has_card,
    read_card,
    source_of,
    write_card,
)
from searchlora.eval.judgments.derived_cards import graded_card
from searchlora.eval.judgments.sources import UNKNOWN, Source, SourceCounts, check_source
from searchlora.files import file_sha256
from searchlora.records import Format

OPTION = "--judgments-source"

#: File of a dataset: the numbers of its records and judgments by split and source.
SOURCES_FILE = "sources.json"


class DeclaredSources:
    """What is known about the sources of a build before its rows are read.

    Args:
        source: The source file or folder.
        format: Its format.
        declared: The source that the user named; None: none.
    """

    def __init__(self, source: Path, format: Format, declared: str | None) -> None:
        self.declared = None if declared is None else check_source(declared, OPTION)
        if self.declared is not None and format.graded_by not in (None, self.declared):
            raise _contradicted(f"the format '{format.name}'", format.graded_by, self.declared, str(source))
        of_file = source_of(source, self.declared) if source.is_file() and has_card(source) else None
        self.of_rows: Source = of_file or self.declared or format.graded_by or UNKNOWN

    def check_cards(self, files: Iterable[Path]) -> list[JudgmentsCard]:
        """The cards of the files that were read."""
        cards = []
        for path in files:
            if has_card(path) and (card := read_card(path)) is not None:
                source_of(path, self.declared)
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


class SourceLog:
    """The sources of the records and the judgments of a dataset while it is built.

    Attributes:
        of_records: Fingerprint of a record's id -> source.
        judgments: Split -> source -> number of judgments.
    """

    def __init__(self) -> None:
        self.of_records: dict[int, Source] = {}
        self.judgments: dict[str, Counter[Source]] = {}
        self.records: dict[str, Counter[Source]] = {}

    def count(self, splits: Mapping[str, Iterable[int]]) -> None:
        """Count the records of each split, by their fingerprints, when they are known."""
        self.records = {split: Counter(self.of_records[id_] for id_ in ids) for split, ids in splits.items()}

    def write(self, folder: Path, cards: Sequence[JudgmentsCard]) -> None:
        """Write the counts, if a source is known.

        Args:
            cards: The cards of the files that the records were read from; kept together beside the file.
        """
        counted = {"records": self.records, "judgments": self.judgments}
        counts = {name: {split: dict(each) for split, each in of.items() if each} for name, of in counted.items()}
        if cards or {source for of in counts.values() for each in of.values() for source in each} - {UNKNOWN}:
            write_json(folder / SOURCES_FILE, counts)
        if cards:
            write_card(folder / SOURCES_FILE, graded_card(cards, total(self.records)))


def total(by_split: Mapping[str, Mapping[Source, int]]) -> SourceCounts:
    """The numbers of all splits together."""
    counts: Counter[Source] = Counter()
    for of_split in by_split.values():
        counts.update(of_split)
    return SourceCounts(dict(sorted(counts.items())))


def write_judgments_card(qrels: Path, counts: SourceCounts, cards: Sequence[JudgmentsCard]) -> None:
    """Write the card of a dataset's judgments, if their source is known.

    Args:
        cards: The cards of the files that the judgments were read from.
    """
    if cards or set(counts.counts) - {UNKNOWN}:
        write_card(qrels, graded_card(cards, counts))


def rule_card(source: Source, file: Path, judgments: int, rule: str) -> JudgmentsCard:
    """The card of judgments that a rule made from a file, such as a log of clicks; `created` is its last change."""
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return JudgmentsCard(
        source, written, counts={source: judgments}, rule=rule, made_from={file.name: file_sha256(file)}
    )
