"""The runs of an experiment's systems: read where they lie, made where a pipeline or an adapter makes them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.collection import read_documents
from searchlora.errors import UsageError
from searchlora.eval.files import tree_sha256
from searchlora.eval.judgments.card import read_run_card, write_run_card
from searchlora.eval.judgments.lineage import RunLineage
from searchlora.eval.plain_json import write_json
from searchlora.eval.trec import write_run
from searchlora.experiments.figures import file_name
from searchlora.experiments.run import run_card, with_history
from searchlora.experiments.spec import Experiment, Source, System
from searchlora.models.resolve import resolve
from searchlora.pipelines.config import (
    AdapterSettings,
    Settings,
    build_pipeline,
    encoders,
    parse_stages,
    read_pipeline,
)
from searchlora.pipelines.pipeline import run_of
from searchlora.progress import Steps, unwatched
from searchlora.records import Document


@dataclass(frozen=True)
class MadeRun:
    """A system's run.

    Attributes:
        source: Where it lies.
        lineage: Which adapters worked in it; None where that is not known.
        costs: What a query cost, where it was made here.
        reused: Whether it was made by an earlier call, from the same inputs by the same versions.
    """

    source: Source
    lineage: RunLineage | None
    costs: Mapping[str, float]
    reused: bool = False


class Runs:
    """Makes what is not there yet.

    Args:
        topics: topic -> fields.
        inputs: Label -> sha256; a run made from others is made again.
        folder: Where made runs are kept.
    """

    def __init__(
        self,
        spec: Experiment,
        topics: Mapping[str, Mapping[str, Any]],
        inputs: Mapping[str, str],
        folder: Path,
        *,
        store: Store,
        tasks: str | Path | None = None,
        steps: Steps = unwatched,
    ) -> None:
        self.spec = spec
        self.topics = topics
        self.inputs = inputs
        self.folder = folder
        self.store = store
        self.tasks = tasks
        self.steps = steps

    def get(self, name: str) -> MadeRun:
        """The run of a system.

        Raises:
            UsageError: when it must be made and there is no corpus.
            What building and running a pipeline raises.
        """
        system = self.spec.systems[name]
        if system.run is not None:
            card = read_run_card(system.run.path)
            lineage = RunLineage(card.lineage) if card is not None else None
            return MadeRun(system.run, lineage, {})
        return self._made(name, system)

    @cached_property
    def documents(self) -> list[Document]:
        """The corpus. Raises `UsageError` where the experiment names none."""
        if self.spec.corpus is None:
            raise UsageError("a pipeline or an adapter needs documents to search in", fix="Name a file as 'corpus'.")
        return list(read_documents(self.spec.corpus))

    def _made(self, name: str, system: System) -> MadeRun:
        pipeline, stages = self._stages(name, system)
        key = self._key(pipeline, stages)
        path = self.folder / f"{file_name(name)}.trec"
        about = path.with_suffix(".json")
        if about.is_file() and path.is_file():
            then = json.loads(about.read_text(encoding="utf-8"))
            card = read_run_card(path)
            if then["key"] == key and card is not None:
                return MadeRun(Source(path=path, format="trec"), RunLineage(card.lineage), then["costs"], reused=True)
        built = build_pipeline(
            pipeline, stages, store=self.store, documents=self.documents, tasks=self.tasks, steps=self.steps
        )
        searches = [
            with_history({"id": topic, **fields}, f"{self.spec.topics.path}, topic {topic}")
            for topic, fields in self.topics.items()
        ]
        started = time.monotonic()
        done = built.run(searches, progress=self.steps(f"Searching: {name}"))
        costs = {"ms per query": 1000 * (time.monotonic() - started) / len(done)}
        write_run(path, run_of(done), built.tag)
        card = write_run_card(path, run_card(name, built, stages, self.store))
        write_json(about, {"key": key, "costs": costs})
        return MadeRun(Source(path=path, format="trec"), RunLineage(card.lineage), costs)

    def _stages(self, name: str, system: System) -> tuple[str, list[Settings]]:
        """Pipeline name and stages, every adapter in them by its pinned version."""
        if system.adapter is not None:
            retrieval = parse_stages(self.spec.retrieval, "retrieval")
            pipeline, stages = file_name(name), [AdapterSettings(name=system.adapter), *retrieval]
        else:
            overrides = [f"{key}={json.dumps(value)}" for key, value in system.set.items()]
            pipeline, stages = read_pipeline(str(system.pipeline), overrides)
        pinned = [
            stage.model_copy(update={"name": self.store.pin(stage.name)})
            if isinstance(stage, AdapterSettings)
            else stage
            for stage in stages
        ]
        return pipeline, pinned

    def _key(self, pipeline: str, stages: list[Settings]) -> str:
        """Everything that the run depends on: what goes in, the stages, and the weights of adapters and encoders."""
        adapters = [self.store.get(stage.name).manifest.files for stage in stages if isinstance(stage, AdapterSettings)]
        searching = [tree_sha256(resolve(encoder).path) for encoder in encoders(stages)]
        settings = [[type(stage).__name__, stage.model_dump(mode="json")] for stage in stages]
        inputs = [self.inputs["topics"], self.inputs.get("corpus")]
        parts = [pipeline, settings, adapters, searching, inputs]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
