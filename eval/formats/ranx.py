"""The JSON of the ranx library: `{topic: {document: value}}`, as written by `Qrels.save` and `Run.save`.

https://github.com/AmenRa/ranx. A topic without documents is dropped, as in a TREC file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.formats.base import Form, Format, TripleRow
from searchlora.eval.formats.checks import collect_run
from searchlora.eval.formatting import write_json
from searchlora.eval.trec import Run, ranked
from searchlora.files import Head, Pairs, json_file

_OBJECT_IN_OBJECT = re.compile(r'\{\s*("(?:[^"\\]|\\.)*"\s*:\s*\{|\}\s*\Z)')
_SHAPE = "{topic: {document: value}}"


def _rows(path: Path) -> Iterator[TripleRow]:
    by_topic = json_file(path, pairs=True)
    if not isinstance(by_topic, Pairs):
        raise DataError("is not a JSON object", where=str(path), fix=f"The file is {_SHAPE}.")
    for topic, values in by_topic:
        if not isinstance(values, Pairs):
            raise DataError("is not a JSON object", where=f"{path}, topic {topic}", fix=f"The file is {_SHAPE}.")
        for document, value in values:
            yield TripleRow(f"{path}, topic {topic}, document {document}", topic, document, value)


def _write_run(path: Path, run: Run, tag: str) -> None:
    del tag  # the format does not store it
    ordered = {topic: {document: scores[document] for document in ranked(scores)} for topic, scores in run.items()}
    write_json(path, ordered)


def _is_ranx(head: Head) -> bool:
    return _OBJECT_IN_OBJECT.match(head.text) is not None


RANX = Format(
    name="ranx",
    qrels=Form(
        shape="{topic: {document: grade}}",
        recognises=_is_ranx,
        suffixes=(".json",),
        read=_rows,
        write=lambda path, qrels: write_json(path, dict(qrels.items())),
    ),
    run=Form(
        shape="{topic: {document: score}}",
        recognises=_is_ranx,
        suffixes=(".json",),
        read=lambda path: collect_run(_rows(path)),
        write=_write_run,
    ),
)
