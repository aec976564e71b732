"""The verb `ablate`: what each slot of a pipeline brings, on topics with judgments.

The unchanged pipeline is compared with the pipeline without each slot, with the base model in place of each adapter,
and with the previous version of each adapter.
Finished runs are kept, so an ablation that was interrupted goes on with the variants that are missing.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

from searchlora.adapters.store import Store
from searchlora.data.collection import Corpus
from searchlora.errors import PipelineError, UsageError
from searchlora.eval.measures import parse_measure
from searchlora.experiments.ablation_result import Ablation, slot_costs, variant_experiment
from searchlora.experiments.experiment import measured
from searchlora.experiments.experiment_inputs import hashes
from searchlora.experiments.experiment_result import RunFolder
from searchlora.experiments.options import AblationOptions
from searchlora.experiments.variants import chosen_slots, single_variants, with_vectors
from searchlora.inference.engines import Engines
from searchlora.pipelines.config import PipelineConfig, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import Pipeline, own_corpus
from searchlora.pipelines.slots import Variant
from searchlora.pipelines.stages.stage import BuildContext, check_order, needs_of, pinned, produces_hits
from searchlora.progress import Steps, no_progress
from searchlora.systems.costs import Answers, CostedPipeline
from searchlora.systems.pipeline import plan_of


def ablate(
    pipeline: str | Path | PipelineConfig,
    topics: str | Path,
    qrels: str | Path,
    out: str | Path,
    options: AblationOptions = AblationOptions(),
    *,
    corpus: Corpus | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> Ablation:
    """Compare a pipeline with the pipelines in which one of its slots is left out or replaced.

    Args:
        pipeline: A YAML file, the name of a built-in pipeline or of a YAML file here, or what `read_pipeline` made of
            one, with overrides and an engine.
        topics: Rows with `id`, `query` and fields that stages read.
        qrels: Judgments; a card beside the file names their source.
        out: Folder in which the run of each variant is kept.
        options: What is changed and measured.
        corpus: Documents. Default: the file that the pipeline names.
        store, tasks, steps: See `Pipeline.load`.

    Raises:
        PipelineError: for a pipeline that cannot be read, does not retrieve, or fails on a topic.
        UsageError: for an unknown slot or measure, a pipeline without a slot that can be changed, or a circular judge.
        DataError: if a file cannot be read, or no judged topic is among the topics.
    """
    for name in options.measures:
        parse_measure(name)
    store = Store.of(store)
    config = pipeline if isinstance(pipeline, PipelineConfig) else read_pipeline(pipeline)
    check_order(config.stages, config.source)
    if not produces_hits(config.stages):
        raise PipelineError("no stage produces hits, so there is nothing to compare", where=config.source)
    if corpus is None:
        corpus = own_corpus(config)
    stages, engines = pinned(config.stages, store.pin), Engines(store)

    @cache
    def context() -> BuildContext:
        """What all variants share: models and indexes are loaded once, when the first one needs them."""
        needs = needs_of(stages)
        wanted = needs.corpus or needs.texts  # hits of an engine may come without texts
        documents = open_corpus(corpus) if corpus is not None and wanted else IndexedCorpus()
        return BuildContext(store, engines, documents, tasks=tasks, steps=steps)

    slots = chosen_slots(stages, options.slots, config.source)
    variants, left_out = single_variants(stages, slots, options.kinds, store, tasks)
    variants = with_vectors(variants, slots, corpus, context, left_out)
    if len(variants) == 1:
        raise UsageError(
            f"no slot of {', '.join(slot.name for slot in slots) or 'the pipeline'} can be changed"
            + "".join(f"; {name}: {why}" for name, why in left_out.items()),
            where=config.source,
        )
    spec = variant_experiment(config, topics, qrels, corpus, variants, options)
    answers = Answers()
    plans = {one.name: plan_of(config.name, one.stages, engines, tasks) for one in variants}
    inputs = {**hashes(spec), **{f"system {name}": plan.sha256 for name, plan in plans.items()}}
    runs = RunFolder(Path(out) / "runs")

    def system(variant: Variant) -> CostedPipeline:
        made = CostedPipeline(
            variant.name,
            plans[variant.name],
            lambda plan: Pipeline.build(plan.pipeline, plan.stages, context()),
            store,
            answers=answers,
            corpus=inputs.get("corpus"),
            topics=spec.topics.path,
        )
        made.optional = variant.kind == "off"
        return made

    experimented = measured(
        spec, list(map(system, variants)), inputs, runs, allow_circular=options.allow_circular, steps=steps
    )
    measurement, comparison = experimented.measurement, experimented.comparison
    left_out |= measurement.left_out
    unused = tuple(f"{name} is left out: {why}." for name, why in left_out.items())
    comparison = dataclasses.replace(comparison, notes=(*comparison.notes, *unused))
    measurement = dataclasses.replace(measurement, comparison=comparison)
    variants = [variant for variant in variants if variant.name in measurement.results]
    return Ablation(
        slots,
        tuple(variants),
        dataclasses.replace(experimented, measurement=measurement),
        {variant.name: slot_costs(variant, slots, measurement.results[variant.name]) for variant in variants},
        left_out,
    )
