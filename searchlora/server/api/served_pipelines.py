"""Pipelines that the server executes: loaded at start, with the server's own engine, and their slots per request."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.adapters.references import parse_reference
from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, CorpusFile
from searchlora.errors import InvalidName, NotInStore, PipelineError, SearchloraError, StoreError, UsageError
from searchlora.inference.engines import Engines
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import public_name
from searchlora.outputs import Graded
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import Pipeline, own_corpus
from searchlora.pipelines.slots import (
    Slot,
    find_slots,
    fusion_place,
    with_base,
    with_version,
    with_weights,
    without,
)
from searchlora.pipelines.stages.adapter import AdapterSettings, AdapterStage, grades
from searchlora.pipelines.stages.fuse import part_names
from searchlora.pipelines.stages.stage import BuildContext, StageSettings, check_order, pinned
from searchlora.server.api.errors import ApiError, public_text
from searchlora.server.api.response_schemas import FusionEntry, PipelineEntry

if TYPE_CHECKING:
    from searchlora.inference.answer_cache import AnswerCache
    from searchlora.models.load import Precision
    from searchlora.models.resolve import BaseModel
    from searchlora.recipe import PromptOptions

_LOG = logging.getLogger(__name__)

#: Pipelines with changed slots that stay loaded; they share engine, encoders and indexes with the unchanged ones.
_VARIANTS = 256

#: Seconds between two lines of the log about a version that cannot be loaded.
_LOG_INTERVAL_S = 60.0


class ServerEngines(Engines):
    """The engines of served pipelines: the server's own, and those that stages name in the pipeline file."""

    def __init__(self, store: Store, own: LocalEngine) -> None:
        super().__init__(store)
        self._own = own

    def without_settings(
        self, base: BaseModel, precision: Precision, prompt_options: PromptOptions | None
    ) -> LocalEngine:
        """The server's own engine."""
        del precision
        own = self._own.base
        if base.path != own.path:
            raise PipelineError(
                f"the adapter's base is {public_name(base.name)}, and this server's is {public_name(own.name)}",
                fix="Serve the adapter's base with --base, or give the stage an 'engine' of its own.",
            )
        if prompt_options is not None:
            raise PipelineError(
                "the base model has no prompt like the adapter's on this server",
                fix="Its adapter was trained with prompt options of its own. Give the stage an 'engine'.",
            )
        return self._own

    def close(self, seconds: float) -> None:
        """Close the local engines that stages named; the server closes its own."""
        for engine in self._engines.values():
            if isinstance(engine, LocalEngine):
                engine.close(seconds)


@dataclass(frozen=True)
class LivePipeline:
    """A pipeline with the versions of the present."""

    pipeline: Pipeline
    replaceable: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServedPipeline:
    """A pipeline of the server."""

    pipeline: Pipeline
    source: IndexedCorpus
    store: Store
    slots: tuple[Slot, ...]
    aliases: Mapping[str, str]

    def choices(self, slot: Slot) -> list[str]:
        """What a slot can be changed to in a request, besides `on`, with the versions that the store has now.

        An adapter of an encoder can be exchanged only where it encodes queries alone, for versions that do so, too:
        otherwise the whole corpus would be encoded in the request.
        """
        stages = self.pipeline.settings
        choices = []
        try:
            without(stages, slot)
            choices.append("off")
        except PipelineError:  # without it nothing retrieves
            pass
        if slot.adapter is None:
            return choices
        name = parse_reference(slot.adapter).name
        settings = _settings_at(stages, slot)
        if settings.can_swap(slot.adapter, self.store):
            versions = [f"{name}@{version}" for version in self.store.versions(name)]
            choices += ["base", *(version for version in versions if settings.can_swap(version, self.store))]
        return choices

    @property
    def fields(self) -> list[str]:
        """The fields of a search, besides the query, that its tasks read and no earlier stage writes."""
        written = {"id", "query", "hits", "passages", "grades", "titles"}
        read: dict[str, None] = {}
        for task in (task for stage in self.pipeline.stages for task in stage.tasks()):
            read |= {name: None for name in task.reads.values() if name not in written}
            written.add(task.writes)
        return list(read)

    @property
    def judge_scale(self) -> list[int] | None:
        """The grades of the first stage that grades passages, in ascending order; None without one."""
        for stage in self.pipeline.stages:
            if isinstance(stage, AdapterStage) and grades(stage.task):
                spec = stage.task.output(stage.task.examples[0])
                assert isinstance(spec, Graded)
                return sorted(spec.scale.values())
        return None

    def described(self) -> PipelineEntry:
        """The pipeline as `GET /v1/pipelines` lists it."""
        fusion: FusionEntry | None = None
        if (place := fusion_of(self.pipeline.settings)) is not None:
            index, settings = place
            parts = part_names(settings)
            fusion = {
                "stage": index + 1,
                "method": getattr(settings, "method", settings.slot_name),
                "parts": list(parts),
                "weights": list(settings.part_weights),
            }
        return {
            "id": self.pipeline.name,
            "object": "pipeline",
            "stages": self.pipeline.labels,
            "slots": [
                {"name": slot.name, "adapter": slot.adapter, "choices": ["on", *self.choices(slot)]}
                for slot in self.slots
            ],
            "fusion": fusion,
            "fields": self.fields,
            "documents": len(self.pipeline.documents),
        }


