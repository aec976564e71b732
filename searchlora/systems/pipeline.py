"""The system that is a pipeline: which pipeline it is, what its hits depend on, and which models take part."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from searchlora.adapters.full_model import base_of
from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.store import Store
from searchlora.adapters.stored import package_versions
from searchlora.data.dataset import Dataset, load_dataset
from searchlora.errors import PipelineError, RowError
from searchlora.eval.judgments.card import RunCard, read_run_card
from searchlora.eval.judgments.lineage import RunLineage, lineage_of
from searchlora.files import file_sha256, tree_sha256
from searchlora.files.result_cache import cache_key
from searchlora.inference.engines import Engines
from searchlora.inference.settings import LocalSettings
from searchlora.models.resolve import public_name, resolve
from searchlora.pipelines.engine_load import generations
from searchlora.pipelines.execution import WRITTEN
from searchlora.pipelines.pipeline import Pipeline, run_of
from searchlora.pipelines.results import INVALID
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.classical import unchanged_dataset
from searchlora.pipelines.stages.stage import StageSettings, needs_of, pinned
from searchlora.progress import Progress, silent
from searchlora.records import Record, SearchContext
from searchlora.retrieval.learning_to_rank import ranking_card
from searchlora.systems.lineage import learned_queries, run_lineage
from searchlora.systems.system import Outputs, System
from searchlora.task import GenerationTask, Task, load_generation_task, load_task, task_names


@dataclass(frozen=True)
class Plan:
    """Which pipeline a system is."""

    pipeline: str
    stages: Sequence[StageSettings]
    sha256: str


class PipelineSystem(System):
    """A pipeline that retrieves."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        build: Callable[[Plan], Pipeline],
        store: Store,
        *,
        corpus: str | None = None,
        topics: Path | None = None,
    ) -> None:
        self.name, self.plan, self.store = name, plan, store
        self._build, self._corpus, self._topics = build, corpus, topics

    @cached_property
    def pipeline(self) -> Pipeline:
        """The built pipeline. Raises `PipelineError`, `BaseModelError`, `LoadCheckFailed`."""
        return self._build(self.plan)

    @property
    def batch_size(self) -> int | None:  # type: ignore[override]
        return self.pipeline.batch_size

    @property
    def fingerprint(self) -> str | None:
        """None for a pipeline that searches an engine by HTTP, whose content is unknown."""
        return None if needs_of(self.plan.stages).unversioned else cache_key("pipeline", self.plan.sha256, self._corpus)

    @property
    def lineage(self) -> RunLineage | None:
        return lineage_of(self.planned_card())

    def planned_card(self) -> RunCard:
        """The models that take part; nothing is built, so that the engines and the tag are unknown."""
        return run_card(self.name, Pipeline(self.name, (), tuple(self.plan.stages)), self.store)

    def card(self) -> RunCard:
        """The card of its run."""
        return run_card(self.name, self.pipeline, self.store)

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        pipeline, searches = self.pipeline, searches_of(rows, self._topics)
        started = time.monotonic()
        executed = pipeline.execute(searches, progress=progress)
        return outputs_of(executed, {"ms per query": 1000 * (time.monotonic() - started) / len(rows)})

    def finish(self) -> None:
        """Release the pipeline, so that the models and indexes of one system are in memory at a time."""
        self.__dict__.pop("pipeline", None)


def outputs_of(
    executed: Sequence[SearchContext],
    costs: Mapping[str, float],
    parts: Mapping[str, Mapping[str, float]] | None = None,
) -> Outputs:
    """The outputs of searches after a pipeline."""
    invalid: dict[str, str] = {}
    for search in executed:
        if "hits" not in search:
            raise PipelineError("no stage retrieves, so there is nothing to measure", where=f"topic {search['id']}")
        reasons = [reason for _, reason in search.get(INVALID, ())]
        reasons += [f"{stage} was skipped: {reason}" for stage, reason in search.get("skipped", {}).items()]
        if reasons:
            invalid[str(search["id"])] = reasons[-1]
    passing = {str(search["id"]) for search in executed if search.get("skipped")}
    return Outputs([None] * len(executed), run_of(executed), invalid, costs, parts or {}, passing)


def searches_of(rows: Sequence[Record], topics: Path | None = None) -> list[SearchContext]:
    """A search for each row of a file of topics; `history` is a list of turns. Raises `RowError`."""
    place = f"{topics}, topic" if topics is not None else "topic"
    return [with_history(row, f"{place} {row['id']}") for row in rows]


