"""TREC qrels and runs as plain mappings, read from and written to their text files.

The formats are those of trec_eval (https://github.com/usnistgov/trec_eval): qrels lines are
`topic iteration document grade`, run lines are `topic Q0 document rank score tag`, separated by blanks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import TypeAlias

from searchlora.errors import DataError
from searchlora.files import atomic_text, numbered_lines
from searchlora.files.json_text import text_fault

#: topic id -> document id -> grade
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]

#: topic id -> document id -> score; a topic without results has an empty mapping
Run: TypeAlias = Mapping[str, Mapping[str, float]]


class StreamedQrels(Mapping[str, Mapping[str, int]]):
    """Judgments that are read topic by topic each time, so that memory does not grow with their number.

    Args:
        topics: Returns an iterator of (topic, grades), each topic once.

    Examples:
        >>> qrels = StreamedQrels(lambda: iter([("q1", {"d1": 2}), ("q2", {"d7": 0})]))
        >>> list(qrels.items()), qrels["q2"]
        ([('q1', {'d1': 2}), ('q2', {'d7': 0})], {'d7': 0})
    """

    def __init__(self, topics: Callable[[], Iterable[tuple[str, Mapping[str, int]]]]) -> None:
        self.topics = topics

    def __iter__(self) -> Iterator[str]:
        return (topic for topic, _ in self.topics())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, topic: str) -> Mapping[str, int]:
        for name, grades in self.topics():
            if name == topic:
                return grades
        raise KeyError(topic)

    def items(self) -> ItemsView[str, Mapping[str, int]]:
        """(topic, grades), read in order."""
        return _StreamedItems(self, self.topics)


class _StreamedItems(ItemsView[str, Mapping[str, int]]):
    def __init__(self, qrels: StreamedQrels, topics: Callable[[], Iterable[tuple[str, Mapping[str, int]]]]) -> None:
        super().__init__(qrels)
        self.topics = topics

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        yield from self.topics()


QRELS_LINE = "topic iteration document grade"
RUN_LINE = "topic Q0 document rank score tag"

#: trec_eval keeps grades in 32 bits and would truncate a greater one.
GREATEST_GRADE = 2**31 - 1


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids, best first. Ties go by document id from last to first, as trec_eval orders them.

    trec_eval compares scores in single precision, so scores that are equal there are ties.

    Examples:
        >>> ranked({"d1": 0.5, "d2": 0.9, "d3": 0.5})
        ['d2', 'd3', 'd1']
    """
    single = dict(zip(scores, array("f", scores.values()), strict=True))
    return sorted(scores, key=lambda document: (single[document], document), reverse=True)


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a run file, plain or gzip. Scores decide; the ranks in the file are not used, as in trec_eval."""
    run: dict[str, dict[str, float]] = {}
    scores: dict[str, float] = {}
    last = None
    # Millions of lines: the message of a fault is made only when there is one.
    for number, line in numbered_lines(Path(path)):
        try:
            topic, _, document, _, text, _ = _fields(line)
            if "_" in text:  # `float` alone would take `1_0` for ten
                raise ValueError(text)
            score = float(text)
        except ValueError:
            text = split_line(line, RUN_LINE, f"{path}, line {number}")[4]
            raise DataError(f"the score '{text}' is not a number", where=f"{path}, line {number}") from None
        if not isfinite(score):
            raise DataError(f"the score '{text}' is not finite", where=f"{path}, line {number}")
        if topic != last:
            scores, last = run.setdefault(topic, {}), topic
        if document in scores:
            raise DataError(f"document {document} is ranked twice for topic {topic}", where=f"{path}, line {number}")
        scores[document] = score
    return run


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write a qrels file atomically; gzip if the name ends in `.gz`."""
    with atomic_text(Path(path)) as out:
        for topic, grades in qrels.items():
            for document, grade in grades.items():
                out.write(f"{_word(topic, 'topic')} 0 {_word(document, 'document')} {grade}\n")


def write_run(path: str | Path, run: Run, tag: str) -> None:
    """Write a run file atomically, best documents first; gzip if the name ends in `.gz`.

    Scores are written in full, so reading the file back gives the same ranking. The format cannot hold a topic without
    results; measures count it as 0 nevertheless, because the qrels name it.
    """
    _word(tag, "tag")
    with atomic_text(Path(path)) as out:
        for topic, scores in run.items():
            out.writelines(run_lines(topic, scores, tag))


def run_lines(topic: str, scores: Mapping[str, float], tag: str) -> Iterator[str]:
    """The lines of one topic in a run file, best document first.

    Examples:
        >>> list(run_lines("q1", {"d2": 0.5, "d7": 1.5}, "bm25"))
        ['q1 Q0 d7 1 1.5 bm25\\n', 'q1 Q0 d2 2 0.5 bm25\\n']
    """
    for rank, document in enumerate(ranked(scores), start=1):
        score = float(scores[document])
        if not isfinite(score):
            raise DataError(f"the score {score} of document {document} is not finite", where=f"topic {topic}")
        yield f"{_word(topic, 'topic')} Q0 {_word(document, 'document')} {rank} {score!r} {tag}\n"


def check_grade(grade: int, where: str) -> None:
    """Raise `DataError` for a grade outside 32 bits."""
    if abs(grade) > GREATEST_GRADE:
        raise DataError(f"the grade {grade} is out of range", where=where, fix=f"The greatest is {GREATEST_GRADE}.")


def split_line(line: str, names: str, where: str) -> list[str]:
    """The fields of a line, as many as `names` has words. Raises `DataError` for more or fewer."""
    if "\0" in line:
        raise DataError("holds a NUL character", where=where)
    fields, needed = line.split(), len(names.split())
    if len(fields) != needed:
        raise DataError(f"has {len(fields)} fields where {needed} are needed", where=where, fix=f"A line is '{names}'.")
    return fields


def _fields(line: str) -> list[str]:
    if "\0" in line:  # trec_eval, written in C, would read the text before it
        raise ValueError("NUL")
    return line.split()


def is_word(text: str) -> bool:
    """Whether an id can be written in a TREC file: one word without blanks, NUL characters and lone surrogates."""
    return text.split() == [text] and text_fault(text) is None


def _word(text: str, label: str) -> str:
    if not is_word(text):
        raise DataError(
            f"the {label} '{text}' cannot be used in a TREC file", fix="It must be one word without blanks."
        )
    return text
