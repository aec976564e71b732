"""ranx's JSON: `{topic: {document: value}}`, as `Qrels.save` and `Run.save` write it (https://github.com/AmenRa/ranx).

A topic without documents is not kept, as in a TREC file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from searchlora.errors import DataError
from searchlora.eval.files import atomic_text
from searchlora.eval.formats.checking import collect_run
from searchlora.eval.formats.contract import Format, QrelsForm, Row, RunForm
from searchlora.eval.formats.json_text import Pairs, json_file
from searchlora.eval.trec import Qrels, Run, ranked

_OBJECT_IN_OBJECT = re.compile(r'\{\s*("(?:[^"\\]|\\.)*"\s*:\s*\{|\}\s*\Z)')
_SHAPE = "{topic: {document: value}}"


def _rows(path: Path) -> Iterator[Row]:
    found = json_file(path, pairs=True)
    if not isinstance(found, Pairs):
        raise DataError("is not a JSON object", where=str(path), fix=f"The file is {_SHAPE}.")
    for topic, values in found:
        if not isinstance(values, Pairs):
            raise DataError("is not a JSON object", where=f"{path}, topic {topic}", fix=f"The file is {_SHAPE}.")
        for document, value in values:
            yield Row(f"{path}, topic {topic}, document {document}", topic, document, value)


def _write(path: Path, rows: Mapping[str, Mapping[str, float]]) -> None:
    with atomic_text(path) as out:
        json.dump(rows, out, ensure_ascii=False, indent=1)
        out.write("\n")


def _write_qrels(path: Path, qrels: Qrels) -> None:
    _write(path, qrels)


def _write_run(path: Path, run: Run, tag: str) -> None:
    del tag  # no place for it
    _write(path, {topic: {document: scores[document] for document in ranked(scores)} for topic, scores in run.items()})


FORMAT = Format(
    name="ranx",
    qrels=QrelsForm(
        shape="{topic: {document: grade}}",
        recognises=lambda head: _OBJECT_IN_OBJECT.match(head.text) is not None,
        endings=(".json",),
        rows=_rows,
        write=_write_qrels,
    ),
    run=RunForm(
        shape="{topic: {document: score}}",
        recognises=lambda head: _OBJECT_IN_OBJECT.match(head.text) is not None,
        endings=(".json",),
        read=lambda path: collect_run(_rows(path)),
        write=_write_run,
    ),
)
