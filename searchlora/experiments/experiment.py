"""The verb `experiment`: systems × topics × qrels × measures, and a policy's decision on one of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.errors import DataError, UsageError, some
from searchlora.eval.compare import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.formats import read_qrels, read_run, read_topics
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.judgments.lineage import doubts, refuse_circular
from searchlora.eval.measures import parse_measure
from searchlora.eval.policy import Facts, RuleResult, decide
from searchlora.eval.scoring import evaluate_run
from searchlora.eval.trec import Qrels
from searchlora.experiments.inputs import changes, hashes, refuse_changes
from searchlora.experiments.lineage import seen_by_run
from searchlora.experiments.spec import Experiment, read_experiment
from searchlora.experiments.systems import MadeRun, Runs, plans
from searchlora.progress import Steps, unwatched

RESULT = "experiment.json"


@dataclass(frozen=True)
class Experimented:
    """What an experiment found.

    Attributes:
        comparison: The figures.
        results: The policy's rules, held or broken; none without a policy.
        topics: topic -> fields, of the judged topics.
        runs: system -> its run.
        inputs: Label -> sha256 of what was read.
        accepted: Changes against the earlier result that were accepted, in words.
        judgments: Where they come from: human, llm, clicks, mixed.
    """

    spec: Experiment
    comparison: Comparison
    results: tuple[RuleResult, ...]
    topics: Mapping[str, Mapping[str, Any]]
    qrels: Qrels
    runs: Mapping[str, MadeRun]
    inputs: Mapping[str, str]
    accepted: tuple[str, ...]
    judgments: str

    @property
    def refused(self) -> bool:
        """Whether the policy lets the candidate not through."""
        return any(not result.passed for result in self.results)


def experiment(
    spec: Experiment | str | Path,
    out: str | Path,
    *,
    since: str | Path | None = None,
    accept_changes: bool = False,
    allow_circular: bool = False,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> Experimented:
    """Run an experiment; `experiments.results.write` puts it into files.

    Args:
        spec: An experiment, or the YAML file of one.
        out: Its folder. Runs that are made are kept there and used again; a result that lies there is the one that
            inputs are compared with.
        since: Another earlier result to compare the inputs with (`experiment.json`).
        accept_changes: Go on though topics, qrels, corpus, the baseline or the way of measuring changed.
        allow_circular: Go on though the judge had a part in a system; the figures are then marked wherever they stand.

    Raises:
        DataError: for a file that cannot be read, inputs that changed, or judged topics of which none is in the topics.
        UsageError: for a file that is no experiment, or a circular judge.
    """
    wanted = spec if isinstance(spec, Experiment) else read_experiment(spec)
    for name in wanted.measures:
        parse_measure(name)  # before anything is run
    place = store if isinstance(store, Store) else Store(store)
    planned = plans(wanted, place)
    inputs = {**hashes(wanted), **{f"system {name}": plan.sha256 for name, plan in planned.items()}}
    earlier = Path(since) if since is not None else Path(out) / RESULT
    changed = changes(wanted, inputs, earlier) if since is not None or earlier.is_file() else ()
    if not accept_changes:
        refuse_changes(changed, earlier)
    topics = read_topics(wanted.topics.path, wanted.topics.format)
    qrels, judged_notes = _judged(wanted, topics)
    asked = {topic: topics[topic] for topic in qrels}
    maker = Runs(wanted, planned, asked, inputs, Path(out) / "runs", store=place, tasks=tasks, steps=steps)
    runs = {name: maker.get(name) for name in wanted.systems}
    card = read_card(wanted.qrels.path)
    lineages = {name: run.lineage for name, run in runs.items()}
    queries = {topic: str(fields["query"]) for topic, fields in asked.items()}
    circular = refuse_circular(card, lineages, queries, allow=allow_circular)
    comparison = _compared(wanted, asked, qrels, runs, circular)
    notes = (*_unknown_source(wanted, card), *judged_notes, *comparison.notes, *doubts(card, lineages))
    comparison = dataclasses.replace(comparison, notes=notes)
    source = card.source if card is not None else "human"
    results: tuple[RuleResult, ...] = ()
    if wanted.policy is not None and wanted.candidate is not None:
        candidate = runs[wanted.candidate]
        if wanted.policy.invalid_rate is not None and candidate.invalid is None:
            raise UsageError(
                "the policy bounds the invalid rate, but a run that is there does not tell which outputs were invalid",
                where=f"system {wanted.candidate}",
                fix="Give the pipeline or the adapter in its place, or take the rule out.",
            )
        facts = Facts(
            roles={"base": wanted.baseline, "incumbent": wanted.baseline} if wanted.baseline else {},
            data=inputs["qrels"],
            changed=changed,
            accepted=accept_changes,
            source=source,
            leaked=seen_by_run(place, candidate.card, asked),
        )
        results = decide(wanted.policy, comparison, wanted.candidate, facts)
    return Experimented(wanted, comparison, results, asked, qrels, runs, inputs, changed, source)


def _judged(
    spec: Experiment, topics: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """The judgments of the topics that are asked, and notes on those that are not, and on the grades."""
    qrels = read_qrels(spec.qrels.path, spec.qrels.format, thresholds=spec.qrels.thresholds, topics=topics)
    found = {topic: dict(grades) for topic, grades in qrels.items() if topic in topics}
    if not found:
        raise DataError(
            "none of the judged topics is among the topics",
            where=str(spec.qrels.path),
            fix=f"The topics are those of {spec.topics.path}; their ids must be the same.",
        )
    unasked = [topic for topic in qrels if topic not in topics]
    notes = (f"{len(unasked)} judged topics ({some(unasked)}) are not among the topics and are left out.",)
    found, of_grades = _on_scale(spec, found)
    return found, (*(notes if unasked else ()), *of_grades)


def _on_scale(
    spec: Experiment, qrels: Mapping[str, dict[str, int]]
) -> tuple[dict[str, dict[str, int]], tuple[str, ...]]:
    """The judgments that are grades of the scale; a label outside it is an invalid answer, never a gain (law 2)."""
    counts = Counter(grade for row in qrels.values() for grade in row.values())
    labels = [str(grade) for grade in sorted(counts)]
    if spec.scale is None:
        return dict(qrels), (f"No scale is given; every label counts as a grade: {some(labels)}.",)
    scale = set(spec.scale)
    kept = {
        topic: {document: grade for document, grade in row.items() if grade in scale} for topic, row in qrels.items()
    }
    found = {topic: row for topic, row in kept.items() if row}
    shown = ", ".join(map(str, sorted(scale)))
    if not found:
        raise DataError(
            f"none of the {counts.total()} labels is on the scale {shown}",
            where=str(spec.qrels.path),
            fix=f"Its labels are {some(labels)}; correct 'scale', or convert the labels.",
        )
    outside = [grade for grade in sorted(counts) if grade not in scale]
    if not outside:
        return found, ()
    lost = len(qrels) - len(found)
    odd = f"{sum(counts[grade] for grade in outside)} of {counts.total()} labels ({some([*map(str, outside)])})"
    note = f"{odd} are not on the scale {shown} and count as unjudged"
    return found, (f"{note}; {lost} topics have no other and are left out." if lost else f"{note}.",)


def _unknown_source(spec: Experiment, card: JudgmentsCard | None) -> tuple[str, ...]:
    if card is not None:
        return ()
    return (f"{spec.qrels.path.name} has no card that says who judged; it is taken for people's.",)


def _compared(
    spec: Experiment,
    topics: Mapping[str, Mapping[str, Any]],
    qrels: Qrels,
    runs: Mapping[str, MadeRun],
    circular: Mapping[str, str],
) -> Comparison:
    """Each run is read, measured and let go before the next, so that any number of them fits in memory."""
    evaluations: dict[str, Evaluation] = {}
    for name, made in runs.items():
        evaluations[name] = evaluate_run(
            read_run(made.source.path, made.source.format),
            qrels,
            measures=spec.measures,
            tested=spec.tested,
            topics=topics,
            slices=spec.slices,
            weight=spec.weight,
            cluster=spec.cluster,
            relevant=spec.relevant,
            costs=made.costs,
            invalid=made.invalid,
            circular=circular.get(name, ""),
        )
    # A system alone is set against nothing, whichever part it has.
    baseline = next(iter(evaluations)) if len(evaluations) == 1 and spec.candidate is None else spec.baseline
    return compare(evaluations, candidate=spec.candidate, baseline=baseline, correction=spec.correction)
