"""BEIR folders (Thakur et al., NeurIPS 2021; https://github.com/beir-cellar/beir): `corpus.jsonl`, `queries.jsonl`, and
TSV judgments `qrels/train.tsv`, `qrels/dev.tsv`, `qrels/test.tsv`, as many of them as there are. Each may be gzipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchlora.data.formats.judged import Judged
from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.trec import Qrels
from searchlora.files import read_rows
from searchlora.records import Document, RejectedRow


def judged(source: Path) -> Judged:
    """Topics, documents and judgments of a folder; the documents are read when gone through.

    Raises:
        DataError: for a file that is missing or a row that is not one.
    """
    return Judged(source.name, queries(source), lambda: documents(source), qrels(source))


def documents(source: Path) -> Iterator[Document]:
    """The documents, one at a time. Raises `DataError` for a row that is none."""
    for where, data in _rows(source, "corpus.jsonl"):
        title = data.get("title") or ""
        if not isinstance(data["text"], str) or not isinstance(title, str):
            raise DataError("title and text of a document must be text", where=where)
        yield Document(str(data["_id"]), data["text"], title)


def queries(source: Path) -> dict[str, str]:
    """Query id -> text. Raises `DataError` for a row that is none."""
    return {str(data["_id"]): str(data["text"]) for _, data in _rows(source, "queries.jsonl")}


def qrels(source: Path) -> dict[str | None, Qrels]:
    """Split (train, validation, test) -> query id -> document id -> grade.

    Raises:
        DataError: when there is no file of judgments, or a name in `qrels/` is that of no split.
    """
    files = sorted(path for path in (source / "qrels").glob("*") if path.name.endswith((".tsv", ".tsv.gz")))
    if not files:
        raise DataError("holds no qrels/*.tsv", where=str(source), fix="Give the BEIR folder itself.")
    found: dict[str | None, Qrels] = {}
    for path in files:
        split = SPLIT_NAMES.get(path.name.partition(".")[0].lower())
        if split is None or split in found:
            raise DataError("is not named train, dev or test", where=str(path), fix="Rename or remove it.")
        found[split] = read_qrels(path, "beir")
    return found


def _rows(source: Path, name: str) -> Iterator[tuple[str, Any]]:
    packed = source / f"{name}.gz"
    for row in read_rows(packed if packed.exists() else source / name, ("_id", "text")):
        if isinstance(row, RejectedRow):
            raise DataError(row.reason, where=row.where)
        yield row.where, row.data
