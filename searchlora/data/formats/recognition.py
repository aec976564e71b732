"""Recognition of published layouts by the first row of a file and the names beside it, for `data inspect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

from searchlora.records import Sample

#: Returns the source to build from, or None.
Recognition: TypeAlias = Callable[[Sample], Path | None]


def with_fields(*names: str) -> Recognition:
    """A file whose first row has all of these fields."""
    return lambda sample: sample.path if all(name in sample.row for name in names) else None


def with_columns(*names: str) -> Recognition:
    """A table with exactly these columns."""
    return lambda sample: sample.path if set(sample.row) == set(names) else None


def in_folder(*patterns: str) -> Recognition:
    """A folder, or a file of one, with a file for each of these patterns; a file matches one of them itself."""

    def recognises(sample: Sample) -> Path | None:
        folder = sample.path if sample.path.is_dir() else sample.path.parent
        if sample.path != folder and not any(fnmatch(sample.path.name, pattern) for pattern in patterns):
            return None
        return folder if all(any(fnmatch(name, pattern) for name in sample.names) for pattern in patterns) else None

    return recognises


def either(*recognitions: Recognition) -> Recognition:
    """The first source that one of these recognises."""
    return lambda sample: next((found for each in recognitions if (found := each(sample)) is not None), None)


def squad(sample: Sample) -> Path | None:
    """One object with a list `data` of articles."""
    data = sample.row.get("data")
    articles = data if isinstance(data, list) else []
    return sample.path if articles and isinstance(articles[0], dict) and "paragraphs" in articles[0] else None


def clinc150(sample: Sample) -> Path | None:
    """One object with lists of pairs, by split."""
    return sample.path if isinstance(sample.row.get("train"), list) and "oos_train" in sample.row else None


def trecdl(sample: Sample) -> Path | None:
    """A file of queries with their hits, in a folder with one such file and one of judgments."""
    folder = sample.path.parent
    files = [name for name in sample.names if name.removesuffix(".gz").endswith(".json")]
    judged = [name for name in sample.names if name.startswith("qrels")]
    return folder if {"query", "hits"} <= set(sample.row) and len(files) == len(judged) == 1 else None


def cast(year: int) -> Recognition:
    """Topics of TREC CAsT of a year, told by the fields of a turn."""

    def recognises(sample: Sample) -> Path | None:
        turns = sample.row.get("turn")
        if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
            return None
        return sample.path if _year(turns[0], sample) == year else None

    return recognises


def _year(turn: Mapping[str, Any], sample: Sample) -> int | None:
    if "utterance" in turn or "participant" in turn:
        return 2022
    if "manual_rewritten_utterance" not in turn:
        beside = any(fnmatch(name, "*annotated_resolved*.tsv") for name in sample.names)
        return 2019 if "raw_utterance" in turn and beside else None
    return 2021 if "passage" in turn else 2020
