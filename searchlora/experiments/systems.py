"""The runs of an experiment's systems: existing run files, or runs computed by a pipeline or an adapter."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from searchlora.adapters.full_model import base_of
from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.formatting import write_json
from searchlora.eval.judgments.card import RunCard, read_run_card, write_run_with_card
from searchlora.eval.judgments.lineage import RunLineage, lineage_of
from searchlora.experiments.result_files import file_name, machine
from searchlora.experiments.run import run_card, task_identity, with_history
from searchlora.experiments.spec import Experiment, Source, System
from searchlora.files import file_sha256, parse_json, tree_sha256
from searchlora.inference.engines import Engines
from searchlora.inference.settings import LocalSettings
from searchlora.models.resolve import resolve
from searchlora.pipelines.config import parse_stages, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.engine_load import generations
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, run_of
from searchlora.pipelines.results import INVALID
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.stage import StageSettings, needs_of, pinned
from searchlora.progress import Steps, no_progress
from searchlora.records import Document, SearchContext
from searchlora.task import load_task


@dataclass(frozen=True)
class Plan:
    """How the run of a system is computed.

    Attributes:
        pipeline: The name of the pipeline.
        stages: The settings of its stages, with pinned adapters.
        sha256: Hash of the settings, the weights of adapters and encoders, the versions of the adapters' tasks, and the
            generations of indexes in search engines.
    """

    pipeline: str
    stages: Sequence[StageSettings]
    sha256: str


@dataclass(frozen=True)
class SystemRun:
    """The run of a system.

    Attributes:
        source: The run file.
        card: The adapters and encoders that took part; None if unknown.
        costs: Costs per query, if the run was computed on this machine.
        parts: Part of the pipeline -> its costs per query, where they were measured one by one, likewise.
        invalid: Topic -> why an output of an adapter is invalid, or a stage was skipped; None if unknown.
        reused: Whether the run was computed by an earlier call from the same inputs and versions.
    """

    source: Source
    card: RunCard | None
    costs: Mapping[str, float]
    invalid: Mapping[str, str] | None = None
    reused: bool = False
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def lineage(self) -> RunLineage | None:
        """The adapters, their ancestors and the encoders; None if unknown."""
        return lineage_of(self.card)


@dataclass(frozen=True)
class Executed:
    """A pipeline, what it did with the searches, and its costs as in `SystemRun`."""

    pipeline: Pipeline
    searches: Sequence[SearchContext]
    costs: Mapping[str, float]
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def plans(spec: Experiment, store: Store, tasks: str | Path | None = None) -> dict[str, Plan]:
    """System -> plan, for the systems without a run file.

    Raises:
        PipelineError: for a pipeline that cannot be read.
        InvalidName, NotInStore, BaseModelError: for a missing adapter or encoder.
        EngineError: if a server cannot say what it serves.
    """
    engines = Engines(store)
    return {
        name: _plan(name, system, spec, engines, tasks) for name, system in spec.systems.items() if system.run is None
    }


class SystemRuns:
    """Computes and caches the runs of an experiment's systems.

    A run is not reused if a stage was skipped, which may be a matter of the moment, or if a stage `http` searches an
    engine, whose content is unknown.

    Args:
        planned: System -> plan.
        topics: Topic -> fields.
        inputs: Label -> sha256 of the inputs; a cached run from other inputs is computed again.
        folder: Folder of computed runs.
    """

    def __init__(
        self,
        spec: Experiment,
        planned: Mapping[str, Plan],
        topics: Mapping[str, Mapping[str, Any]],
        inputs: Mapping[str, str],
        folder: Path,
        *,
        store: Store,
        tasks: str | Path | None = None,
        steps: Steps = no_progress,
    ) -> None:
        self.spec = spec
        self.planned = planned
        self.topics = topics
        self.inputs = inputs
        self.folder = folder
        self.store = store
        self.tasks = tasks
        self.steps = steps

    def get(self, name: str) -> SystemRun:
        """The run of a system.

        Raises:
            UsageError: if the run must be computed and the experiment has no corpus.
            PipelineError, BaseModelError, LoadCheckFailed: as building and executing a pipeline.
        """
        run = self.spec.systems[name].run
        return (
            SystemRun(run, read_run_card(run.path), {}) if run is not None else self._computed(name, self.planned[name])
        )

    @cached_property
    def documents(self) -> IndexedCorpus:
        """The corpus. Raises `UsageError` if the experiment has none, `StaleIndex` for an index that has changed."""
        if self.spec.documents is None:
            raise UsageError("a pipeline or an adapter needs documents to search in", fix="Give a file as 'corpus'.")
        return open_corpus(self.spec.documents)

    def _computed(self, name: str, plan: Plan) -> SystemRun:
        key = self._key(plan)
        path = self.folder / f"{file_name(name)}.trec"
        metadata = path.with_suffix(".json")
        if key is not None and (cached := _cached(path, metadata, key)) is not None:
            return cached
        done = self._executed(name, plan, self.searches)
        built, invalid = done.pipeline, _invalid(done.searches)
        write_json(metadata, {})  # an interruption leaves a run that is computed again
        card = write_run_with_card(path, run_of(done.searches), built.tag, run_card(name, built, self.store))
        if any(search.get("skipped") for search in done.searches):
            key = None
        kept = {"key": key, "machine": machine(), "costs": done.costs, "parts": done.parts, "invalid": invalid}
        write_json(metadata, kept)
        return SystemRun(Source(path=path, format="trec"), card, done.costs, invalid, parts=done.parts)

    @cached_property
    def searches(self) -> list[SearchContext]:
        """A search for each topic."""
        return [
            with_history({"id": topic, **fields}, f"{self.spec.topics.path}, topic {topic}")
            for topic, fields in self.topics.items()
        ]

    def _executed(self, name: str, plan: Plan, searches: Sequence[SearchContext]) -> Executed:
        """Build and execute a pipeline."""
        stages = list(plan.stages)
        documents: IndexedCorpus | Sequence[Document] = self.documents if needs_of(stages).corpus else []
        built = build_pipeline(
            plan.pipeline, stages, store=self.store, documents=documents, tasks=self.tasks, steps=self.steps
        )
        started = time.monotonic()
        done = built.execute(searches, progress=self.steps(f"Searching: {name}"))
        return Executed(built, done, {"ms per query": 1000 * (time.monotonic() - started) / len(done)})

    def _key(self, plan: Plan) -> str | None:
        """Hash of everything that the run depends on: plan, inputs and topics; None if that is unknown."""
        if needs_of(plan.stages).unversioned:
            return None
        parts = [plan.sha256, self.inputs["topics"], self.inputs.get("corpus"), sorted(self.topics)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _plan(name: str, system: System, spec: Experiment, engines: Engines, tasks: str | Path | None) -> Plan:
    engine = system.engine or spec.engine
    if system.adapter is not None:
        retrieval = parse_stages(spec.retrieval, "retrieval")
        pipeline, unpinned = file_name(name), [AdapterSettings(name=system.adapter, engine=engine), *retrieval]
    else:
        overrides = [f"{key}={json.dumps(value)}" for key, value in system.set.items()]
        config = read_pipeline(str(system.pipeline), overrides, engine)
        pipeline, unpinned = config.name, list(config.stages)
    return plan_of(pipeline, unpinned, engines, tasks)


def plan_of(pipeline: str, stages: Sequence[StageSettings], engines: Engines, tasks: str | Path | None = None) -> Plan:
    """The plan of a pipeline with these stages, whose adapters are pinned.

    Raises:
        InvalidName, NotInStore, BaseModelError: for a missing adapter or encoder.
        EngineError: if a server cannot say what it serves, or a search engine which index it holds.
    """
    store = engines.store
    stages = pinned(stages, store.pin)
    manifests = [store.get(adapter).manifest for adapter in needs_of(stages).adapters]
    without_adapter = [store.get(adapter).manifest for adapter in needs_of(stages).zero_shot]
    bases = [manifest.base.fingerprint.model_dump() for manifest in without_adapter]
    weights = [manifest.files for manifest in manifests]
    plugins = [load_task(manifest.task, tasks).bound(manifest.settings) for manifest in [*manifests, *without_adapter]]
    versions = [task_identity(task) for task in plugins]
    encoder_hashes = [tree_sha256(resolve(encoder).path) for encoder in needs_of(stages).encoders]
    settings = [[type(stage).__name__, _identity(stage, engines)] for stage in stages]
    supplied = [file_sha256(run) for run in needs_of(stages).runs]
    more = [part for part in (supplied, bases, generations(stages)) if part]
    identity = [pipeline, settings, weights, versions, encoder_hashes, *more]
    parts = json.dumps(identity, sort_keys=True)
    return Plan(pipeline, stages, hashlib.sha256(parts.encode()).hexdigest())


def _identity(stage: StageSettings, engines: Engines) -> dict[str, Any]:
    """The settings of a stage on which its outputs depend; of an engine, what distinguishes its outputs."""
    settings = stage.identity()
    if isinstance(stage, AdapterSettings) and stage.engine is not None:
        stored = engines.store.get(stage.name)
        manifest = stored.manifest
        base = manifest.base.resolve()
        base = base if stage.zero_shot else base_of(stored, base)
        precision = manifest.precision
        engine_id = engines.engine_id(base, precision, settings=stage.engine)
        settings["engine"] = None if engine_id == LocalSettings().engine_id(precision) else engine_id
    return settings


def _cached(path: Path, metadata: Path, key: str) -> SystemRun | None:
    """The run that an earlier call computed with the same key, or None; its costs only if measured on this machine.

    Raises:
        DataError: if the run file was changed.
    """
    try:
        stored = parse_json(metadata.read_text(encoding="utf-8"))
        if stored["key"] != key or not path.is_file():
            return None
        own = stored["machine"] == machine()
        costs, parts = (stored["costs"], stored.get("parts", {})) if own else ({}, {})
        invalid = stored["invalid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    card = read_run_card(path)
    if card is None:
        return None
    return SystemRun(Source(path=path, format="trec"), card, costs, invalid, reused=True, parts=parts)


def _invalid(searches: Sequence[SearchContext]) -> dict[str, str]:
    """Topic -> why an output is invalid, or a stage was skipped."""
    found: dict[str, str] = {}
    for search in searches:
        reasons = [reason for _, reason in search.get(INVALID, ())]
        reasons += [f"{stage} was skipped: {reason}" for stage, reason in search.get("skipped", {}).items()]
        if reasons:
            found[str(search["id"])] = reasons[-1]
    return found
