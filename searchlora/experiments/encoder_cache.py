"""Cache of what encoders found, on disk, keyed by records, documents, classifier, base and adapter."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from searchlora.adapters.stored import StoredAdapter
from searchlora.experiments.encoder_evaluation_run import DEPTH, EncoderEvaluationRun, Found
from searchlora.experiments.result_files import file_name, machine
from searchlora.files import atomic_text, parse_json
from searchlora.records import Hit


class EncoderCache:
    """What the encoders of one evaluation run found, one JSON file per system.

    Args:
        folder: Where the files are; None: nothing is read or written.

    Attributes:
        reused: Names of the systems whose hits or classes were read from the cache.
    """

    def __init__(self, folder: Path | None, evaluation_run: EncoderEvaluationRun) -> None:
        self.folder = folder
        self.reused: list[str] = []
        self._conditions = "" if folder is None else _conditions(evaluation_run)
        self._records = len(evaluation_run.records)
        self._retrieves = bool(evaluation_run.documents)

    def found(self, name: str, adapter: StoredAdapter, *, bare: bool = False) -> Found | None:
        """What a system found under exactly these conditions; None where it is not in the cache.

        Times of another machine are not comparable: such an entry is not used.

        Args:
            adapter: An adapter of the system's base.
            bare: The system is that base without the adapter.
        """
        file = self._file(name)
        if file is None or not file.is_file():
            return None
        try:
            entry = parse_json(file.read_text(encoding="utf-8"))
            if entry["key"] != self._key(adapter, bare) or entry["machine"] != machine():
                return None
            found = _Stored.model_validate(entry).found()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        found_for = found.hits if found.classes is None else found.classes
        if len(found_for) != self._records or (found.classes is None) != self._retrieves:
            return None
        self.reused.append(name)
        return found

    def save(self, name: str, adapter: StoredAdapter, found: Found, *, bare: bool = False) -> None:
        """Write what a system found; see `found`."""
        file = self._file(name)
        if file is None:
            return
        entry = {
            "system": name,
            "key": self._key(adapter, bare),
            "machine": machine(),
            "seconds": found.seconds,
            "hits": [[[hit.document, hit.score] for hit in ranked] for ranked in found.hits],
            "classes": None if found.classes is None else list(found.classes),
        }
        with atomic_text(file) as out:
            json.dump(entry, out)

    def _file(self, name: str) -> Path | None:
        return self.folder / f"{file_name(name)}.json" if self.folder is not None else None

    def _key(self, adapter: StoredAdapter, bare: bool) -> str:
        manifest = adapter.manifest
        of_adapter = [] if bare else [manifest.files, manifest.settings]
        parts = [self._conditions, manifest.base.fingerprint.model_dump(), of_adapter]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Stored(BaseModel):
    """What of an entry is used, and its types."""

    model_config = ConfigDict(allow_inf_nan=False)

    seconds: Annotated[float, Field(ge=0)]
    hits: list[list[tuple[str, float]]]
    classes: list[str] | None

    def found(self) -> Found:
        return Found(
            self.seconds,
            [[Hit(document, score) for document, score in ranked] for ranked in self.hits],
            self.classes,
        )


def _conditions(run: EncoderEvaluationRun) -> str:
    """All that is found depends on, besides the encoder."""
    parts = [
        f"{run.task.name} version {run.task.version}",
        DEPTH,
        [run.task.query(record) for record in run.records],
        [vars(document) for document in run.documents],
        [[run.task.query(record), run.task.label(record)] for record in run.labelled],
        run.classifier,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
