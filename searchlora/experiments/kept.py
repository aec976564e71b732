"""Outputs of models, kept in files and taken from there when they would come out the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.stored import StoredAdapter
from searchlora.eval.files import atomic_text
from searchlora.experiments.figures import file_name
from searchlora.experiments.machine import machine
from searchlora.experiments.trial import Trial
from searchlora.output_json import from_json, to_json
from searchlora.prompts import messages
from searchlora.task import PromptedTask


@dataclass(frozen=True)
class Model:
    """A system that is a model: an adapter on its base, or (`bare`) that base alone."""

    name: str
    adapter: StoredAdapter
    bare: bool = False

    @property
    def reference(self) -> str | None:
        """What an engine is asked for."""
        return None if self.bare else self.adapter.reference

    def task(self, trial: Trial) -> PromptedTask:
        """The trial's task as this model does it: with the adapter's settings, and what was tuned for it."""
        manifest = self.adapter.manifest
        return trial.task.bound(manifest.settings, None if self.bare else manifest.tuned)


class Kept:
    """The kept outputs of a trial.

    Args:
        folder: Where they lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None, trial: Trial) -> None:
        self.folder = folder
        self.asked = _asked(trial)
        self.reused: list[str] = []

    def outputs(self, model: Model) -> tuple[list[Any], dict[str, float]] | None:
        """What a model answered to these very prompts before, and at what cost; None: it was not asked.

        Costs are of this machine only: those of another would be held against the others' here.
        """
        file = self._file(model)
        if file is None or not file.is_file():
            return None
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["key"] != self._key(model):
                return None
            outputs = [from_json(each) for each in kept["outputs"]]
            costs = kept["costs"] if kept["machine"] == machine() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self.reused.append(model.name)
        return outputs, costs

    def save(self, model: Model, outputs: Sequence[Any], costs: Mapping[str, float]) -> None:
        """Keep a model's outputs, unless a task's own kind of value is among them, which no file can hold."""
        file = self._file(model)
        if file is None:
            return
        try:
            lines = [to_json(each) for each in outputs]
        except TypeError:
            return
        kept = {
            "system": model.name,
            "key": self._key(model),
            "machine": machine(),
            "costs": dict(costs),
            "outputs": lines,
        }
        with atomic_text(file) as out:
            json.dump(kept, out, indent=1)

    def _file(self, model: Model) -> Path | None:
        return self.folder / f"{file_name(model.name)}.json" if self.folder is not None else None

    def _key(self, model: Model) -> str:
        manifest = model.adapter.manifest
        weights = {} if model.bare else manifest.files
        task = [manifest.settings, {} if model.bare else manifest.tuned]
        how = [manifest.base.fingerprint.model_dump(), manifest.recipe["precision"], weights, task]
        return hashlib.sha256((self.asked + json.dumps(how, sort_keys=True)).encode()).hexdigest()


def _asked(trial: Trial) -> str:
    """Everything but the model that an answer depends on: the prompts themselves, and how they are answered."""
    prompts = [[dict(message) for message in messages(trial.task, record)] for record in trial.records]
    of_prompts = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    how = {"max_new_tokens": trial.max_new_tokens, "constrained": trial.constrained}
    return json.dumps([of_prompts, how, f"{trial.task.name} version {trial.task.version}"])
