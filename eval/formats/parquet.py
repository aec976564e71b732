"""Parquet, with the columns of the rows in `jsonl`. Rows are counted from 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.eval.files import atomic_bytes
from searchlora.eval.formats.checking import collect_run
from searchlora.eval.formats.contract import Format, QrelsForm, Row, RunForm, TopicRow, Topics, TopicsForm
from searchlora.eval.formats.head import Head
from searchlora.eval.trec import Qrels, Run, ranked

_ENDINGS = (".parquet",)


def _rows(path: Path, value: str) -> Iterator[Row]:
    with _opened(path, ("topic", "document", value)) as file:
        number = 0
        for batch in file.iter_batches(columns=["topic", "document", value]):
            for row in zip(*(batch.column(name).to_pylist() for name in ("topic", "document", value)), strict=True):
                number += 1
                yield Row(f"{path}, row {number}", *row)


def _topic_rows(path: Path) -> Iterator[TopicRow]:
    with _opened(path, ("id", "query")) as file:
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield TopicRow(f"{path}, row {number}", row.pop("id"), row)


@contextmanager
def _opened(path: Path, required: Sequence[str]) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [column for column in required if column not in names]
            if missing:
                raise DataError(
                    f"there is no column '{missing[0]}'; the columns are {', '.join(names)}", where=str(path)
                )
            yield file
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path)) from None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"is not a sound Parquet file ({error})", where=str(path)) from None


def _write(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".gz":
        raise UsageError("a Parquet file is packed within", where=str(path), fix="Leave .gz out of the name.")
    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise DataError(f"the values of '{name}' are no column of one type ({error})", where=str(path)) from None
    with atomic_bytes(path) as out:
        pyarrow.parquet.write_table(pyarrow.table(arrays), out)


def _write_qrels(path: Path, qrels: Qrels) -> None:
    rows = [(topic, document, grade) for topic, grades in qrels.items() for document, grade in grades.items()]
    _write(path, _columns(("topic", "document", "grade"), rows))


def _write_run(path: Path, run: Run, tag: str) -> None:
    del tag  # no place for it
    rows = [(topic, document, scores[document]) for topic, scores in run.items() for document in ranked(scores)]
    _write(path, _columns(("topic", "document", "score"), rows))


def _write_topics(path: Path, topics: Topics) -> None:
    names = list(dict.fromkeys(name for fields in topics.values() for name in ("query", *fields)))
    _write(path, {"id": list(topics), **{name: [fields.get(name) for fields in topics.values()] for name in names}})


def _columns(names: Sequence[str], rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _recognises(head: Head) -> bool:
    return head.raw[:4] == b"PAR1"


FORMAT = Format(
    name="parquet",
    qrels=QrelsForm(
        shape="columns topic, document, grade",
        recognises=_recognises,
        endings=_ENDINGS,
        rows=lambda path: _rows(path, "grade"),
        write=_write_qrels,
    ),
    run=RunForm(
        shape="columns topic, document, score",
        recognises=_recognises,
        endings=_ENDINGS,
        read=lambda path: collect_run(_rows(path, "score")),
        write=_write_run,
    ),
    topics=TopicsForm(
        shape="columns id, query and further fields",
        recognises=_recognises,
        endings=_ENDINGS,
        rows=_topic_rows,
        write=_write_topics,
    ),
)
