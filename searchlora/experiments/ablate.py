"""The verb `ablate`: what each slot of a pipeline brings, on topics with judgments.

The unchanged pipeline is compared with the pipeline without each slot, with the base model in place of each adapter,
and with the previous version of each adapter; and pairs of slots that can be left out are tested for interaction.
Finished runs are kept, so an ablation that was interrupted goes on with the variants that are missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from searchlora.adapters.load_check import check_files, check_renders
from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus, CorpusFile, index_folder
from searchlora.errors import LoadCheckFailed, PipelineError, StaleIndex, UsageError
from searchlora.eval.comparison import Comparison
from searchlora.eval.evaluation import evaluate_run
from searchlora.eval.formats import read_run, read_topics
from searchlora.eval.interaction import Factorial, Interaction, interactions
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.lineage import lineage_of, refuse_circular
from searchlora.eval.measures import RETRIEVAL_MEASURES, parse_measure
from searchlora.eval.trec import Qrels
from searchlora.experiments.experiment import ExperimentResult, compare_runs, hashes
from searchlora.experiments.judge.judgments import experiment_qrels, experiment_sources
from searchlora.experiments.run import run_card
from searchlora.experiments.slots import FULL, Kind, Slot, Variant, find_slots, full, with_base, with_older, without
from searchlora.experiments.spec import Experiment, Source, System
from searchlora.experiments.stage_costs import Cost, Place, SharedStages
from searchlora.experiments.systems import Executed, Plan, SystemRun, SystemRuns, plan_of
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings
from searchlora.models.load import load_tokenizer
from searchlora.pipelines.config import CorpusSettings, PipelineConfig, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import Pipeline, build_pipeline, own_corpus
from searchlora.pipelines.stages.dense import DenseSettings
from searchlora.pipelines.stages.fuse import FuseSettings
from searchlora.pipelines.stages.search_engine import VectorSearchSettings
from searchlora.pipelines.stages.stage import StageSettings, check_order, needs_of, pinned, produces_hits
from searchlora.progress import Steps, no_progress
from searchlora.prompts import Renderer
from searchlora.records import SearchContext
from searchlora.task import GenerationTask, load_task

#: Kinds of variants that are made unless others are asked for.
KINDS: tuple[Kind, ...] = ("off", "base")


@dataclass(frozen=True)
class Ablation:
    """The result of an ablation.

    Attributes:
        slots: Of the pipeline, those that were changed.
        variants: The unchanged pipeline, then every variant with one changed slot.
        experimented: The comparison of the unchanged pipeline with each of these variants, and its inputs.
        interactions: Of pairs of slots that can be left out, in the headline measure.
        costs: Variant -> slot -> mean costs per query. Milliseconds are missing where they were not measured.
        left_out: Name of a variant that cannot be executed -> why.
    """

    slots: tuple[Slot, ...]
    variants: tuple[Variant, ...]
    experimented: ExperimentResult
    interactions: tuple[Interaction, ...]
    costs: Mapping[str, Mapping[str, Mapping[str, float]]]
    left_out: Mapping[str, str]

    @property
    def comparison(self) -> Comparison:
        """The comparison of the unchanged pipeline with the variants."""
        return self.experimented.comparison

    @property
    def reused(self) -> tuple[str, ...]:
        """The variants whose runs an earlier call computed."""
        return tuple(name for name, run in self.experimented.runs.items() if run.reused)


def ablate(
    pipeline: str | Path | PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    out: str | Path,
    *,
    corpus: Corpus | None = None,
    overrides: Sequence[str] = (),
    engine: EngineSettings | None = None,
    only: Sequence[str] = (),
    kinds: Sequence[Kind] = KINDS,
    interacting: bool = True,
    measures: Sequence[str] = RETRIEVAL_MEASURES,
    relevant: int = 1,
    cluster: str | None = None,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> Ablation:
    """Compare a pipeline with the pipelines in which one of its slots is left out or replaced.

    Args:
        pipeline: A YAML file, the name of a built-in pipeline or of a YAML file here, or what `read_pipeline` made of
            one, with the overrides and the engine.
        topics: Rows with `id`, `query` and fields that stages read.
        qrels: Judgments; a card beside the file names their source.
        out: Folder in which the run of each variant is kept.
        corpus: Documents. Default: the file that the pipeline names.
        only: Names of the slots to change. Empty: all.
        kinds: `off`: without the slot, where the pipeline works without it; `base`: its base model without the
            adapter, by the same prompt; `older`: the previous version of its adapter in the store.
        interacting: Whether to execute the pipeline without each pair of slots, for their interaction.
        measures: The first is compared and tested; the others are shown.
        relevant: The lowest grade that counts as relevant in binary measures.
        cluster: Topic field with the group of dependent topics, such as a conversation.
        allow_circular: Accept a judge that took part in a variant; its figures are marked as circular.
        overrides, engine, store, tasks, steps: See `Pipeline.load`.

    Raises:
        PipelineError: for a pipeline that cannot be read, does not retrieve, or fails on a topic.
        UsageError: for an unknown slot or measure, a pipeline without a slot that can be changed, or a circular judge.
        DataError: if a file cannot be read, or no judged topic is among the topics.
    """
    for name in measures:
        parse_measure(name)
    store = store if isinstance(store, Store) else Store(store)
    config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline, overrides, engine)
    check_order(config.stages, config.source)
    if not produces_hits(config.stages):
        raise PipelineError("no stage produces hits, so there is nothing to compare", where=config.source)
    if corpus is None:
        corpus = own_corpus(config)
    stages = pinned(config.stages, store.pin)
    slots = _chosen(find_slots(stages), only, config.source)
    variants, left_out = _variants(stages, slots, kinds, store, tasks)
    variants = _with_vectors(variants, slots, corpus, store, left_out)
    if len(variants) == 1:
        raise UsageError(
            f"no slot of {', '.join(slot.name for slot in slots) or 'the pipeline'} can be changed"
            + "".join(f"; {name}: {why}" for name, why in left_out.items()),
            where=config.source,
        )
    pairs = _pairs(stages, slots, variants) if interacting else {}
    everything = {variant.name: variant for variant in (*variants, *pairs.values())}
    spec = _spec(config, topics, qrels, corpus, everything, measures, relevant, cluster)
    engines = Engines(store)
    planned = {name: plan_of(config.name, each.stages, engines, tasks) for name, each in everything.items()}
    inputs = {**hashes(spec), **{f"system {name}": plan.sha256 for name, plan in planned.items()}}
    fields = read_topics(spec.topics.path, spec.topics.format)
    judged_qrels, notes = experiment_qrels(spec, fields)
    judged = {topic: fields[topic] for topic in judged_qrels}
    _refuse_circular(spec, planned, judged, store, allow=allow_circular)
    runs_of = _VariantRuns(
        spec, planned, judged, inputs, Path(out) / "runs", store=store, tasks=tasks, steps=steps,
        costed=_costed(slots, variants), corpus=corpus,
    )  # fmt: skip
    runs = _executed(runs_of, everything, left_out)
    single = {variant.name: runs[variant.name] for variant in variants if variant.name in runs}
    comparison = compare_runs(
        spec.model_copy(update={"systems": {name: spec.systems[name] for name in single}}),
        judged,
        judged_qrels,
        single,
        notes=notes,
        allow_circular=allow_circular,
    )
    unused = tuple(f"{name} is left out: {why}." for name, why in left_out.items())
    comparison = dataclasses.replace(comparison, notes=(*comparison.notes, *unused))
    graded = experiment_sources(spec, judged_qrels)
    return Ablation(
        slots,
        tuple(variant for variant in variants if variant.name in runs),
        ExperimentResult(spec, comparison, (), judged, judged_qrels, single, inputs, (), graded.source, graded),
        _interactions(spec, comparison, judged, judged_qrels, pairs, runs),
        {name: run.parts for name, run in single.items()},
        left_out,
    )


# Variants


def _chosen(slots: Sequence[Slot], only: Sequence[str], source: str) -> tuple[Slot, ...]:
    known = ", ".join(slot.name for slot in slots) or "none"
    for name in only:
        if name not in [slot.name for slot in slots]:
            raise UsageError(f"the pipeline has no slot '{name}'", where=source, fix=f"Its slots: {known}.")
    return tuple(slot for slot in slots if not only or slot.name in only)


def _variants(
    stages: Sequence[StageSettings],
    slots: Sequence[Slot],
    kinds: Sequence[Kind],
    store: Store,
    tasks: str | Path | None,
) -> tuple[list[Variant], dict[str, str]]:
    """The unchanged pipeline and those with one changed slot; and which cannot be made, with the reason."""
    variants: list[Variant | None] = [full(stages)]
    left_out: dict[str, str] = {}
    for slot in slots:
        if "off" in kinds:
            try:
                variants.append(without(stages, slot))
            except PipelineError as error:
                left_out[f"without {slot.name}"] = error.what
        if "base" in kinds:
            variants.append(with_base(stages, slot))
        if "older" in kinds and (older := with_older(stages, slot, store)) is not None:
            try:
                _check_loads(older.adapter, store, tasks)
                variants.append(older)
            except LoadCheckFailed as error:
                left_out[older.name] = error.what
    return [variant for variant in variants if variant is not None], left_out


def _check_loads(adapter: str, store: Store, tasks: str | Path | None) -> None:
    """Raise `LoadCheckFailed` for a version that cannot be used any more, such as one of an earlier prompt."""
    stored = store.get(adapter)
    base = stored.manifest.base.resolve()
    check_files(stored, base)
    task = load_task(stored.manifest.task, tasks)
    if isinstance(task, GenerationTask):
        check_renders(stored, task, Renderer(load_tokenizer(base)))


def _with_vectors(
    variants: Sequence[Variant],
    slots: Sequence[Slot],
    corpus: Corpus | None,
    store: Store,
    left_out: dict[str, str],
) -> list[Variant]:
    """The variants without those whose encoder the index has no vectors of; they are added to `left_out`.

    A corpus that is no index folder is encoded by each encoder, so that nothing can be missing.
    """
    places = {slot.name: slot.place for slot in slots}
    indexed = corpus is not None and index_folder(corpus) is not None
    source = open_corpus(corpus) if corpus is not None and indexed else IndexedCorpus(())
    kept = []
    for variant in variants:
        leaf = _at(variant.stages, places[variant.slots[0]]) if variant.kind in ("base", "older") else None
        if isinstance(leaf, VectorSearchSettings) or (isinstance(leaf, DenseSettings) and indexed):
            try:
                build_pipeline("vectors", [leaf], store=store, documents=source)
            except StaleIndex as error:
                left_out[variant.name] = f"{error.what} ({error.where})"
                continue
        kept.append(variant)
    return kept


def _at(stages: Sequence[StageSettings], place: Place) -> StageSettings:
    first, *rest = place
    stage = stages[first]
    return _at(stage.of, tuple(rest)) if rest and isinstance(stage, FuseSettings) else stage


def _pairs(
    stages: Sequence[StageSettings], slots: Sequence[Slot], variants: Sequence[Variant]
) -> dict[tuple[str, str], Variant]:
    """Two slots -> the pipeline without both, for those that can be left out alone and together."""
    alone = {variant.slots[0] for variant in variants if variant.kind == "off"}
    pairs = {}
    for a, b in combinations([slot for slot in slots if slot.name in alone], 2):
        try:
            pairs[a.name, b.name] = without(stages, a, b)
        except PipelineError:
            continue  # nothing would retrieve
    return pairs


def _costed(slots: Sequence[Slot], variants: Sequence[Variant]) -> dict[str, Sequence[Slot]]:
    """Variant -> the slots whose costs it shows: all of the unchanged pipeline, and a slot that is replaced."""
    replaced = [variant for variant in variants if variant.kind in ("base", "older")]
    return {FULL: slots, **{each.name: [slot for slot in slots if slot.name in each.slots] for each in replaced}}


# Runs


def _spec(
    config: PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    corpus: Corpus | None,
    variants: Mapping[str, Variant],
    measures: Sequence[str],
    relevant: int,
    cluster: str | None,
) -> Experiment:
    """The experiment that compares the unchanged pipeline with the variants."""
    columns = {field: list(names) for field, names in corpus.fields.items()} if isinstance(corpus, CorpusFile) else {}
    documents = None if corpus is None else CorpusSettings(file=str(corpus), map=dict(columns))
    return Experiment(
        name=config.name,
        topics=Source(path=Path(topics)),
        qrels=Source(path=Path(qrels)),
        corpus=documents,
        systems={name: System(pipeline=config.source) for name in variants},
        candidate=FULL,
        measures=tuple(measures),
        tested=(measures[0],),
        relevant=relevant,
        cluster=cluster,
    )


def _refuse_circular(
    spec: Experiment, planned: Mapping[str, Plan], topics: Mapping[str, Mapping[str, Any]], store: Store, *, allow: bool
) -> None:
    """Refuse a circular judge before anything is computed, by the adapters and models that each variant names."""
    cards = {name: run_card(name, Pipeline(name, (), tuple(plan.stages)), store) for name, plan in planned.items()}
    queries = {topic: str(fields["query"]) for topic, fields in topics.items()}
    lineages = {name: lineage_of(card) for name, card in cards.items()}
    refuse_circular(read_card(spec.qrels.path), lineages, queries, allow=allow)


class _VariantRuns(SystemRuns):
    """Runs of the variants of one pipeline, which share their stages and what they computed.

    Args:
        costed: Variant -> the slots whose costs are kept.
        corpus: The documents; None where no stage reads them.
        Otherwise as `SystemRuns`.
    """

    def __init__(
        self, *arguments: Any, costed: Mapping[str, Sequence[Slot]], corpus: Corpus | None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.costed = costed
        self._over: set[str] = set()
        self.corpus = corpus

    @cached_property
    def documents(self) -> IndexedCorpus:
        """The corpus, in memory or as an index folder; empty without one."""
        return open_corpus(self.corpus) if self.corpus is not None else IndexedCorpus(())

    @cached_property
    def shared(self) -> SharedStages:
        """The stages of the variants that are not over, built when the first run is computed."""
        stages = [plan.stages for name, plan in self.planned.items() if name not in self._over]
        documents = self.documents if any(needs_of(each).corpus for each in stages) else IndexedCorpus(())
        return SharedStages(stages, store=self.store, documents=documents, tasks=self.tasks, steps=self.steps)

    def forget(self, name: str) -> None:
        """Forget what only this variant needs; call it once for each, when it is over."""
        self._over.add(name)
        if "shared" in self.__dict__:
            self.shared.finish(self.planned[name].stages)

    def _executed(self, name: str, plan: Plan, searches: Sequence[SearchContext]) -> Executed:
        done, costs = self.shared.execute(plan.stages, searches, self.steps(f"Executing: {name}"))
        total = sum((cost for place, cost in costs.items() if len(place) == 1), Cost())
        parts = {slot.name: costs[slot.place].per(len(done)) for slot in self.costed.get(name, ())}
        return Executed(self.shared.pipeline(plan.pipeline, plan.stages), done, total.per(len(done)), parts)


def _executed(runs: _VariantRuns, variants: Mapping[str, Variant], left_out: dict[str, str]) -> dict[str, SystemRun]:
    """Variant -> run. A pipeline that does not work without a slot, as a stage of it says, is added to `left_out`."""
    done: dict[str, SystemRun] = {}
    for name, variant in variants.items():
        try:
            done[name] = runs.get(name)
        except PipelineError as error:
            if variant.kind != "off":
                raise
            left_out[name] = f"{error.what} ({error.where})" if error.where else error.what
        runs.forget(name)
    return done


def _interactions(
    spec: Experiment,
    comparison: Comparison,
    topics: Mapping[str, Mapping[str, Any]],
    qrels: Qrels,
    pairs: Mapping[tuple[str, str], Variant],
    runs: Mapping[str, SystemRun],
) -> tuple[Interaction, ...]:
    """The interactions of the pairs whose four pipelines could all be executed."""
    measure = comparison.measures[0]
    values = comparison.values[measure]
    designs = {}
    for (a, b), variant in pairs.items():
        alone = (f"without {a}", f"without {b}")
        if variant.name not in runs or not all(name in values for name in alone):
            continue
        source = runs[variant.name].source
        neither = evaluate_run(
            read_run(source.path, source.format), qrels, measures=[measure], relevant=spec.relevant, unjudged=False
        )
        designs[a, b] = Factorial(values[FULL], values[alone[0]], values[alone[1]], neither.values[measure])
    field = spec.cluster
    clusters = {
        topic: str(fields[field]) for topic, fields in topics.items() if field and fields.get(field) not in (None, "")
    }
    less = measure in comparison.less_is_better
    return interactions(designs, measure, clusters, less_is_better=less, correction=spec.correction)
