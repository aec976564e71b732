"""Judgments to read: where the adapter and people agree, and where they are furthest apart."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from benchmarks.judgment_trecdl19.folds import SEED, Topics
from searchlora.files import atomic_text
from searchlora.outputs import Grade

EACH = 10


def write_examples(path: Path, topics: Topics, grades: Mapping[str, Grade]) -> None:
    """Ten judgments that are people's and ten that are furthest from them, with texts; never for a repository."""
    records = topics.records(list(topics.pairs))
    random.Random(SEED).shuffle(records)
    off = {record["id"]: abs(grades[record["id"]].value - record["grade"]) for record in records}
    right = [record for record in records if off[record["id"]] == 0]
    wrong = sorted(records, key=lambda record: -off[record["id"]])
    with atomic_text(path) as out:
        for title, chosen in (("As people graded", right[:EACH]), ("Furthest off", wrong[:EACH])):
            out.write(f"# {title}\n\n")
            for record in chosen:
                grade = grades[record["id"]]
                chances = ", ".join(f"{each:.2f}" for each in grade.probabilities or ())
                out.write(
                    f"* people {record['grade']}, adapter {grade.value} ({chances}): **{record['query']}**\n"
                    f"  {record['passage']}\n\n"
                )