def with_history(search: Record, where: str) -> Record:
    """The search with `history` as a list of turns; a table cell may hold it as JSON. Raises `RowError`.

    What the stages of an earlier search have written, in a row of its results, is left out.
    """
    search = {key: value for key, value in search.items() if key not in WRITTEN}
    history = search.get("history")
    if history in (None, ""):
        return {key: value for key, value in search.items() if key != "history"}
    try:
        turns = json.loads(history) if isinstance(history, str) else history
        valid = all({"role", "text"} <= turn.keys() for turn in turns)
    except (ValueError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise RowError(
            "'history' is not a list of turns", where=where, fix='A turn is {"role": "user", "text": "..."}.'
        )
    return {**search, "history": turns}


def plan_of(pipeline: str, stages: Sequence[StageSettings], engines: Engines, tasks: str | Path | None = None) -> Plan:
    """The plan of a pipeline with these stages, whose adapters are pinned."""
    store = engines.store
    stages = pinned(stages, store.pin)
    needs = needs_of(stages)
    manifests = [store.get(adapter).manifest for adapter in needs.adapters]
    without_adapter = [store.get(adapter).manifest for adapter in needs.zero_shot]
    bases = [manifest.base.fingerprint.model_dump() for manifest in without_adapter]
    weights = [manifest.files for manifest in manifests]
    plugins = [load_task(manifest.task, tasks).bound(manifest.settings) for manifest in [*manifests, *without_adapter]]
    versions = [task_identity(task) for task in plugins]
    encoder_hashes = [tree_sha256(resolve(encoder).path) for encoder in needs.encoders]
    settings = [[type(stage).__name__, _identity(stage, engines)] for stage in stages]
    supplied = [file_sha256(run) for run in needs.runs]
    learned = [_learned_identity(unchanged_dataset(folder), tasks) for folder in needs.datasets]
    more = [part for part in (supplied, bases, generations(stages), learned) if part]
    # A later release may order ties or split words in another way.
    identity = [pipeline, package_versions("searchlora"), settings, weights, versions, encoder_hashes, *more]
    parts = json.dumps(identity, sort_keys=True)
    return Plan(pipeline, stages, hashlib.sha256(parts.encode()).hexdigest())


def _learned_identity(dataset: Dataset, tasks: str | Path | None) -> list[Any]:
    """The dataset and the code of what is learned from it when a pipeline is loaded."""
    task = load_generation_task(dataset.card.task, tasks).bound(dataset.settings)
    models = [[each.name, each.version] for each in task.encoder_baselines() if each.serves]
    return [dataset.fingerprint, *task_identity(task), models]


def task_identity(task: Task) -> list[Any]:
    """The version and the prompt of a task, which identify its code."""
    return [task.version, prompt_hash(task) if isinstance(task, GenerationTask) else None]


def _identity(stage: StageSettings, engines: Engines) -> dict[str, Any]:
    """The settings of a stage on which its outputs depend; of an engine, what distinguishes its outputs."""
    settings = stage.identity()
    if isinstance(stage, AdapterSettings):
        stored = engines.store.get(stage.name)
        manifest = stored.manifest
        base = manifest.base.resolve()
        base = base if stage.zero_shot else base_of(stored, base)
        precision = manifest.precision
        engine_id = engines.engine_id(base, precision, settings=stage.engine)
        earliest = LocalSettings(batch_invariant=True).engine_id(precision)
        settings["engine"] = None if engine_id == earliest else engine_id
    return settings


def _queries_of(dataset: Dataset) -> tuple[str, ...] | None:
    """Hashes of the queries that a classical model learns from; None if the task is not installed."""
    if dataset.card.task not in task_names():
        return None
    return learned_queries(dataset, load_generation_task(dataset.card.task))


def run_card(system: str, built: Pipeline, store: Store) -> RunCard:
    """The adapters and encoders that took part in the run, so that none of them may judge it.

    The card of a run whose hits a stage takes is included. Hits without a card come from unknown models.
    """
    needs = needs_of(built.settings)
    own = needs.adapters
    bare = [*needs.encoders, *(store.get(reference).manifest.base.name for reference in needs.zero_shot)]
    sources = {Path(run).name: read_run_card(run) for run in needs.runs}
    cards = [card for card in sources.values() if card is not None]
    unknown = [name for name, card in sources.items() if card is None]
    learned = {model: ranking_card(model) for model in needs.ranking_models}
    unknown += [f"ranking model {Path(model).name}" for model, card in learned.items() if card is None]
    learned_from = [card for card in learned.values() if card is not None]
    datasets = [load_dataset(folder) for folder in needs.datasets]
    queries = {dataset.folder.name: _queries_of(dataset) for dataset in datasets}
    unknown += [f"dataset {name}" for name, known in queries.items() if known is None]
    if needs.query_hits:
        unknown.append("hits of the queries")
    under = [store.get(adapter).manifest.base.name for adapter in own]
    bases = [*map(public_name, [*under, *bare]), *(base for card in cards for base in card.bases)]
    lineage = [*run_lineage(store, own, bare).references, *(reference for card in cards for reference in card.lineage)]
    lineage += [reference for card in learned_from for reference in card["judge_lineage"]]
    labels = (dataset.records_card for dataset in datasets)
    lineage += [reference for card in labels if card is not None for reference in card.judge_lineage]
    return RunCard(
        system=system,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        adapters=tuple(dict.fromkeys([*own, *(reference for card in cards for reference in card.adapters)])),
        lineage=tuple(dict.fromkeys(lineage)),
        bases=tuple(dict.fromkeys(bases)),
        pipeline=built.tag,
        engines=tuple(dict.fromkeys([*built.engine_id, *(reference for card in cards for reference in card.engines)])),
        ranking_queries=tuple(
            dict.fromkeys(
                [
                    *(query for card in cards for query in card.ranking_queries),
                    *(query for card in learned_from for query in card["queries"]),
                    *(query for known in queries.values() for query in known or ()),
                ]
            )
        ),
        unknown_sources=tuple(
            dict.fromkeys([*unknown, *(reference for card in cards for reference in card.unknown_sources)])
        ),
    )
