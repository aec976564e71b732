"""What a format is: how its files look, and how qrels, runs and topics are read from and written to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from searchlora.eval.formats.head import Head
from searchlora.eval.trec import Qrels, Run

#: topic id -> its fields: `query`, and any other, as text or a number
Topics: TypeAlias = Mapping[str, Mapping[str, str | float]]

Kind: TypeAlias = Literal["qrels", "run", "topics"]


class Row(NamedTuple):
    """A judgment or a ranked document as a file has it, not yet checked; `where` is the file and the place in it."""

    where: str
    topic: object
    document: object
    value: object


class TopicRow(NamedTuple):
    """A topic as a file has it, not yet checked."""

    where: str
    topic: object
    fields: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How files of one kind look in a format.

    Attributes:
        shape: In words, for messages.
        recognises: Whether the beginning of a file looks like this.
        endings: Names that end so are this form when nothing else is known; `""` is a name without an ending.
    """

    shape: str
    recognises: Callable[[Head], bool]
    endings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QrelsForm(Form):
    """Judgments. `by_query`: the file names a topic by the text of its query and has no ids."""

    rows: Callable[[Path], Iterator[Row]]
    write: Callable[[Path, Qrels], None]
    by_query: bool = False


@dataclass(frozen=True, kw_only=True)
class RunForm(Form):
    """Runs. `write` is given the tag too."""

    read: Callable[[Path], dict[str, dict[str, float]]]
    write: Callable[[Path, Run, str], None]


@dataclass(frozen=True, kw_only=True)
class TopicsForm(Form):
    """Topics."""

    rows: Callable[[Path], Iterator[TopicRow]]
    write: Callable[[Path, Topics], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format by its name, with the forms that it has."""

    name: str
    qrels: QrelsForm | None = None
    run: RunForm | None = None
    topics: TopicsForm | None = None
