"""Pooling: the union of the top documents of several runs, to be judged once each.

As at TREC: the union of the first `depth` documents of every run (K. Spärck Jones and C. J. van Rijsbergen, 1975,
"Report on the need for and provision of an 'ideal' information retrieval test collection").
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from searchlora.errors import DataError, UsageError
from searchlora.eval.trec import Run, is_word, ranked
from searchlora.files import json_object, numbered_lines, read_rows, strict


def pool(runs: Mapping[str, Run], depth: int, *, seed: int = 0) -> dict[str, dict[str, int]]:
    """Topic -> document -> number of runs that rank it among their first `depth`.

    Documents are ordered by a hash of seed, topic and document, which reveals neither run nor rank. Topics are in the
    order of the runs; a topic without retrieved documents is absent.

    Examples:
        >>> runs = {"a": {"q1": {"d1": 2.0, "d2": 1.0}}, "b": {"q1": {"d1": 3.0, "d3": 2.0}}}
        >>> sorted(pool(runs, depth=2)["q1"].items())
        [('d1', 2), ('d2', 1), ('d3', 1)]
    """
    if depth < 1:
        raise UsageError(f"the depth of the pool is {depth}", fix="Give 1 or more.")
    if not runs:
        raise UsageError("there is no run to pool")
    pooled: dict[str, Counter[str]] = {}
    for run in runs.values():
        for topic, scores in run.items():
            pooled.setdefault(topic, Counter()).update(ranked(scores)[:depth])
    return {topic: _shuffled(topic, counts, seed) for topic, counts in pooled.items() if counts}


def read_pairs(path: Path) -> dict[str, list[str]]:
    """Read a file of pairs to judge: topic -> documents. Repeated pairs count once."""
    pairs: dict[str, dict[str, None]] = {}
    for topic, document in iterate_pairs(path):
        pairs.setdefault(topic, {})[document] = None
    return {topic: list(documents) for topic, documents in pairs.items()}


def iterate_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Topic and document of each row of a file of pairs, one at a time; a pair may be repeated.

    A line is `topic document`, a qrels line (its grade is ignored), or a JSON object with `topic` and `document`. A
    Parquet file has these two columns.
    """
    pair = None
    if path.name.lower().endswith(".parquet"):
        for row in strict(read_rows(path, ("topic", "document"))):
            yield (pair := _words(row.data, row.where))
    else:
        for number, line in numbered_lines(path):
            yield (pair := _pair(line, f"{path}, line {number}"))
    if pair is None:
        raise DataError("holds no pair", where=str(path), fix="A line is 'topic document'.")


def _pair(line: str, where: str) -> tuple[str, str]:
    if line.lstrip().startswith("{"):
        return _words(json_object(line, where), where)
    if "\0" in line:
        raise DataError("holds a NUL character", where=where)
    words = line.split()
    if len(words) not in (2, 4):
        raise DataError(
            f"has {len(words)} fields",
            where=where,
            fix="A line is 'topic document' or a qrels line; a run is pooled, not read as pairs.",
        )
    return words[0], words[1 if len(words) == 2 else 2]


def _words(row: Mapping[str, object], where: str) -> tuple[str, str]:
    topic, document = row.get("topic"), row.get("document")
    for name, value in (("topic", topic), ("document", document)):
        if not isinstance(value, str) or not is_word(value):
            raise DataError(f"{name} is missing or is not one word of text", where=where)
    return str(topic), str(document)


def _shuffled(topic: str, counts: Mapping[str, int], seed: int) -> dict[str, int]:
    def key(document: str) -> str:
        return hashlib.sha256(f"{seed}\t{topic}\t{document}".encode()).hexdigest()

    return {document: counts[document] for document in sorted(counts, key=key)}
