"""Texts with a label: a table, or JSON objects, with two columns (BANKING77, titles with their category)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from searchlora.data.formats.sources import split_files
from searchlora.files import Rows, read_rows
from searchlora.records import RejectedRow, SourceRow

#: Column -> what it is; each can be given another name by an option.
COLUMNS: Mapping[str, str] = {
    "text": "the column with the text",
    "label": "the column with its label",
    "id": "the column with the id, one word (default: the split, if any, and the number of the row)",
}


def read(source: Path, options: Mapping[str, str]) -> Rows:
    """Labelled texts, from one file or a folder with a file per split.

    Args:
        options: Name of each of `COLUMNS` in the source, where it differs. Ids are read only where their column is
            named.

    Yields:
        `id`, `text`, `label`, `split` (None for a single file). Rows are numbered from 1 in each split, those that
        cannot be read among them.
    """
    text, label, own = options.get("text", "text"), options.get("label", "label"), options.get("id")
    numbers = Counter[str | None]()
    for path, split in split_files(source):
        for row in read_rows(path, [text, label, *([own] if own else [])]):
            numbers[split] += 1
            if isinstance(row, RejectedRow):
                yield row
                continue
            name = str(row.data[own]) if own else f"{split or 'row'}-{numbers[split]}"
            yield SourceRow({"id": name, "text": row.data[text], "label": row.data[label], "split": split}, row.where)


def read_banking77(source: Path) -> Rows:
    """BANKING77 (Casanueva et al. 2020, arXiv:2003.04807): `train.csv` and `test.csv` with `text,category`."""
    return read(source, {"label": "category"})
