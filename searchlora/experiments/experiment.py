"""The command `experiment`: compare systems on topics and qrels, and decide on a candidate by a policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.errors import DataError, UsageError
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation, evaluate_run
from searchlora.eval.formats import read_run, read_topics
from searchlora.eval.judgments.card import card_path, read_card
from searchlora.eval.judgments.lineage import doubts, refuse_circular
from searchlora.eval.measures import parse_measure
from searchlora.eval.policy import Facts, RuleResult, decide
from searchlora.eval.trec import Qrels
from searchlora.experiments.judge.judgments import experiment_qrels, unknown_source_note
from searchlora.experiments.lineage import seen_by_run
from searchlora.experiments.spec import Experiment, read_experiment
from searchlora.experiments.systems import MadeRun, Runs, plans
from searchlora.files import tree_sha256
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
    planned = plans(wanted, place, tasks)
    inputs = {**hashes(wanted), **{f"system {name}": plan.sha256 for name, plan in planned.items()}}
    earlier = Path(since) if since is not None else Path(out) / RESULT
    changed = changes(wanted, inputs, earlier) if since is not None or earlier.is_file() else ()
    if not accept_changes:
        refuse_changes(changed, earlier)
    topics = read_topics(wanted.topics.path, wanted.topics.format)
    qrels, judged_notes = experiment_qrels(wanted, topics)
    asked = {topic: topics[topic] for topic in qrels}
    maker = Runs(wanted, planned, asked, inputs, Path(out) / "runs", store=place, tasks=tasks, steps=steps)
    runs = {name: maker.get(name) for name in wanted.systems}
    card = read_card(wanted.qrels.path)
    lineages = {name: run.lineage for name, run in runs.items()}
    queries = {topic: str(fields["query"]) for topic, fields in asked.items()}
    circular = refuse_circular(card, lineages, queries, allow=allow_circular)
    comparison = _compared(wanted, asked, qrels, runs, circular)
    notes = (*unknown_source_note(wanted, card), *judged_notes, *comparison.notes, *doubts(card, lineages))
    comparison = dataclasses.replace(comparison, notes=notes)
    source = card.source if card is not None else "human"
    facts = Facts(
        roles={"base": wanted.baseline, "incumbent": wanted.baseline} if wanted.baseline else {},
        data=inputs["qrels"],
        changed=changed,
        accepted=accept_changes,
        source=source,
    )
    results = _decided(wanted, comparison, runs, facts, place, asked)
    return Experimented(wanted, comparison, results, asked, qrels, runs, inputs, changed, source)


def _decided(
    spec: Experiment,
    comparison: Comparison,
    runs: Mapping[str, MadeRun],
    facts: Facts,
    store: Store,
    topics: Mapping[str, Mapping[str, Any]],
) -> tuple[RuleResult, ...]:
    """What the policy says of the candidate; nothing where there is none."""
    if spec.policy is None or spec.candidate is None:
        return ()
    candidate = runs[spec.candidate]
    if spec.policy.invalid_rate is not None and candidate.invalid is None:
        raise UsageError(
            "the policy bounds the invalid rate, but a run that is there does not tell which outputs were invalid",
            where=f"system {spec.candidate}",
            fix="Give the pipeline or the adapter in its place, or take the rule out.",
        )
    facts = dataclasses.replace(facts, leaked=seen_by_run(store, candidate.card, topics))
    return decide(spec.policy, comparison, spec.candidate, facts)


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


# Inputs, and their comparison with an earlier result


def hashes(spec: Experiment) -> dict[str, str]:
    """Label -> sha256 of every input file. Raises `DataError` for a missing file."""
    files = {"topics": spec.topics.path, "qrels": spec.qrels.path}
    if (card := card_path(spec.qrels.path)).is_file():
        files["card of the qrels"] = card
    if spec.corpus is not None:
        files["corpus"] = spec.corpus
    for name, system in spec.systems.items():
        if system.run is not None:
            files[f"run of {name}"] = system.run.path
    return {label: tree_sha256(path) for label, path in files.items()}


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
        values = json.loads(path.read_text(encoding="utf-8"))
        inputs = {label: str(digest) for label, digest in values["inputs"].items()}
        measured = dict(values["measured"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"is not the result of an experiment ({error})",
            where=str(path),
            fix="Give another result, or another --out.",
        ) from None
    return {"inputs": inputs, "measured": measured}