class ServedPipelines:
    """The pipelines of a server by name, and their variants with changed slots. Thread-safe."""

    def __init__(
        self, store: Store, engine: LocalEngine, tasks: Path | None = None, cache: AnswerCache | None = None
    ) -> None:
        self._store, self._engines = store, ServerEngines(store, engine)
        self._context = BuildContext(store, self._engines, tasks=tasks, cache=cache)
        self._by_name: dict[str, ServedPipeline] = {}
        self._corpora: dict[str, IndexedCorpus] = {}
        # By name, changed slots with their exact versions, and weights.
        self._variants: OrderedDict[tuple[Any, ...], Pipeline] = OrderedDict()
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}  # versions -> when it was logged that they cannot be loaded

    def __iter__(self) -> Iterator[tuple[str, ServedPipeline]]:
        return iter(self._by_name.items())

    @property
    def names(self) -> list[str]:
        """The names of the pipelines."""
        return list(self._by_name)

    @property
    def followed(self) -> list[str]:
        """The references with an alias that requests follow."""
        return sorted({alias for served in self._by_name.values() for alias in served.aliases.values()})

    def add(self, pipeline: str | PipelineConfig, corpus: Path | None = None) -> None:
        """Load a pipeline."""
        config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline)
        if config.name in self._by_name:
            raise UsageError(
                f"two pipelines are called '{config.name}'", where="--pipeline", fix="Change the 'name' in one file."
            )
        check_order(config.stages, config.source)
        stages = pinned(config.stages, self._store.pin)
        source = self._corpus(config, corpus)
        loaded = self._build(config.name, stages, source)
        slots = find_slots(stages)
        aliases = {
            slot.name: named.adapter
            for slot, named in zip(slots, find_slots(config.stages), strict=True)
            if named.adapter is not None
            and parse_reference(named.adapter).alias is not None
            and isinstance(_settings_at(stages, slot), AdapterSettings)  # its version is in traces
        }
        self._by_name[config.name] = ServedPipeline(loaded, source, self._store, slots, aliases)

    def get(self, name: str) -> ServedPipeline:
        """A pipeline by name. Raises `ApiError` 404 for an unknown one."""
        if name not in self._by_name:
            known = f"It serves {', '.join(self._by_name)}" if self._by_name else "Start it with --pipeline FILE"
            message = f"This server has no pipeline '{name[:64]}'. {known}."
            raise ApiError(404, "pipeline_not_found", message, param="pipeline")
        return self._by_name[name]

    def variant(self, name: str, slots: Mapping[str, str], weights: Sequence[float] = ()) -> Pipeline:
        """A pipeline with changed slots and weights. It may load adapters: call it in a worker thread.

        `slots`: Name of a slot -> `on` (as loaded), `off`, `base`, or a version or alias of its adapter.
        """
        served = self.get(name)
        changes = {slot: choice for slot, choice in slots.items() if choice != "on"}
        if not changes and not weights:
            return served.pipeline
        key = name, frozenset(changes.items()), tuple(map(float, weights))
        with self._lock:
            if key in self._variants:  # of exact versions only, which never change
                self._variants.move_to_end(key)
                return self._variants[key]
        stages, exact = self._changed(served, changes, weights)
        key = name, frozenset(exact.items()), tuple(map(float, weights))
        with self._lock:
            if key not in self._variants:
                try:
                    self._variants[key] = self._build(name, stages, served.source)
                except PipelineError as error:
                    raise _refused(pipeline_message(error)) from None
                if len(self._variants) > _VARIANTS:
                    self._variants.popitem(last=False)
            self._variants.move_to_end(key)
            return self._variants[key]

    def live(
        self,
        name: str,
        slots: Mapping[str, str],
        weights: Sequence[float] = (),
        key: str | None = None,
        failed: Collection[str] = (),
    ) -> LivePipeline:
        """As `variant`, with the versions that the aliases of its adapters mean now, by their weights for a key.

        A version in `failed`, one that cannot be loaded, and one for which the stage's `decides` was not fitted leaves
        its place to that which the alias points to, and this one to that of the start.
        """
        served = self.get(name)
        chosen = {slot: choice for slot, choice in slots.items() if choice != "on"}
        start = {slot.name: slot.adapter for slot in served.slots}
        failed = list(failed)
        while True:
            versions: dict[str, str] = {}
            replaceable: list[str] = []
            for slot, reference in served.aliases.items():
                if slot not in chosen:
                    meant = [*self._meant(served.store, reference, key), start[slot] or ""]
                    left = [version for version in dict.fromkeys(meant) if version not in failed] or meant[-1:]
                    versions[slot] = left[0]
                    replaceable += left[:1] if len(left) > 1 else []
            moved = {slot: version for slot, version in versions.items() if version != start[slot]}
            try:
                self._check_fitted(served, moved)
                pipeline = self.variant(name, {**moved, **chosen}, weights)
                return LivePipeline(pipeline, tuple(replaceable), tuple(failed))
            except Exception:
                broken = [version for slot, version in moved.items() if not self._can_serve(served, slot, version)]
                if not broken:
                    raise
                failed += broken

    def _can_serve(self, served: ServedPipeline, slot: str, version: str) -> bool:
        """Whether a version alone can be loaded into a slot."""
        try:
            self._check_fitted(served, {slot: version})
            self.variant(served.pipeline.name, {slot: version}, ())
        except Exception as error:
            self.log_failed(served.pipeline.name, version, error)
            return False
        return True

    def _check_fitted(self, served: ServedPipeline, versions: Mapping[str, str]) -> None:
        """Raise `PipelineError` if a stage's `decides` was fitted for another version than one of these, by slot.

        Without its threshold the stage would act on every answer, and nobody would notice.
        """
        for slot in served.slots:
            if slot.name in versions:
                _settings_at(served.pipeline.settings, slot).check_fitted(versions[slot.name])

    def log_failed(self, name: str, versions: str, error: Exception) -> None:
        """Log why versions fail, once a minute: many requests meet the same."""
        now = time.monotonic()
        if now - self._logged.get(versions, -math.inf) > _LOG_INTERVAL_S:
            self._logged[versions] = now
            trace = None if isinstance(error, SearchloraError) else error
            _LOG.error("%s: %s cannot be served: %s", name, versions or "a stage", error, exc_info=trace)

    def candidates(self, name: str, alias: str) -> dict[str, str]:
        """The slots of a pipeline whose adapter has an alias, such as `candidate`, with the versions that it means."""
        served = self.get(name)
        references = {
            slot.name: f"{parse_reference(slot.adapter).name}@{alias}"
            for slot in served.slots
            if slot.adapter is not None and isinstance(_settings_at(served.pipeline.settings, slot), AdapterSettings)
        }
        meant = {slot: self._meant(served.store, reference) for slot, reference in references.items()}
        return {slot: versions[0] for slot, versions in meant.items() if versions}

    @staticmethod
    def _meant(store: Store, reference: str, key: str | None = None) -> list[str]:
        """The version that an alias means for a key, and that which it points to; empty if there is no such alias."""
        with suppress(StoreError):
            return [store.choose(reference, key), store.pin(reference)]
        return []

    def close(self, seconds: float) -> None:
        """Close the engines that stages named."""
        self._engines.close(seconds)

    def _corpus(self, config: PipelineConfig, corpus: Path | None) -> IndexedCorpus:
        documents: Corpus | None = corpus if corpus is not None else own_corpus(config)
        if documents is None:
            return IndexedCorpus()
        columns = documents.fields if isinstance(documents, CorpusFile) else {}
        key = json.dumps([str(documents), {name: list(each) for name, each in columns.items()}], sort_keys=True)
        if key not in self._corpora:
            self._corpora[key] = open_corpus(documents, config.index_options)
        return self._corpora[key]

    def _build(self, name: str, stages: Sequence[StageSettings], source: IndexedCorpus) -> Pipeline:
        return Pipeline.build(name, stages, replace(self._context, corpus=source))

    def _changed(
        self, served: ServedPipeline, slots: Mapping[str, str], weights: Sequence[float]
    ) -> tuple[tuple[StageSettings, ...], dict[str, str]]:
        """The stages with changed slots and weights, and each slot with its exact version."""
        by_name = {slot.name: slot for slot in served.slots}
        stages = tuple(served.pipeline.settings)
        off: list[Slot] = []
        exact: dict[str, str] = {}
        for name, choice in slots.items():
            if name not in by_name:
                raise _refused(f"There is no slot '{name[:64]}'. Slots: {', '.join(by_name)}.")
            slot = by_name[name]
            choice = exact[name] = self._exact(slot, choice, served.choices(slot))
            if choice == "off":
                off.append(slot)
            elif choice == "base":
                variant = with_base(stages, slot)
                stages = variant.stages if variant is not None else stages
            else:
                stages = with_version(stages, slot, choice).stages
        try:
            if weights:
                return with_weights(stages, weights, *off), exact
            return without(stages, *off).stages if off else stages, exact
        except PipelineError as error:
            raise _refused(pipeline_message(error), "weights" if weights else "slots") from None

    def _exact(self, slot: Slot, choice: str, choices: Collection[str]) -> str:
        """`off`, `base`, or the version that a choice means."""
        if choice in choices and choice in ("off", "base"):
            return choice
        try:
            version = self._store.pin(choice) if slot.adapter is not None else ""
            if version in choices:
                return version
        except (InvalidName, NotInStore):
            pass
        raise _refused(f"The slot '{slot.name}' cannot be '{choice[:64]}'. It can be: {', '.join(['on', *choices])}.")


def fusion_of(stages: Sequence[StageSettings]) -> tuple[int, StageSettings] | None:
    """Index and settings of the stage whose weights a request can change; None if no stage fuses."""
    place = fusion_place(stages)
    if place is None or getattr(stages[place], "model", None) is not None:  # a ranking model reads no weights
        return None
    return place, stages[place]


def _settings_at(stages: Sequence[StageSettings], slot: Slot) -> StageSettings:
    """The settings of the stage, or of the part of a fusion, that a slot is."""
    index, *parts = slot.place
    settings = stages[index]
    for part in parts:
        settings = settings.parts[part]
    return settings


def pipeline_message(error: PipelineError) -> str:
    """What is wrong and what to do, without the place in a file of the server."""
    what = public_text(error.what)
    return " ".join(filter(None, [f"{what[:1].upper()}{what[1:]}.", error.fix and public_text(error.fix)]))


def _refused(message: str, param: str = "slots") -> ApiError:
    return ApiError(400, "invalid_value", message, param=param)
