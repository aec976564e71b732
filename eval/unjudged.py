"""Sensitivity of retrieval measures to unjudged documents.

Measures count an unjudged document as not relevant, which favours the systems whose documents were judged. For
comparison this module computes:

* `X condensed`: the value with unjudged documents removed from the ranking (Sakai, Alternatives to Bpref, SIGIR 2007);
* `Judged@k`: the share of the first k retrieved documents that are judged.
"""

from __future__ import annotations

from collections.abc import Iterable

from searchlora.eval.measures import Measure, parse_measure, retrieval_values
from searchlora.eval.trec import Qrels, Run, ranked

CONDENSED = "condensed"

#: Measures that already exclude or estimate unjudged documents, or do not use judgments.
_UNAFFECTED = frozenset({"Bpref", "infAP", "Judged", "NumQ", "NumRel", "NumRet"})


def unjudged_values(run: Run, qrels: Qrels, measures: Iterable[str]) -> dict[str, dict[str, float]]:
    """Compute the figures of this module: measure -> topic -> value, for every topic of the qrels.

    Args:
        measures: Those that do not count unjudged documents as not relevant (`Bpref`, `infAP`, any with `judged_only`)
            are skipped. `Judged@k` is computed for each cutoff among the measures, or for 10 if there is none.

    Examples:
        >>> run, qrels = {"q1": {"new": 2.0, "d1": 1.0}}, {"q1": {"d1": 1}}
        >>> unjudged_values(run, qrels, ["MRR@10"])
        {'MRR@10 condensed': {'q1': 1.0}, 'Judged@10': {'q1': 0.5}}
    """
    affected = [measure for measure in map(parse_measure, measures) if _affected(measure)]
    cutoffs = sorted({measure.cutoff for measure in affected if measure.cutoff is not None}) or [10]
    condensed = {
        topic: {document: score for document, score in run.get(topic, {}).items() if document in grades}
        for topic, grades in qrels.items()
    }
    values = retrieval_values(condensed, qrels, [measure.name for measure in affected])
    judged = {
        topic: [document in grades for document in ranked(run.get(topic, {}))[: max(cutoffs)]]
        for topic, grades in qrels.items()
    }
    return {f"{name} {CONDENSED}": of_topics for name, of_topics in values.items()} | {
        f"Judged@{cutoff}": {
            topic: sum(top[:cutoff]) / len(top[:cutoff]) if top else 0.0 for topic, top in judged.items()
        }
        for cutoff in cutoffs
    }


def _affected(measure: Measure) -> bool:
    return measure.measure.NAME not in _UNAFFECTED and not measure.measure.params.get("judged_only", False)
