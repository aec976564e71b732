"""Topics of a test collection by gain or loss of a system against a baseline, with the paired interval of the mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchlora.adapters.store import Store
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import evaluate_run
from searchlora.eval.figures import PairedComparison, SystemScore
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.lineage import lineage_of, refuse_circular
from searchlora.eval.trec import Qrels, Run
from searchlora.experiments.run import run_card
from searchlora.pipelines.pipeline import Pipeline

#: Names of the two systems in the comparison.
SYSTEM, BASELINE = "system", "baseline"


@dataclass(frozen=True)
class TopicGain:
    """The measure of both systems on one topic; `gain` is above 0 where the system is better."""

    topic: str
    system: float
    baseline: float
    gain: float


@dataclass(frozen=True)
class TopicGains:
    """A system against a baseline.

    Attributes:
        comparison: Of `system` with `baseline`, in one measure.
        topics: Largest gain first; equal ones by id.
    """

    comparison: Comparison
    topics: tuple[TopicGain, ...]

    @property
    def pair(self) -> PairedComparison:
        """The paired difference of the means, with interval and p."""
        return self.comparison.comparisons[0]

    def row(self, system: str) -> SystemScore:
        """The mean of a system, with its interval."""
        return self.comparison.row(system, self.comparison.measures[0])


def topic_gains(
    system: Run,
    baseline: Run,
    topics: Mapping[str, Mapping[str, Any]],
    qrels: Qrels,
    *,
    measure: str = "nDCG@10",
    circular: Mapping[str, str] | None = None,
) -> TopicGains:
    """Compare two runs topic by topic.

    Args:
        system, baseline: Topic -> document -> score.
        topics: Topic -> fields, of the judged topics.
        qrels: Topic -> document -> grade.
        circular: `system` or `baseline` -> why its figures are circular.

    Raises:
        UsageError: for an unknown measure, or without judgments.

    Examples:
        >>> qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1}}
        >>> ours = {"q1": {"d1": 1.0}, "q2": {"d9": 2.0, "d2": 1.0}, "q3": {"d9": 1.0}}
        >>> theirs = {"q1": {"d9": 1.0}, "q2": {"d2": 1.0}, "q3": {"d9": 1.0}}
        >>> found = topic_gains(ours, theirs, {}, qrels, measure="MRR@10")
        >>> [(each.topic, each.gain) for each in found.topics]
        [('q1', 1.0), ('q3', 0.0), ('q2', -0.5)]
        >>> round(found.pair.difference, 3), found.pair.wins, found.pair.losses, found.pair.ties
        (0.167, 1, 1, 1)
    """
    evaluations = {
        name: evaluate_run(
            run,
            qrels,
            measures=[measure],
            topics=topics,
            unjudged=False,
            circular=(circular or {}).get(name, ""),
        )
        for name, run in ((SYSTEM, system), (BASELINE, baseline))
    }
    comparison = compare(evaluations, candidate=SYSTEM, baseline=BASELINE, measures=[measure])
    values = comparison.values[comparison.measures[0]]
    gains = comparison.gains(SYSTEM, BASELINE)
    ordered = sorted(gains, key=lambda topic: (-gains[topic], topic))
    of_topics = (TopicGain(topic, values[SYSTEM][topic], values[BASELINE][topic], gains[topic]) for topic in ordered)
    return TopicGains(comparison, tuple(of_topics))


def circular_pipelines(
    pipelines: Mapping[str, Pipeline],
    judgments: JudgmentsCard | None,
    topics: Mapping[str, Mapping[str, Any]],
    store: Store,
    *,
    allow: bool = False,
) -> dict[str, str]:
    """System -> why its figures are circular: the judge of the topics is part of it, or was trained on them.

    Args:
        pipelines: Name of a system -> its pipeline, with pinned adapters.
        judgments: Card of the judgments; None: their source is unknown.

    Raises:
        UsageError: naming the first such system, unless circular figures are allowed.
    """
    if judgments is None or not judgments.judge_lineage:
        return {}
    lineages = {name: lineage_of(run_card(name, pipeline, store)) for name, pipeline in pipelines.items()}
    queries = {topic: str(fields["query"]) for topic, fields in topics.items()}
    return refuse_circular(judgments, lineages, queries, allow=allow)
