"""Systems that are an LLM: a model on an engine, a stored adapter, and its base zero-shot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from searchlora.adapters.full_model import base_of
from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import UsageError
from searchlora.eval.judgments.lineage import RunLineage
from searchlora.files.result_cache import cache_key
from searchlora.inference.engine import Engine
from searchlora.inference.engines import Engines
from searchlora.inference.metered import MeteredEngine
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.outputs import is_output_of
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.stage import Stage
from searchlora.progress import Progress, silent
from searchlora.prompts import RENDERING, Renderer, messages
from searchlora.records import Record
from searchlora.systems.lineage import run_lineage
from searchlora.systems.system import BASE, Outputs, System
from searchlora.task import GenerationTask, Task


def check_loads(stored: StoredAdapter, base: BaseModel, task: Task) -> None:
    """Raise `LoadCheckFailed` for a version that cannot be used any more, such as one of an earlier prompt."""
    check_files(stored, base)
    if isinstance(task, GenerationTask):
        check_renders(stored, task, Renderer(load_tokenizer(base)))


def ask_in_batches(stage: Stage, records: Sequence[Record], size: int, progress: Progress) -> list[Any]:
    """The output of a stage for each record, `size` records in a call."""
    outputs: list[Any] = []
    for start in range(0, len(records), size):
        outputs += stage.ask(records[start : start + size])
        progress(len(outputs), len(records))
    return outputs


class EngineSystem(System):
    """A model that an engine has loaded answers the records of a task."""

    task: GenerationTask

    def __init__(
        self,
        name: str,
        task: GenerationTask,
        engine: Engine,
        adapter: str | None = None,
        *,
        max_new_tokens: int = 64,
        constrained: bool = True,
        continue_after_choice: bool = True,
    ) -> None:
        self.name, self.task, self.adapter = name, task, adapter
        self.max_new_tokens, self.constrained, self.continue_after_choice = (
            max_new_tokens,
            constrained,
            continue_after_choice,
        )
        self.engine = engine

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        return Pipeline(self.name, [self._stage(self.engine)]).batch_size

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        engine = MeteredEngine(self.engine)
        stage = self._stage(engine)
        size = self.batch_size
        started = time.monotonic()
        outputs = ask_in_batches(stage, rows, size, progress)
        costs = {
            "ms per query": 1000 * (time.monotonic() - started) / len(rows),
        }
        if not engine.uncounted:
            costs["prompt tokens per query"] = engine.prompt_tokens / len(rows)
            costs["new tokens per query"] = engine.output_tokens / len(rows)
        return Outputs(outputs, costs=costs)

    def _stage(self, engine: Engine) -> AdapterStage:
        return AdapterStage(
            self.task, engine, self.adapter, self.max_new_tokens, self.constrained, self.continue_after_choice
        )


class AdapterSystem(EngineSystem):
    """An adapter of the store; its engine is loaded when the first record is answered."""

    def __init__(
        self,
        stored: StoredAdapter,
        task: GenerationTask,
        engines: Engines,
        *,
        name: str | None = None,
        constrained: bool = True,
    ) -> None:
        manifest = stored.manifest
        if manifest.task != task.name:
            raise UsageError(
                f"is an adapter for the task '{manifest.task}', not for '{task.name}'", where=stored.reference
            )
        self.stored, self.engines = stored, engines
        self.base = manifest.base.resolve()
        self.name, self.adapter = name or self._reference or BASE, self._reference
        self.task = task.bound(manifest.settings, self._tuned)
        self.max_new_tokens, self.constrained, self.continue_after_choice = manifest.max_new_tokens, constrained, True

    def check(self) -> None:
        """Run the load check before any long work. Raises `LoadCheckFailed`."""
        check_loads(self.stored, self.base, self.task)

    @cached_property
    def engine(self) -> Engine:  # type: ignore[override]
        return self.engines.get(*self._model, prompt_options=self.stored.manifest.prompt_options)

    @cached_property
    def engine_id(self) -> str:  # type: ignore[override]
        return self.engines.engine_id(*self._model, prompt_options=self.stored.manifest.prompt_options)

    @property
    def lineage(self) -> RunLineage:
        return run_lineage(self.engines.store, [self.stored.reference])

    @property
    def fingerprint(self) -> str:
        manifest = self.stored.manifest
        return cache_key(
            "model",
            manifest.base.fingerprint.model_dump(),
            self.engine_id,
            self._weights,
            [self.task.name, self.task.version, manifest.settings, self._tuned],
            manifest.prompt_options.model_dump(),
            [RENDERING, self.max_new_tokens, self.constrained],
        )

    def row_key(self, row: Record) -> Any:
        return [dict(message) for message in messages(self.task, row)]

    def accepts(self, row: Record, output: Any) -> bool:
        return is_output_of(self.task.output(row), output)

    @property
    def _reference(self) -> str | None:
        return self.stored.reference

    @property
    def _tuned(self) -> Mapping[str, Any] | None:
        return self.stored.manifest.tuned

    @property
    def _weights(self) -> Mapping[str, str]:
        return self.stored.manifest.files

    @property
    def _model(self) -> tuple[BaseModel, Any]:
        return base_of(self.stored, self.base), self.stored.manifest.precision


class ZeroShotSystem(AdapterSystem):
    """The base of an adapter without the adapter, by the same prompts."""

    @property
    def lineage(self) -> RunLineage:
        return run_lineage(self.engines.store, (), [self.stored.manifest.base.name])

    @property
    def _reference(self) -> None:
        return None

    @property
    def _tuned(self) -> None:
        return None

    @property
    def _weights(self) -> Mapping[str, str]:
        return {}

    @property
    def _model(self) -> tuple[BaseModel, Any]:
        return self.base, self.stored.manifest.precision
