"""The command `experiment`: compare systems on topics and qrels, and decide on a candidate by a policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.collection import corpus_path, index_folder, mapped_sha256
from searchlora.errors import DataError, UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.formats import read_run, read_topics
from searchlora.eval.judgments.card import card_path, read_card
from searchlora.eval.judgments.lineage import doubts, refuse_circular
from searchlora.eval.judgments.sources import SourceCounts
from searchlora.eval.measures import parse_measure
from searchlora.eval.policy import Facts, RuleResult, decide
from searchlora.eval.trec import Qrels
from searchlora.experiments.judge.judgments import experiment_qrels, experiment_sources, unknown_source_note
from searchlora.experiments.lineage import seen_by_run
from searchlora.experiments.spec import Experiment, read_experiment
from searchlora.experiments.systems import SystemRun, SystemRuns, plans
from searchlora.files import parse_json, tree_sha256
from searchlora.inference.settings import EngineSettings
from searchlora.pipelines.config import CorpusSettings
from searchlora.progress import Steps, no_progress
from searchlora.retrieval.index_folder import read_manifest

RESULT = "experiment.json"


@dataclass(frozen=True)
class ExperimentResult:
    """The result of an experiment.

    Attributes:
        comparison: The figures.
        results: The result of each rule of the policy; empty without a policy.
        topics: Topic -> fields, of the judged topics.
        runs: System -> run.
        inputs: Label -> sha256 of the input files.
        accepted: Descriptions of the accepted changes of inputs.
        judgments: Source of the judgments in a word (`eval.judgments.sources.SourceCounts.source`).
        graded: The numbers of judgments by source.
    """

    spec: Experiment
    comparison: Comparison
    results: tuple[RuleResult, ...]
    topics: Mapping[str, Mapping[str, Any]]
    qrels: Qrels
    runs: Mapping[str, SystemRun]
    inputs: Mapping[str, str]
    accepted: tuple[str, ...]
    judgments: str
    graded: SourceCounts

    @property
    def refused(self) -> bool:
        """Whether the candidate breaks a rule of the policy."""
        return any(not result.passed for result in self.results)


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
    """Run an experiment; `experiment_report.write` writes its files.

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
        UsageError: for an invalid experiment file, or a circular judge.
        EngineError: if a server cannot be asked.
    """
    spec = spec if isinstance(spec, Experiment) else read_experiment(spec)
    spec = spec if engine is None else spec.model_copy(update={"engine": engine})
    for name in spec.measures:
        parse_measure(name)  # fails before any run is computed
    store = store if isinstance(store, Store) else Store(store)
    planned = plans(spec, store, tasks)
    inputs = {**hashes(spec), **{f"system {name}": plan.sha256 for name, plan in planned.items()}}
    earlier = Path(since) if since is not None else Path(out) / RESULT
    changed = changes(spec, inputs, earlier) if since is not None or earlier.is_file() else ()
    if not accept_changes:
        refuse_changes(changed, earlier)
    topics = read_topics(spec.topics.path, spec.topics.format)
    qrels, judged_notes = experiment_qrels(spec, topics)
    judged_topics = {topic: topics[topic] for topic in qrels}
    system_runs = SystemRuns(
        spec, planned, judged_topics, inputs, Path(out) / "runs", store=store, tasks=tasks, steps=steps
    )
    runs = {name: system_runs.get(name) for name in spec.systems}
    comparison = compare_runs(spec, judged_topics, qrels, runs, notes=judged_notes, allow_circular=allow_circular)
    graded = experiment_sources(spec, qrels)
    facts = Facts(
        roles={"base": spec.baseline, "incumbent": spec.baseline} if spec.baseline else {},
        data=inputs["qrels"],
        changed=changed,
        accepted=accept_changes,
        source=graded.source,
        graded=(graded,),
    )
    results = _decided(spec, comparison, runs, facts, store, judged_topics)
    return ExperimentResult(
        spec, comparison, results, judged_topics, qrels, runs, inputs, changed, graded.source, graded
    )


def _decided(
    spec: Experiment,
    comparison: Comparison,
    runs: Mapping[str, SystemRun],
    facts: Facts,
    store: Store,
    topics: Mapping[str, Mapping[str, Any]],
) -> tuple[RuleResult, ...]:
    """The results of the policy's rules for the candidate; empty without a policy."""
    if spec.policy is None or spec.candidate is None:
        return ()
    candidate = runs[spec.candidate]
    if spec.policy.max_invalid_rate is not None and candidate.invalid is None:
        raise UsageError(
            "the policy bounds the invalid rate, but a run file does not contain the invalid outputs",
            where=f"system {spec.candidate}",
            fix="Give the pipeline or the adapter instead, or remove the rule.",
        )
    facts = dataclasses.replace(facts, leaked=seen_by_run(store, candidate.card, topics))
    return decide(spec.policy, comparison, spec.candidate, facts)


