"""The runs of an experiment's systems: read where they lie, made where a pipeline or an adapter makes them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.store import Store
from searchlora.data.collection import read_documents
from searchlora.errors import UsageError
from searchlora.eval.formatting import write_json
from searchlora.eval.judgments.card import RunCard, read_run_card, write_run_card
from searchlora.eval.judgments.lineage import RunLineage
from searchlora.eval.trec import write_run
from searchlora.experiments.result_files import file_name, machine
from searchlora.experiments.run import run_card, with_history
from searchlora.experiments.spec import Experiment, Source, System
from searchlora.files import tree_sha256
from searchlora.models.resolve import resolve
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.config import (
    AdapterSettings,
    Settings,
    adapters,
    encoders,
    parse_stages,
    pinned,
    read_pipeline,
)
from searchlora.pipelines.pipeline import build_pipeline, run_of
from searchlora.progress import Steps, unwatched
from searchlora.records import Document, SearchContext
from searchlora.task import PromptedTask, load_task


@dataclass(frozen=True)
class Plan:
    """How a system's run is made.

    Attributes:
        pipeline: Its name.
        stages: Every adapter in them by its pinned version.
        sha256: Of the settings, of the weights of adapters and encoders, and of the versions of adapters' tasks.
    """

    pipeline: str
    stages: Sequence[Settings]
    sha256: str


@dataclass(frozen=True)
class MadeRun:
    """A system's run.

    Attributes:
        source: Where it lies.
        card: Who worked in it; None where that is not known.
        costs: What a query cost, where it was made here.
        invalid: topic -> why an output of an adapter did not parse; None where that is not known.
        reused: Whether it was made by an earlier call, from the same inputs by the same versions.
    """

    source: Source
    card: RunCard | None
    costs: Mapping[str, float]
    invalid: Mapping[str, str] | None = None
    reused: bool = False

    @property
    def lineage(self) -> RunLineage | None:
        """The adapters, their ancestors and the encoders; None where they are not known."""
        return RunLineage(self.card.lineage) if self.card is not None else None


def plans(spec: Experiment, store: Store, tasks: str | Path | None = None) -> dict[str, Plan]:
    """System -> how it is made, of those that have no run yet.

    Raises:
        PipelineError: for a pipeline that cannot be read.
        InvalidName, NotInStore, BaseModelError: for an adapter or an encoder that is not there.
    """
    return {
        name: _plan(name, system, spec, store, tasks) for name, system in spec.systems.items() if system.run is None
    }


class Runs:
    """Makes what is not there yet.

    Args:
        planned: How.
        topics: topic -> fields.
        inputs: Label -> sha256; a run made from others is made again.
        folder: Where made runs are kept.
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
        steps: Steps = unwatched,
    ) -> None:
        self.spec = spec
        self.planned = planned
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
        run = self.spec.systems[name].run
        return MadeRun(run, read_run_card(run.path), {}) if run is not None else self._made(name, self.planned[name])

    @cached_property
    def documents(self) -> list[Document]:
        """The corpus. Raises `UsageError` where the experiment names none."""
        if self.spec.corpus is None:
            raise UsageError("a pipeline or an adapter needs documents to search in", fix="Name a file as 'corpus'.")
        return list(read_documents(self.spec.corpus))

    def _made(self, name: str, plan: Plan) -> MadeRun:
        key = self._key(plan)
        path = self.folder / f"{file_name(name)}.trec"
        about = path.with_suffix(".json")
        if (known := _known(path, about, key)) is not None:
            return known
        stages = list(plan.stages)
        built = build_pipeline(
            plan.pipeline, stages, store=self.store, documents=self.documents, tasks=self.tasks, steps=self.steps
        )
        searches = [
            with_history({"id": topic, **fields}, f"{self.spec.topics.path}, topic {topic}")
            for topic, fields in self.topics.items()
        ]
        started = time.monotonic()
        done = built.execute(searches, progress=self.steps(f"Searching: {name}"))
        costs = {"ms per query": 1000 * (time.monotonic() - started) / len(done)}
        asked = any(isinstance(stage, AdapterSettings) for stage in stages)
        invalid = _invalid(done) if asked else {}
        write_json(about, {})  # so that a kill in between leaves a run that is made anew
        write_run(path, run_of(done), built.tag)
        card = write_run_card(path, run_card(name, built, stages, self.store))
        write_json(about, {"key": key, "machine": machine(), "costs": costs, "invalid": invalid})
        return MadeRun(Source(path=path, format="trec"), card, costs, invalid)

    def _key(self, plan: Plan) -> str:
        """Everything that the run depends on: how it is made, from what, and for which topics."""
        parts = [plan.sha256, self.inputs["topics"], self.inputs.get("corpus"), sorted(self.topics)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _plan(name: str, system: System, spec: Experiment, store: Store, tasks: str | Path | None) -> Plan:
    if system.adapter is not None:
        retrieval = parse_stages(spec.retrieval, "retrieval")
        pipeline, written = file_name(name), [AdapterSettings(name=system.adapter), *retrieval]
    else:
        overrides = [f"{key}={json.dumps(value)}" for key, value in system.set.items()]
        pipeline, written = read_pipeline(str(system.pipeline), overrides)
    stages = pinned(written, store.pin)
    manifests = [store.get(adapter).manifest for adapter in adapters(stages)]
    weights = [manifest.files for manifest in manifests]
    # A task's own code may have changed since: its version and prompt say so.
    plugins = [load_task(manifest.task, tasks).bound(manifest.settings) for manifest in manifests]
    versions = [[each.version, prompt_hash(each) if isinstance(each, PromptedTask) else None] for each in plugins]
    searching = [tree_sha256(resolve(encoder).path) for encoder in encoders(stages)]
    settings = [[type(stage).__name__, stage.model_dump(mode="json")] for stage in stages]
    parts = json.dumps([pipeline, settings, weights, versions, searching], sort_keys=True)
    return Plan(pipeline, stages, hashlib.sha256(parts.encode()).hexdigest())


def _known(path: Path, about: Path, key: str) -> MadeRun | None:
    """The run that an earlier call made of the same; costs are those of this machine only.

    Raises:
        DataError: when it was changed since.
    """
    try:
        then = json.loads(about.read_text(encoding="utf-8"))
        if then["key"] != key or not path.is_file():
            return None
        costs = then["costs"] if then["machine"] == machine() else {}
        invalid = then["invalid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    card = read_run_card(path)
    return MadeRun(Source(path=path, format="trec"), card, costs, invalid, reused=True) if card is not None else None


def _invalid(searches: Sequence[SearchContext]) -> dict[str, str]:
    """Topic -> why an output did not parse."""
    return {
        str(search["id"]): output.reason
        for search in searches
        for outputs in search["outputs"].values()
        for output in outputs
        if isinstance(output, InvalidOutput)
    }
