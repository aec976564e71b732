"""Where one stage ranks a document, and why the document is not among its hits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from searchlora.errors import SearchloraError
from searchlora.records import Document, Hit

#: The message of an error. A server leaves paths and addresses out.
Describe: TypeAlias = Callable[[SearchloraError], str]


@dataclass(frozen=True)
class Sought:
    """The document that an explanation is about."""

    document: str
    content: Document | None = None  # none where only a search engine has the document
    skipped: Mapping[str, str] = field(default_factory=dict)
    describe: Describe = str

    def place(self, hits: Sequence[Hit]) -> tuple[int | None, float | None]:
        """Rank, from 1, and score of the document among hits; None if it is not there."""
        return next(
            ((rank, hit.score) for rank, hit in enumerate(hits, 1) if hit.document == self.document), (None,) * 2
        )


@dataclass(frozen=True)
class Retrieved:
    """Where one retriever ranks the document, beyond the hits that it returns if need be."""

    retriever: str
    k: int
    rank: int | None  # from 1; None if the document is not among the first `searched`
    score: float | None  # none without a rank
    searched: int
    terms: Mapping[str, float] = field(default_factory=dict)
    parts: tuple[Retrieved, ...] = ()
    failed: str = ""  # why it could not be asked; empty if it could
    skipped: str = ""

    @property
    def reason(self) -> str:
        """Why the document is not among the hits; empty if it is."""
        if self.failed:
            return f"it failed: {self.failed}"
        if self.skipped:
            return f"it was skipped: {self.skipped}{f'; else at rank {self.rank}' if self.rank is not None else ''}"
        if self.rank is not None and self.rank <= self.k:
            return ""
        if self.terms and not any(self.terms.values()):
            return f"it contains no word of the query: {', '.join(self.terms)}"
        if self.rank is not None:
            return f"at rank {self.rank}, and the first {self.k} are kept"
        if self.parts:
            return "; ".join(f"{part.retriever} ({part.reason})" for part in self.parts)
        return f"not among the first {self.searched}"
