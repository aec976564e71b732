"""Outputs of models, kept in files and taken from there when they would come out the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.stored import StoredAdapter
from searchlora.eval.files import atomic_text
from searchlora.experiments.trial import Trial
from searchlora.outputs import InvalidOutput
from searchlora.prompts import messages


class Kept:
    """The kept outputs of a trial.

    Args:
        folder: Where they lie; None keeps nothing.
        adapter: Whose base, precision and weights are part of what must be the same.
    """

    def __init__(self, folder: Path | None, trial: Trial, adapter: StoredAdapter) -> None:
        self.folder = folder
        self.adapter = adapter
        self.conditions = _conditions(trial, adapter)
        self.reused: list[str] = []

    def outputs(self, system: str, *, with_adapter: bool) -> list[Any] | None:
        """What a system answered under these very conditions before; None where it has not been asked."""
        file = self._file(system)
        if file is None or not file.is_file():
            return None
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] != self._key(with_adapter):
            return None
        self.reused.append(system)
        return [InvalidOutput(**each["invalid"]) if "invalid" in each else each["value"] for each in kept["outputs"]]

    def save(self, system: str, outputs: Sequence[Any], *, with_adapter: bool) -> None:
        """Keep a system's outputs; those that are not plain JSON values are not kept."""
        file = self._file(system)
        if file is None or any(is_dataclass(each) and not isinstance(each, InvalidOutput) for each in outputs):
            return
        lines = [{"invalid": asdict(each)} if isinstance(each, InvalidOutput) else {"value": each} for each in outputs]
        with atomic_text(file) as out:
            json.dump({"system": system, "key": self._key(with_adapter), "outputs": lines}, out, indent=1)

    def _file(self, system: str) -> Path | None:
        return self.folder / f"{system.replace(' ', '-')}.json" if self.folder is not None else None

    def _key(self, with_adapter: bool) -> str:
        weights = self.adapter.manifest.files if with_adapter else {}
        return hashlib.sha256((self.conditions + json.dumps(weights, sort_keys=True)).encode()).hexdigest()


def _conditions(trial: Trial, adapter: StoredAdapter) -> str:
    """Everything but the adapter that an answer depends on: the prompts themselves, the base, how it is run."""
    prompts = [[dict(message) for message in messages(trial.task, record)] for record in trial.records]
    manifest = adapter.manifest
    return json.dumps(
        [
            hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
            manifest.base.fingerprint.model_dump(),
            manifest.recipe["precision"],
            trial.max_new_tokens,
            f"{trial.task.name} version {trial.task.version}",
        ]
    )