def compare_runs(
    spec: Experiment,
    topics: Mapping[str, Mapping[str, Any]],
    qrels: Qrels,
    runs: Mapping[str, SystemRun],
    *,
    notes: Sequence[str] = (),
    allow_circular: bool = False,
) -> Comparison:
    """Evaluate and compare the runs of systems, one at a time, so that only one is in memory.

    Args:
        topics: Topic -> fields, of the judged topics.
        notes: What was left out of the judgments.
        allow_circular: Accept a judge that took part in a system; the figures are marked as circular.

    Raises:
        UsageError: for a circular judge.
    """
    card = read_card(spec.qrels.path)
    lineages = {name: run.lineage for name, run in runs.items()}
    queries = {topic: str(fields["query"]) for topic, fields in topics.items()}
    circular = refuse_circular(card, lineages, queries, allow=allow_circular)
    evaluations: dict[str, Evaluation] = {}
    for name, run in runs.items():
        evaluations[name] = evaluate_run(
            read_run(run.source.path, run.source.format),
            qrels,
            measures=spec.measures,
            tested=spec.tested,
            topics=topics,
            slices=spec.slices,
            weight=spec.weight,
            cluster=spec.cluster,
            relevant=spec.relevant,
            costs=run.costs,
            invalid=run.invalid,
            circular=circular.get(name, ""),
        )
    # A single system is compared with nothing.
    baseline = next(iter(evaluations)) if len(evaluations) == 1 and spec.candidate is None else spec.baseline
    asked = spec.policy.measure if spec.policy is not None else None
    comparison = compare(
        evaluations,
        candidate=spec.candidate,
        baseline=baseline,
        also_tested=(asked,) if asked else (),
        correction=spec.correction,
    )
    notes = (*unknown_source_note(spec, card), *notes, *comparison.notes, *doubts(card, lineages))
    return dataclasses.replace(comparison, notes=notes)


# Inputs, and their comparison with an earlier result


def hashes(spec: Experiment) -> dict[str, str]:
    """Label -> sha256 of every input file. Raises `DataError` for a missing file."""
    files = {"topics": spec.topics.path, "qrels": spec.qrels.path}
    if (card := card_path(spec.qrels.path)).is_file():
        files["card of the qrels"] = card
    if spec.documents is not None:
        files["corpus"] = corpus_path(spec.documents)
    for name, system in spec.systems.items():
        if system.run is not None:
            files[f"run of {name}"] = system.run.path
    columns = spec.corpus.map if isinstance(spec.corpus, CorpusSettings) else {}
    indexed: dict[str, str] = {}
    if spec.documents is not None and (folder := index_folder(spec.documents)) is not None:
        source = read_manifest(folder).corpus  # so that an index and the file that it was built from are one corpus
        columns = {name: each[0] if len(each) == 1 else list(each) for name, each in source.columns.items()}
        indexed = {"corpus": source.sha256}
    found = {label: indexed.get(label) or tree_sha256(path) for label, path in files.items()}
    if columns:
        found["corpus"] = mapped_sha256(found["corpus"], columns)
    return found


def changes(spec: Experiment, now: Mapping[str, str], earlier: Path) -> tuple[str, ...]:
    """Descriptions of the inputs that changed since an earlier result.

    Compared are topics, qrels and their card, corpus, the baseline and the measurement settings, since figures are
    comparable only if these are equal. Other systems are expected to change.

    Args:
        now: Label -> sha256, from `hashes`, and `system NAME` for each system whose run is computed.
        earlier: The `experiment.json` of the earlier result.

    Raises:
        DataError: if that file is not the result of an experiment.
    """
    then = _read_result(earlier)
    watched = ["topics", "qrels", "card of the qrels", "corpus", f"run of {spec.baseline}", f"system {spec.baseline}"]
    changed = [
        f"{label} {_described(then['inputs'], label, 'was')}, {_described(now, label, 'is')}"
        for label in watched
        if then["inputs"].get(label) != now.get(label)
    ]
    changed += [
        f"'{key}' was {then['measured'].get(key)}, is {value}"
        for key, value in measured_by(spec).items()
        if then["measured"].get(key) != value
    ]
    return tuple(changed)


def measured_by(spec: Experiment) -> dict[str, Any]:
    """The settings on which every figure depends, as JSON values."""
    settings: dict[str, Any] = json.loads(
        spec.model_dump_json(
            include={
                **dict.fromkeys(
                    ("measures", "tested", "relevant", "scale", "weight", "cluster", "baseline", "correction"), True
                ),
                "qrels": {"format", "thresholds"},
            }
        )
    )
    return settings


def _described(inputs: Mapping[str, str], label: str, verb: str) -> str:
    return f"{verb} {inputs[label][:12]}" if label in inputs else f"{verb} absent"


def refuse_changes(changed: tuple[str, ...], earlier: Path) -> None:
    """Raise `DataError` with the list of changes, if there are any."""
    if changed:
        raise DataError(
            f"the inputs differ from those of the earlier result: {'; '.join(changed)}",
            where=str(earlier),
            fix="Restore the inputs, or accept the new ones with --accept-changes.",
        )


def _read_result(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        inputs = {label: str(digest) for label, digest in values["inputs"].items()}
        measured = dict(values["measured"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"is not the result of an experiment ({error})",
            where=str(path),
            fix="Give another result, or another --out.",
        ) from None
    return {"inputs": inputs, "measured": measured}
