"""Cache of model outputs on disk, keyed by prompts, rendering, decoding options, base, adapter, settings and engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from searchlora.adapters.stored import StoredAdapter
from searchlora.experiments.evaluation_run import EvaluationRun
from searchlora.experiments.result_files import file_name, machine
from searchlora.files import atomic_text, parse_json
from searchlora.inference.settings import LocalSettings
from searchlora.outputs import from_json, is_output_of, to_json
from searchlora.prompts import RENDERING, messages
from searchlora.task import GenerationTask


@dataclass(frozen=True)
class Model:
    """A system that is a model: an adapter on its base, or (`bare`) that base without the adapter."""

    name: str
    adapter: StoredAdapter
    bare: bool = False

    @property
    def reference(self) -> str | None:
        """The adapter that an engine applies; None for the bare base."""
        return None if self.bare else self.adapter.reference

    def task(self, evaluation_run: EvaluationRun) -> GenerationTask:
        """The evaluation run's task with this adapter's settings and, unless bare, its tuned values."""
        manifest = self.adapter.manifest
        return evaluation_run.task.bound(manifest.settings, None if self.bare else manifest.tuned)


class OutputCache:
    """The cached outputs of one evaluation run, one JSON file per model.

    Args:
        folder: Where the files are; None: nothing is read or written.

    Attributes:
        reused: Names of the models whose outputs were read from the cache.
    """

    def __init__(self, folder: Path | None, evaluation_run: EvaluationRun) -> None:
        self.folder = folder
        self.reused: list[str] = []
        self._conditions = _conditions(evaluation_run)
        self._records = evaluation_run.records

    def outputs(
        self, model: Model, engine_id: str, task: GenerationTask | None = None
    ) -> tuple[list[Any], dict[str, float]] | None:
        """A model's outputs and costs for exactly these prompts; None where they are not in the cache.

        Costs are returned only if they were measured on this machine: costs of two machines are not comparable.

        Args:
            engine_id: The engine, see `Engine.engine_id`; outputs of another one are not returned.
            task: The model's task; outputs that its forms cannot have are not returned.
        """
        file = self._file(model)
        if file is None or not file.is_file():
            return None
        try:
            entry = parse_json(file.read_text(encoding="utf-8"))
            if entry["key"] != self._key(model, engine_id):
                return None
            outputs = [from_json(value) for value in entry["outputs"]]
            costs = {str(name): float(value) for name, value in entry["costs"].items()}
            if not all(map(isfinite, costs.values())):
                return None
            costs = costs if entry["machine"] == machine() else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None
        if task is not None and not self._fit(task, outputs):
            return None
        self.reused.append(model.name)
        return outputs, costs

    def _fit(self, task: GenerationTask, outputs: Sequence[Any]) -> bool:
        """Whether there is an output for each record, and one that the record's form can have."""
        return len(outputs) == len(self._records) and all(
            is_output_of(task.output(record), output) for record, output in zip(self._records, outputs, strict=True)
        )

    def save(self, model: Model, engine_id: str, outputs: Sequence[Any], costs: Mapping[str, float]) -> None:
        """Write a model's outputs; outputs of a type that JSON cannot represent are not cached."""
        file = self._file(model)
        if file is None:
            return
        try:
            values = [to_json(output) for output in outputs]
        except TypeError:
            return
        entry = {
            "system": model.name,
            "key": self._key(model, engine_id),
            "engine": engine_id,
            "machine": machine(),
            "costs": dict(costs),
            "outputs": values,
        }
        with atomic_text(file) as out:
            json.dump(entry, out, indent=1)

    def _file(self, model: Model) -> Path | None:
        return self.folder / f"{file_name(model.name)}.json" if self.folder is not None else None

    def _key(self, model: Model, engine_id: str) -> str:
        manifest = model.adapter.manifest
        precision = manifest.precision
        # Earlier releases had one engine, whose outputs stay valid.
        engine = precision if engine_id == LocalSettings().engine_id(precision) else engine_id
        weights = {} if model.bare else manifest.files
        task = [manifest.settings, {} if model.bare else manifest.tuned]
        base = [manifest.base.fingerprint.model_dump(), engine]
        parts = [*base, weights, task, manifest.prompt_options.model_dump()]
        return hashlib.sha256((self._conditions + json.dumps(parts, sort_keys=True)).encode()).hexdigest()


def _conditions(evaluation_run: EvaluationRun) -> str:
    """All that an output depends on besides the model: prompts, rendering, decoding options, and the task's version."""
    chats = [[dict(message) for message in messages(evaluation_run.task, record)] for record in evaluation_run.records]
    chats_sha256 = hashlib.sha256(json.dumps(chats).encode()).hexdigest()
    options = {"max_new_tokens": evaluation_run.max_new_tokens, "constrained": evaluation_run.constrained}
    task = f"{evaluation_run.task.name} version {evaluation_run.task.version}"
    return json.dumps([chats_sha256, RENDERING, options, task])
