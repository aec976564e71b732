"""Cross-validation folds of the 43 queries: the queries of a fold are its test split, the others train and validate."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import write_rows
from searchlora.data.building import build
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.data.formats import judged_pairs
from searchlora.errors import DataError
from searchlora.eval.text_identity import normalised
from searchlora.files import atomic_text
from searchlora.outputs import Grade
from searchlora.records import RejectedRow

SEED = 13
FOLDS, VALIDATING = 5, 6

#: Greatest number of training passages per grade and query, since most passages are unrelated.
EACH = 9

Pair = Mapping[str, Any]


@dataclass(frozen=True)
class Topics:
    """The queries and their 100 passages.

    Attributes:
        pairs: Topic -> passages in BM25 order; `grade` is None for an unjudged passage.
    """

    pairs: Mapping[str, Sequence[Pair]]

    @classmethod
    def read(cls, folder: Path) -> Topics:
        """Read all queries. Raises `DataError` for an invalid row."""
        pairs = {}
        for row in judged_pairs.trecdl_hits(folder):
            if isinstance(row, RejectedRow):
                raise DataError(row.reason, where=row.where)
            pairs[row.data["topic"]] = row.data["pairs"]
        return cls(pairs)

    def folds(self) -> list[list[str]]:
        """Topics of each fold."""
        order = sorted(self.pairs)
        random.Random(SEED).shuffle(order)
        return [order[each::FOLDS] for each in range(FOLDS)]

    def records(self, topics: Sequence[str], *, graded: bool = True) -> list[dict[str, Any]]:
        """Records of the task, of the graded passages or of all (then without a grade)."""
        return [
            record_of(pair, with_grade=graded)
            for topic in topics
            for pair in self.pairs[topic]
            if not graded or pair["grade"] is not None
        ]


def record_of(pair: Pair, *, with_grade: bool = True) -> dict[str, Any]:
    """A record of the judgment task."""
    return {
        "id": f"{pair['topic']} {pair['document']}",
        "group": normalised(pair["query"]),
        "query": pair["query"],
        "passage": pair["passage"],
        **({"grade": pair["grade"]} if with_grade else {}),
    }


def fold_dataset(topics: Topics, number: int, folder: Path) -> Dataset:
    """The dataset of a fold, built in `folder` if it does not exist."""
    if not folder.is_dir():
        source = folder.with_suffix(".jsonl")
        write_rows(source, _rows(topics, number))
        build("judgment", source, format="native", out=folder)
    return load_dataset(folder)


def _rows(topics: Topics, number: int) -> list[dict[str, Any]]:
    test = topics.folds()[number]
    rest = [topic for fold in topics.folds() for topic in fold if topic not in test]
    random.Random(f"{SEED}/{number}").shuffle(rest)
    training, validation = rest[VALIDATING:], rest[:VALIDATING]
    rows = [{**row, "split": "train"} for topic in training for row in _some(topics.records([topic]))]
    rows += [{**row, "split": "validation"} for row in topics.records(validation)]
    return rows + [{**row, "split": "test"} for row in topics.records(test)]


def _some(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `EACH` records of each grade."""
    rng = random.Random(f"{SEED}/{records[0]['id']}")
    found = []
    for grade in sorted({record["grade"] for record in records}):
        of_grade = [record for record in records if record["grade"] == grade]
        found += rng.sample(of_grade, min(EACH, len(of_grade)))
    return found


EXAMPLES = 10


def write_examples(path: Path, topics: Topics, grades: Mapping[str, Grade]) -> None:
    """Ten grades that equal the human grade and ten that differ most, with texts (which are not for publication)."""
    records = topics.records(list(topics.pairs))
    random.Random(SEED).shuffle(records)
    off = {record["id"]: abs(grades[record["id"]].value - record["grade"]) for record in records}
    right = [record for record in records if off[record["id"]] == 0]
    wrong = sorted(records, key=lambda record: -off[record["id"]])
    with atomic_text(path) as out:
        for title, chosen in (("Same as human", right[:EXAMPLES]), ("Largest difference", wrong[:EXAMPLES])):
            out.write(f"# {title}\n\n")
            for record in chosen:
                grade = grades[record["id"]]
                chances = ", ".join(f"{each:.2f}" for each in grade.probabilities or ())
                out.write(
                    f"* people {record['grade']}, adapter {grade.value} ({chances}): **{record['query']}**\n"
                    f"  {record['passage']}\n\n"
                )
