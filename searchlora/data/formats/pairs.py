"""Plain query pairs: a table, or JSON objects, with a query and what it should have been."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats.pair_ids import PairIds
from searchlora.data.formats.sources import split_files
from searchlora.eval.text_identity import normalised
from searchlora.files import Rows, read_rows
from searchlora.records import RejectedRow, SourceRow

#: Column -> what it is; each can be given another name by an option.
COLUMNS: Mapping[str, str] = {
    "query": "the column with the query as typed",
    "rewrite": "the column with the better query",
    "group": "a column whose equal values go to one split (default: the query itself, case and punctuation aside)",
    "id": "the column with the id, one word, that judgments name (default: id where there is one, else a hash of "
    "the normalised query, and of the rewrite too from the query's second row on; empty: always the hash)",
}


def read(source: Path, options: Mapping[str, str]) -> Rows:
    """Pairs, from one file or a folder with a file per split.

    Args:
        options: Name of each of `COLUMNS` in the source, where it differs. The group is read where it is named. A
            column `id` is used where there is one; the ids of rows without are those of `PairIds`.

    Yields:
        `id`, `query`, `rewrite`, `group`, `split`.
    """
    names = {name: options.get(name, name) for name in COLUMNS}
    named = [name for name in ("group", "id") if options.get(name)]
    needed = [names["query"], names["rewrite"], *(names[name] for name in named)]
    ids = PairIds()
    for path, split in split_files(source):
        for row in read_rows(path, needed):
            if isinstance(row, RejectedRow):
                yield row
                continue
            query, rewrite = row.data[names["query"]], row.data[names["rewrite"]]
            group = row.data[names["group"]] if "group" in named else normalised(str(query))
            own = _own_id(row, names["id"])
            # A column that was named has to have an id in every row; the schema says so of a row that has none.
            pair = own if own or "id" in named else ids.of(str(query), str(rewrite))
            terms = {"id": pair, "query": query, "rewrite": rewrite, "group": str(group), "split": split}
            yield SourceRow(terms, row.where)


def _own_id(row: SourceRow, column: str) -> Any:
    value = row.data.get(column) if column else None
    return str(value) if isinstance(value, int) else value
