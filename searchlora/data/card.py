"""The card of a dataset: what it was made from, how, and what is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchlora.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CARD_FILE = "dataset.json"
SETTINGS_FILE = "settings.json"
SCHEMA_VERSION = 1

#: Of a text statistic, in this order.
STATISTICS = ("min", "median", "mean", "p95", "max")


@dataclass(frozen=True)
class DatasetCard:
    """The contents of `dataset.json`.

    Attributes:
        task: The task's name.
        task_version: The task's version at the time.
        format: The name of the source format.
        options: The reader's options.
        source: `name` of the source, and `files`: name -> sha256 of every file read.
        seed: Of the split.
        shares: Of train, validation and test; together 1.
        official_splits: Whether the splits are the source's own.
        rows: Split -> number of rows.
        groups: Split -> number of groups.
        files: File of the dataset -> its sha256.
        text: "input" and "target" -> "characters" and "words" -> min, median, mean, p95, max over all rows.
        leaks: `found` rows, `taken out` per split, and `rows`, the first of them (all are in `leaks.jsonl`).
        rejected: Reason -> number of rows refused; the rows are in `rejected.jsonl`.
        report: The reader's `rules` and `counts`, where it chose among its rows.
        collection: Numbers of `documents`, `judgments`, `judged documents missing`, and `judgments of other topics`
            than the dataset's records, which are left out, and `relevant from grade`, from which on a document counts
            in binary measures; None where there is none.
        warnings: What a user should know before training on it.
        searchlora: The version that built it.
        schema_version: Of this card.
    """

    task: str
    task_version: int
    format: str
    options: Mapping[str, str]
    source: Mapping[str, Any]
    seed: int
    shares: tuple[float, float, float]
    official_splits: bool
    rows: Mapping[str, int]
    groups: Mapping[str, int]
    files: Mapping[str, str]
    text: Mapping[str, Mapping[str, Mapping[str, float]]]
    leaks: Mapping[str, Any]
    rejected: Mapping[str, int]
    report: Mapping[str, Any]
    collection: Mapping[str, int] | None
    warnings: tuple[str, ...]
    searchlora: str
    schema_version: int = field(default=SCHEMA_VERSION)

    def write(self, folder: Path) -> None:
        """Write `dataset.json` into a folder."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n"
        (folder / CARD_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")


def read_card(folder: Path) -> DatasetCard:
    """Read the card of a dataset folder.

    Raises:
        DataError: when there is none, it is not one, or a newer version wrote it.
    """
    path = folder / CARD_FILE
    build_it = "Build one with searchlora data build."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"is not a dataset, there is no {CARD_FILE}", where=str(folder), fix=build_it) from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path), fix=build_it) from None
    if not isinstance(values, dict) or "schema_version" not in values:
        raise DataError("is not a dataset card", where=str(path), fix=build_it)
    if values["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"has schema version {values['schema_version']}, this searchlora reads {SCHEMA_VERSION}",
            where=str(path),
            fix="Upgrade searchlora, or build the dataset again.",
        )
    if set(values) != {item.name for item in fields(DatasetCard)}:
        raise DataError("lacks a field or has one too many", where=str(path), fix="Build the dataset again.")
    values["shares"] = tuple(values["shares"])
    values["warnings"] = tuple(values["warnings"])
    return DatasetCard(**values)


def text_statistics(lengths: Sequence[NDArray[np.uint32]]) -> dict[str, dict[str, dict[str, float]]]:
    """Exact statistics of `Spool.lengths` (each of shape (rows, 4)) taken together.

    Units: Unicode characters; words between blanks.
    """
    together = np.concatenate(list(lengths))
    names = (("input", "characters"), ("input", "words"), ("target", "characters"), ("target", "words"))
    result: dict[str, dict[str, dict[str, float]]] = {"input": {}, "target": {}}
    for column, (text, unit) in enumerate(names):
        values = together[:, column]
        figures = (values.min(), np.median(values), values.mean(), np.percentile(values, 95), values.max())
        result[text][unit] = {name: round(float(figure), 2) for name, figure in zip(STATISTICS, figures, strict=True)}
    return result


def card_warnings(rows: Mapping[str, int], collection: Mapping[str, int] | None, judged_in_test: int) -> Iterator[str]:
    """What a user should know of a dataset with so many `rows` in each split and this `collection`."""
    for name, count in rows.items():
        if not count:
            yield f"the {name} split is empty"
    if collection is None:
        return
    if collection["judged documents missing"]:
        yield f"{collection['judged documents missing']} judged documents are not in the corpus"
    if not collection["judgments"]:
        yield "no judgment is for a record of this dataset; it cannot be evaluated by retrieval"
    elif judged_in_test < rows["test"]:
        yield f"{judged_in_test} of {rows['test']} test records are judged"
