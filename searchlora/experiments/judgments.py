"""The judgments that systems are measured by: a dataset's own, or a file of others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from searchlora.data.collection import QRELS_FILE
from searchlora.data.dataset import Dataset
from searchlora.eval.files import file_sha256
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.trec import Qrels


@dataclass(frozen=True)
class Judgments:
    """What is held to be relevant.

    Attributes:
        qrels: topic -> document -> grade; None for a dataset without judgments.
        card: Who judged; None where it is not known, which is taken for people.
        data: A fingerprint of the dataset together with these judgments.
    """

    qrels: Qrels | None
    card: JudgmentsCard | None
    data: str

    @property
    def source(self) -> str:
        """`human`, `llm`, `clicks` or `mixed`."""
        return self.card.source if self.card is not None else "human"


def judgments_of(dataset: Dataset, other: str | Path | None = None) -> Judgments:
    """The judgments of a dataset, or those of another file in their place.

    Raises:
        DataError: when the file cannot be read, or was changed since its card was written.
    """
    if other is None:
        own = dataset.folder / QRELS_FILE
        return Judgments(dataset.qrels(), read_card(own) if own.is_file() else None, dataset.fingerprint)
    both = hashlib.sha256(f"{dataset.fingerprint} {file_sha256(other)}".encode()).hexdigest()
    return Judgments(read_qrels(other), read_card(other), both)
