"""Several datasets of a task as one training set, each with a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from searchlora import prompts
from searchlora.data.dataset import Dataset
from searchlora.errors import TrainingError, UsageError
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.records import Record
from searchlora.task import Task

#: Ids of removed rows that a summary lists for each dataset.
REMOVED_SHOWN = 100


@dataclass(frozen=True)
class Mixture:
    """Training rows of a dataset and of further datasets of the same task.

    The first dataset alone gives validation and test rows. A training row of a further dataset whose input or group is
    in one of these splits is left out.

    Attributes:
        task: The task, bound to the settings of the first dataset.
        first: Its rows have weight 1.
        more: Further datasets and the weight of their rows in the loss.

    Raises:
        UsageError: for a weight that is not a positive number, or a dataset with other settings than the first.
    """

    task: Task
    first: Dataset
    more: Sequence[tuple[Dataset, float]] = ()

    def __post_init__(self) -> None:
        for dataset, weight in self.more:
            where = f"--data {dataset.folder}"
            if not (math.isfinite(weight) and weight > 0):
                raise UsageError(f"the weight {weight:g} is not a positive number", where=where)
            if dataset.settings != self.first.settings:
                raise UsageError(
                    f"the dataset has other settings of the task than {self.first.folder}",
                    where=where,
                    fix="Build both with the same options (labels, guideline, lengths).",
                )

    def rows(self) -> tuple[list[Record], list[float]]:
        """Training records of all datasets in order, and the weight of each.

        Raises:
            TrainingError: for a further dataset of which no row is left.
        """
        records = self.first.records("train")
        weights = [1.0] * len(records)
        for (dataset, weight), (kept, _) in zip(self.more, self._kept, strict=True):
            if not kept:
                raise TrainingError(
                    "all training rows are in the validation or test split of the first dataset",
                    where=str(dataset.folder),
                    fix="Leave this dataset out.",
                )
            records += kept
            weights += [weight] * len(kept)
        return records, weights

    def teachers(self) -> list[str]:
        """References of the models that labelled rows of the datasets, with their ancestors, each once."""
        cards = [dataset.records_card for dataset in (self.first, *(dataset for dataset, _ in self.more))]
        return list(dict.fromkeys(name for card in cards if card is not None for name in card.judge_lineage))

    def summary(self) -> list[dict[str, Any]]:
        """Per further dataset: fingerprint, weight, format, source, rows used, rows left out with first ids."""
        return [
            {
                **self.identity()[index],
                "format": dataset.card.format,
                "source": dataset.card.source["name"],
                "rows": len(kept),
                "rows left out": len(removed),
                "ids left out": removed[:REMOVED_SHOWN],
            }
            for index, ((dataset, _), (kept, removed)) in enumerate(zip(self.more, self._kept, strict=True))
        ]

    def identity(self) -> list[dict[str, Any]]:
        """Fingerprint and weight of each further dataset."""
        return [{"fingerprint": dataset.fingerprint, "weight": weight} for dataset, weight in self.more]

    @cached_property
    def _kept(self) -> list[tuple[list[Record], list[str]]]:
        """Per further dataset: the rows that are used, and the ids of those left out."""
        if not self.more:
            return []
        held_out = [record for split in ("validation", "test") for record in self.first.iter_records(split)]
        keys = set[tuple[str, int]]().union(*(leak_keys(self.task, record) for record in held_out))
        result = []
        for dataset, _ in self.more:
            rest: list[Record] = []
            removed: list[str] = []
            for record in dataset.iter_records("train"):
                if keys.isdisjoint(leak_keys(self.task, record)):
                    rest.append(record)
                else:
                    removed.append(str(record["id"]))
            result.append((rest, removed))
        return result


def leak_keys(task: Task, record: Record) -> set[tuple[str, int]]:
    """What training rows and held-out rows must not share, as in the builder's leak check: input and group."""
    text = normalised(prompts.input_text(task, record))
    return {("input", fingerprint(text)), ("group", fingerprint(str(record["group"])))}


def parse_weighted(values: Sequence[str]) -> tuple[str, Mapping[str, float]]:
    """The folder of the first dataset, and folder -> weight of the further ones, from `FOLDER` or `FOLDER=WEIGHT`.

    Raises:
        UsageError: for no folder, a folder given twice, or a weight of the first folder.

    Examples:
        >>> parse_weighted(["dl20", "squad=0.5", "cranfield"])
        ('dl20', {'squad': 0.5, 'cranfield': 1.0})
    """
    more: dict[str, float] = {}
    first = None
    for value in values:
        folder, weight = _weighted(value)
        if folder == first or folder in more:
            raise UsageError("the dataset is given twice", where=f"--data {value}")
        if first is None:
            if weight is not None:
                raise UsageError(
                    "the first dataset has the weight 1", where=f"--data {value}", fix="Give the others their weight."
                )
            first = folder
        else:
            more[folder] = 1.0 if weight is None else weight
    if first is None:
        raise UsageError("there is no dataset", where="--data")
    return first, more


def _weighted(value: str) -> tuple[str, float | None]:
    folder, equals, weight = value.rpartition("=")
    try:
        return (folder, float(weight)) if equals and folder else (value, None)
    except ValueError:
        return value, None  # a folder with "=" in its name
