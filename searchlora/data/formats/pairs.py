"""Plain query pairs: a table, or JSON objects, with a query and what it should have been."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from searchlora.data.files import Rows, read_rows
from searchlora.data.formats.sources import split_files
from searchlora.data.text import normalised
from searchlora.records import RejectedRow, SourceRow

#: Column -> what it is; each can be given another name by an option.
COLUMNS: Mapping[str, str] = {
    "query": "the column with the query as typed",
    "rewrite": "the column with the better query",
    "group": "a column whose equal values go to one split (default: the query itself, case and punctuation aside)",
}


def read(source: Path, options: Mapping[str, str]) -> Rows:
    """Pairs, from one file or a folder with a file per split.

    Args:
        options: Name of each of `COLUMNS` in the source, where it differs. The group is read where it is named.

    Yields:
        `number` (from 1), `query`, `rewrite`, `group`, `split`.
    """
    names = {name: options.get(name, name) for name in COLUMNS}
    needed = [names["query"], names["rewrite"], *([names["group"]] if "group" in options else [])]
    number = 0
    for path, split in split_files(source):
        for row in read_rows(path, needed):
            if isinstance(row, RejectedRow):
                yield row
                continue
            number += 1
            query, rewrite = row.data[names["query"]], row.data[names["rewrite"]]
            group = row.data[names["group"]] if "group" in options else normalised(str(query))
            terms = {"number": number, "query": query, "rewrite": rewrite, "group": str(group), "split": split}
            yield SourceRow(terms, row.where)
