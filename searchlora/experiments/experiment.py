"""The command `experiment`: compare systems on topics and qrels, and decide on a candidate by a policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.errors import UsageError
from searchlora.eval.measures import parse_measure
from searchlora.experiments.experiment_inputs import changes, hashes, refuse_changes
from searchlora.experiments.experiment_result import RESULT, ExperimentResult, RunFolder, Topics, decided
from searchlora.experiments.spec import Experiment, SystemSettings, file_name, read_experiment
from searchlora.inference.engines import Engines
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.config import parse_stages, read_pipeline
from searchlora.pipelines.corpus import IndexedCorpus, open_corpus
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.stage import needs_of
from searchlora.progress import Steps, no_progress
from searchlora.records import Document
from searchlora.systems.fixed import RunFile
from searchlora.systems.measure import measure
from searchlora.systems.pipeline import PipelineSystem, Plan, plan_of
from searchlora.systems.system import System


def experiment(
    spec: Experiment | str | Path,
    out: str | Path,
    *,
    since: str | Path | None = None,
    accept_changes: bool = False,
    allow_circular: bool = False,
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> ExperimentResult:
    """Run an experiment; `reports.write_experiment` writes its files.

    Args:
        spec: An experiment, or its YAML file.
        out: The folder of the experiment. Computed runs are cached there; an earlier result there is the one that the
            inputs are compared with.
        since: Another earlier result (`experiment.json`) to compare the inputs with.
        accept_changes: Accept changes of topics, qrels, corpus, baseline or measurement settings.
        allow_circular: Accept a judge that took part in a system; the figures are marked as circular.
        engine: Where adapter stages are computed; replaces the engine of the experiment, not that of a system.
        store: The adapter store; None: the default store.
        tasks: A folder of task plugins.

    Raises:
        DataError: if a file cannot be read, inputs changed, or no judged topic is among the topics.
        UsageError: for an invalid experiment file, a circular judge, or a run to compute without a corpus.
        PipelineError: for a pipeline that cannot be read, or fails on a topic.
        InvalidName, NotInStore, BaseModelError, LoadCheckFailed: for an adapter or encoder that cannot be used.
        EngineError: if a server cannot be asked.
    """
    spec = spec if isinstance(spec, Experiment) else read_experiment(spec)
    spec = spec if engine is None else spec.model_copy(update={"engine": engine})
    for name in spec.measures:
        parse_measure(name)  # fails before any run is computed
    store = Store.of(store)
    plans = _plans(spec, store, tasks)
    inputs = {**hashes(spec), **{f"system {name}": plan.sha256 for name, plan in plans.items()}}
    earlier = Path(since) if since is not None else Path(out) / RESULT
    changed = changes(spec, inputs, earlier) if since is not None or earlier.is_file() else ()
    if not accept_changes:
        refuse_changes(changed, earlier)
    build = _builder(spec, store, tasks, steps)
    systems: list[System] = [
        PipelineSystem(name, plans[name], build, store, corpus=inputs.get("corpus"), topics=spec.topics.path)
        if system.run is None
        else RunFile(name, system.run.path, system.run.format)
        for name, system in spec.systems.items()
    ]
    result = measured(spec, systems, inputs, RunFolder(Path(out) / "runs"), allow_circular=allow_circular, steps=steps)
    result = dataclasses.replace(result, accepted=changed)
    return dataclasses.replace(result, results=decided(result, systems, accept_changes, store))


def measured(
    spec: Experiment,
    systems: Sequence[System],
    inputs: Mapping[str, str],
    runs: RunFolder,
    *,
    allow_circular: bool,
    steps: Steps,
) -> ExperimentResult:
    """Measure the systems of an experiment, without a decision."""
    topics = Topics.of(spec)
    measurement = measure(
        systems,
        topics.rows,
        topics.measures(),
        runs,
        candidate=spec.candidate,
        baseline=spec.baseline,
        also_tested=(spec.policy.measure,) if spec.policy is not None and spec.policy.measure else (),
        correction=spec.correction,
        allow_circular=allow_circular,
        notes=topics.notes,
        measured=runs.keep,
        steps=steps,
    )
    return ExperimentResult(spec, topics, inputs, runs.files, measurement)


def _plans(spec: Experiment, store: Store, tasks: str | Path | None) -> dict[str, Plan]:
    """System -> plan, for the systems without a run file."""
    engines = Engines(store)
    return {
        name: _plan(name, system, spec, engines, tasks) for name, system in spec.systems.items() if system.run is None
    }


def _plan(name: str, system: SystemSettings, spec: Experiment, engines: Engines, tasks: str | Path | None) -> Plan:
    engine = system.engine or spec.engine
    if system.adapter is not None:
        retrieval = parse_stages(spec.retrieval, "retrieval")
        return plan_of(
            file_name(name), [AdapterSettings(name=system.adapter, engine=engine), *retrieval], engines, tasks
        )
    overrides = [f"{key}={json.dumps(value)}" for key, value in system.set.items()]
    config = read_pipeline(str(system.pipeline), overrides, engine)
    return plan_of(config.name, list(config.stages), engines, tasks)


def _builder(spec: Experiment, store: Store, tasks: str | Path | None, steps: Steps) -> Any:
    """A function that builds the pipeline of a plan; all share the corpus, which is read when one needs it."""

    @cache
    def documents() -> IndexedCorpus:
        if spec.documents is None:
            raise UsageError("a pipeline or an adapter needs documents to search in", fix="Give a file as 'corpus'.")
        return open_corpus(spec.documents)

    def build(plan: Plan) -> Pipeline:
        stages = list(plan.stages)
        needs = needs_of(stages)
        wanted = needs.corpus or (needs.texts and spec.documents is not None)  # an engine's hits may lack texts
        corpus: IndexedCorpus | Sequence[Document] = documents() if wanted else []
        return build_pipeline(plan.pipeline, stages, store=store, documents=corpus, tasks=tasks, steps=steps)

    return build
