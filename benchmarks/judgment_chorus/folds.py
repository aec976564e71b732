"""The graded pairs of Chorus with the grades of three people, in folds by query."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import dataset, native_dataset
from searchlora.data.dataset import Dataset
from searchlora.eval.formats import read_qrels
from searchlora.files import parse_field_map
from searchlora.records import Record

SEED = 13
FOLDS, VALIDATING = 3, 15

RATERS = ("agent_1_rating", "agent_2_rating", "agent_3_rating")

#: Columns of `individual_ratings.csv`; the texts are those of the products.
COLUMNS = (
    "document=docid",
    f"grade={','.join(RATERS)}",
    "corpus.text=short_description",
    "corpus.title=title",
)

#: Options of all datasets: grades by name, and the title with the first words of the description.
OPTIONS = {"guideline": str(Path(__file__).parent / "guideline.yaml"), "characters": "240"}


@dataclass(frozen=True)
class Chorus:
    """The pairs of all queries.

    Attributes:
        records: Records with `votes`; the grade is the majority of three people.
        raters: Person -> topic -> document -> grade.
    """

    records: Sequence[Record]
    raters: Mapping[str, Mapping[str, Mapping[str, int]]]

    @classmethod
    def read(cls, data: Path, folder: Path) -> Chorus:
        """Build the dataset of all pairs in `folder` if it does not exist, and read it."""
        records = dataset(
            folder,
            "judgment",
            data / "chorus" / "individual_ratings.csv",
            format="judgments",
            options=OPTIONS,
            corpus=data / "chorus" / "products.jsonl.gz",
            fields=parse_field_map(COLUMNS),
            split_ratios=(1.0, 0.0, 0.0),
            judgments_source="human",
        ).records("train")
        return cls(records, {rater: read_qrels(folder / f"qrels.{rater}.txt") for rater in RATERS})

    def folds(self) -> list[list[str]]:
        """Groups (queries) of each fold."""
        order = sorted({record["group"] for record in self.records})
        random.Random(SEED).shuffle(order)
        return [order[fold::FOLDS] for fold in range(FOLDS)]

    def of(self, groups: Sequence[str]) -> list[Record]:
        """The records of some groups."""
        wanted = set(groups)
        return [record for record in self.records if record["group"] in wanted]

    def dataset(self, number: int, folder: Path) -> Dataset:
        """The dataset of a fold, built in `folder` if it does not exist: its queries are the test split."""
        test = self.folds()[number]
        rest = [group for fold in self.folds() for group in fold if group not in test]
        random.Random(f"{SEED}/{number}").shuffle(rest)
        parts = {"train": rest[VALIDATING:], "validation": rest[:VALIDATING], "test": test}
        rows = ({**record, "split": split} for split, groups in parts.items() for record in self.of(groups))
        return native_dataset(folder, "judgment", rows, options=OPTIONS, judgments_source="human")
