"""The result of an experiment: its judged topics, its runs as files, its figures, and the decision of its policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.comparison import Comparison
from searchlora.eval.formats import read_topics
from searchlora.eval.judgments.card import RunCard, read_card, write_run_with_card
from searchlora.eval.judgments.sources import SourceCounts
from searchlora.eval.policy import Facts, RuleResult, decide
from searchlora.eval.trec import Qrels, write_run
from searchlora.experiments.evaluate import CACHE_FILE
from searchlora.experiments.judge.judgments import experiment_qrels, experiment_sources, unknown_source_note
from searchlora.experiments.spec import Experiment, Source, file_name
from searchlora.files.result_cache import ResultCache, cache_key
from searchlora.records import Record
from searchlora.systems.fixed import RunFile
from searchlora.systems.lineage import seen_by_run
from searchlora.systems.measure import Measurement, SystemResult
from searchlora.systems.measures import RetrievalMeasures
from searchlora.systems.pipeline import PipelineSystem
from searchlora.systems.system import System

#: File of the result in the folder of an experiment.
RESULT = "experiment.json"


@dataclass(frozen=True)
class Topics:
    """The judged topics of an experiment."""

    spec: Experiment
    fields: Mapping[str, Mapping[str, Any]]  # topic -> fields
    qrels: Qrels
    graded: SourceCounts
    notes: tuple[str, ...]

    @classmethod
    def of(cls, spec: Experiment) -> Topics:
        """Read them. Raises `DataError`; `UsageError` for a card that names another source than the experiment."""
        fields = read_topics(spec.topics.path, spec.topics.format)
        qrels, left_out = experiment_qrels(spec, fields)
        notes = (*unknown_source_note(spec, read_card(spec.qrels.path)), *left_out)
        return cls(spec, {topic: fields[topic] for topic in qrels}, qrels, experiment_sources(spec, qrels), notes)

    @property
    def rows(self) -> list[Record]:
        """A row for each topic."""
        return [{"id": topic, **fields} for topic, fields in self.fields.items()]

    def measures(self) -> RetrievalMeasures:
        """The measures of the experiment."""
        spec = self.spec
        return RetrievalMeasures(
            self.qrels,
            spec.measures,
            tested=spec.tested,
            slices=spec.slices,
            cluster=spec.cluster,
            relevant=spec.relevant,
            card=read_card(spec.qrels.path),
        )


@dataclass(frozen=True)
class ExperimentResult:
    """The result of an experiment."""

    spec: Experiment
    topics: Topics
    inputs: Mapping[str, str]  # label -> sha256 of the input files
    runs: Mapping[str, Source]  # system -> run file
    measurement: Measurement
    results: tuple[RuleResult, ...] = ()  # the result of each rule of the policy; empty without a policy
    accepted: tuple[str, ...] = ()

    @property
    def comparison(self) -> Comparison:
        """The figures."""
        return self.measurement.comparison

    @property
    def systems(self) -> Mapping[str, SystemResult]:
        """System -> its costs and evaluation."""
        return self.measurement.results

    @property
    def reused(self) -> tuple[str, ...]:
        """Names of systems whose runs an earlier call computed from the same inputs and versions."""
        return self.measurement.reused

    @property
    def refused(self) -> bool:
        """Whether the candidate breaks a rule of the policy."""
        return any(not result.passed for result in self.results)


class RunFolder:
    """The runs of systems as files, and the cache of their results; nothing is written before a system is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Source] = {}

    def get(self, key: str) -> Any | None:
        """See `systems.measure.Cache`."""
        return self._cache.get(key)

    def put_all(self, values: Mapping[str, Any], label: str = "") -> None:
        """See `systems.measure.Cache`."""
        self._cache.put_all(values, label)

    def _card(self, system: PipelineSystem) -> RunCard:
        """The card of its run. What only a built pipeline knows is cached, so that a cached run needs no models."""
        key = cache_key("card", system.fingerprint) if system.fingerprint is not None else None
        known = self.get(key) if key is not None else None
        if known is None:
            card = system.card()
            known = {"pipeline": card.pipeline, "engines": list(card.engines)}
            if key is not None:
                self.put_all({key: known}, system.name)
        return dataclasses.replace(system.planned_card(), pipeline=known["pipeline"], engines=tuple(known["engines"]))

    @cached_property
    def _cache(self) -> ResultCache:
        return ResultCache(self.folder / CACHE_FILE)

    def keep(self, system: System, result: SystemResult) -> SystemResult:
        """Write the run of a pipeline, with its card; the result without the run, so that only one is in memory."""
        if isinstance(system, RunFile):
            self.files[system.name] = Source(path=system.path, format=system.format)
        elif isinstance(system, PipelineSystem) and result.raw.run is not None:
            path = self.folder / f"{file_name(system.name)}.trec"
            card = self._card(system)
            write = partial(write_run, run=result.raw.run, tag=card.pipeline or system.name)
            write_run_with_card(path, card, write)
            self.files[system.name] = Source(path=path, format="trec")
        return dataclasses.replace(result, raw=dataclasses.replace(result.raw, run=None))


def decided(
    result: ExperimentResult, systems: Sequence[System], accept_changes: bool, store: Store
) -> tuple[RuleResult, ...]:
    """The results of the policy's rules for the candidate; empty without a policy."""
    spec = result.spec
    if spec.policy is None or spec.candidate is None:
        return ()
    if spec.policy.max_invalid_rate is not None and result.systems[spec.candidate].raw.invalid is None:
        raise UsageError(
            "the policy bounds the invalid rate, but a run file does not contain the invalid outputs",
            where=f"system {spec.candidate}",
            fix="Give the pipeline or the adapter instead, or remove the rule.",
        )
    (candidate,) = (system for system in systems if system.name == spec.candidate)
    card = candidate.card if isinstance(candidate, RunFile) else None
    if isinstance(candidate, PipelineSystem):
        card = candidate.planned_card()
    graded = result.topics.graded
    facts = Facts(
        roles={"base": spec.baseline, "incumbent": spec.baseline} if spec.baseline else {},
        data=result.inputs["qrels"],
        changed=result.accepted,
        accepted=accept_changes,
        source=graded.source,
        graded=(graded,),
        leaked=seen_by_run(store, card, result.topics.fields),
    )
    return decide(spec.policy, result.comparison, spec.candidate, facts)
