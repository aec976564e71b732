"""What a judge's shards graded, as qrels with their card, probabilities and invalid answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.judge.labels import write_probabilities
from searchlora.eval.judgments.card import JudgmentsCard, check_new, finished_card, invalid_path, write_judgments
from searchlora.eval.trec import StreamedQrels
from searchlora.files import atomic_text, check_writable
from searchlora.files.shards import Merged, Parts


@dataclass(frozen=True)
class JudgeResult:
    """Result of `judge`."""

    card: JudgmentsCard
    grades: Mapping[int, int]  # grade -> number of pairs
    invalid: int
    circular: Mapping[str, str]
    doubts: tuple[str, ...]


def merge_grades(out: str | Path) -> JudgeResult:
    """Write the files of a judge from the parts of all its shards, read one row at a time, and remove the parts."""
    target = Path(out)
    check_new(target)
    check_writable(target)
    parts = Parts.beside(target)
    merged = parts.merged()
    grades: Counter[int] = Counter()
    scales, served = set(), set[str]()
    for row in merged:
        scales.add(tuple(row["scale"]))
        served.update(row.get("served", ()))
        if "invalid" not in row:
            grades[row["grade"]] += 1
    invalid = merged.rows - grades.total()
    _write_invalid(invalid_path(target), merged, invalid)
    if not grades:
        raise DataError(
            f"none of the {merged.rows} answers is a grade",
            where=str(invalid_path(target)),
            fix="Score the labels of the scale: omit --generate.",
        )
    card = finished_card(merged.about["card"], grades.total(), invalid, served)
    card = replace(card, scale=scales.pop() if len(scales) == 1 else ())
    if merged.about["scored"]:
        file = Path(f"{target}.probabilities.jsonl")
        write_probabilities(file, map(itemgetter("topic", "document", "probabilities", "reason"), _valid(merged)))
        card = replace(card, probabilities=file.name)
    card = write_judgments(target, StreamedQrels(partial(_by_topic, merged)), card)
    parts.remove()
    about = merged.about
    return JudgeResult(card, dict(sorted(grades.items())), invalid, about["circular"], tuple(about["doubts"]))


def _valid(merged: Merged) -> Iterator[Mapping[str, Any]]:
    return (row for row in merged if "invalid" not in row)


def _by_topic(merged: Merged) -> Iterator[tuple[str, Mapping[str, int]]]:
    for topic, rows in groupby(_valid(merged), key=itemgetter("topic")):
        yield topic, {row["document"]: row["grade"] for row in rows}


def _write_invalid(file: Path, merged: Iterable[Mapping[str, Any]], count: int) -> None:
    """Write the invalid answers; without any, no file is left."""
    file.unlink(missing_ok=True)
    if count:
        with atomic_text(file) as out:
            for row in merged:
                if "invalid" in row:
                    line = {"topic": row["topic"], "document": row["document"], **row["invalid"]}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
