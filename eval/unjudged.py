"""Sensitivity of retrieval measures to unjudged documents.

Measures count an unjudged document as not relevant (**unjudged as worst**), which favours the systems whose documents
were judged. For comparison this module computes:

* `X condensed`: the value with unjudged documents removed from the ranking (Sakai, Alternatives to Bpref, SIGIR 2007);
* `X unjudged as best`: the greatest value when the first j unjudged documents get the best grade of the qrels, over j
  from 0 to the number of unjudged documents above the cutoff. nDCG can fall when one more document is relevant, because
  the ideal ranking improves too, so every j is tried up to a cutoff of 20. For larger cutoffs, and for measures of the
  whole ranking, only none and all are tried;
* `Judged@k`: the share of the first k retrieved documents that are judged.

`unjudged as best` is an upper bound if each unjudged document either has the best grade or is not relevant. A condensed
value can exceed it: in recall, documents below the cutoff move up when others are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from searchlora.eval.measures import Measure, parse_measure, retrieval_values
from searchlora.eval.trec import Qrels, Run, ranked

CONDENSED = "condensed"
AS_BEST = "unjudged as best"

#: Greatest cutoff for which every number of unjudged documents is tried.
_EXHAUSTIVE_CUTOFF = 20

#: Measures that already exclude or estimate unjudged documents, or do not use judgments.
_UNAFFECTED = frozenset({"Bpref", "infAP", "Judged", "NumQ", "NumRel", "NumRet"})


def unjudged_values(run: Run, qrels: Qrels, plain: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Compute the figures of this module: measure -> topic -> value, for every topic of the qrels.

    Args:
        plain: The result of `retrieval_values` for this run: measure -> topic -> value. Measures that do not count
            unjudged documents as not relevant (`Bpref`, `infAP`, any with `judged_only`) are skipped. `Judged@k` is
            computed for each cutoff among the measures, or for 10 if there is none.

    Raises:
        UsageError: as `retrieval_values`.

    Examples:
        >>> run, qrels = {"q1": {"new": 2.0, "d1": 1.0}}, {"q1": {"d1": 1}}
        >>> plain = retrieval_values(run, qrels, ["MRR@10"])
        >>> unjudged_values(run, qrels, plain)["MRR@10 condensed"]
        {'q1': 1.0}
    """
    affected = [measure for measure in map(parse_measure, plain) if _affected(measure)]
    cutoffs = sorted({measure.cutoff for measure in affected if measure.cutoff is not None}) or [10]
    tops = {topic: _top(run.get(topic, {}), max(cutoffs)) for topic in qrels}
    condensed = retrieval_values(_condensed(run, qrels), qrels, [measure.name for measure in affected])
    best = _as_best(run, qrels, affected, tops, plain)
    values_by_name: dict[str, dict[str, float]] = {}
    for measure in affected:
        values_by_name[f"{measure.name} {CONDENSED}"] = condensed[measure.name]
        values_by_name[f"{measure.name} {AS_BEST}"] = best[measure.name]
    for cutoff in cutoffs:
        values_by_name[f"Judged@{cutoff}"] = {topic: _judged(top[:cutoff], qrels[topic]) for topic, top in tops.items()}
    return values_by_name


def _affected(measure: Measure) -> bool:
    return measure.measure.NAME not in _UNAFFECTED and not measure.measure.params.get("judged_only", False)


def _top(scores: Mapping[str, float], depth: int) -> list[str]:
    """The first documents in the order of `ranked`, without sorting the rest."""
    if len(scores) <= depth:
        return ranked(scores)
    # trec_eval compares scores in single precision; keep every document that may be among the first in that order.
    values = np.fromiter(scores.values(), dtype=np.float32, count=len(scores))
    least = np.partition(values, len(values) - depth)[len(values) - depth]
    documents = list(scores)
    return ranked({documents[index]: scores[documents[index]] for index in np.flatnonzero(values >= least)})[:depth]


def _judged(top: Sequence[str], grades: Mapping[str, int]) -> float:
    return sum(document in grades for document in top) / len(top) if top else 0.0


def _condensed(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    return {
        topic: {document: scores[document] for document in scores.keys() & qrels[topic].keys()}
        for topic, scores in run.items()
        if topic in qrels
    }


def _as_best(
    run: Run,
    qrels: Qrels,
    measures: Iterable[Measure],
    tops: Mapping[str, Sequence[str]],
    plain: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Name -> topic -> greatest value over the numbers of unjudged documents that get the best grade."""
    by_cutoff: dict[int | None, list[str]] = {}
    for measure in measures:
        by_cutoff.setdefault(measure.cutoff, []).append(measure.name)
    grade = max((grade for grades in qrels.values() for grade in grades.values()), default=1)
    values_by_name: dict[str, dict[str, float]] = {}
    for cutoff, names in by_cutoff.items():
        # Documents below the cutoff do not affect the measure.
        part = {t: {d: run[t][d] for d in top[:cutoff]} for t, top in tops.items()} if cutoff is not None else run
        trials = _trials(part, qrels, tops, cutoff, grade)
        judgments = {key: grades for key, (_, grades) in trials.items()}
        ranking = {key: part[topic] for key, (topic, _) in trials.items()}
        values = retrieval_values(ranking, judgments, names) if trials else {}
        for name in names:
            values_by_name[name] = dict(plain[name])
            for key, value in values.get(name, {}).items():
                topic = trials[key][0]
                values_by_name[name][topic] = max(values_by_name[name][topic], value)
    return values_by_name


def _trials(
    run: Run, qrels: Qrels, tops: Mapping[str, Sequence[str]], cutoff: int | None, grade: int
) -> dict[str, tuple[str, Mapping[str, int]]]:
    """A key for each trial -> its topic and judgments; j = 0 is the plain value and needs no trial."""
    trials: dict[str, tuple[str, Mapping[str, int]]] = {}
    for topic, grades in qrels.items():
        ranking = tops[topic][:cutoff] if cutoff is not None else run.get(topic, ())
        unjudged = [document for document in ranking if document not in grades]
        every = cutoff is not None and cutoff <= _EXHAUSTIVE_CUTOFF
        for count in range(1 if every else max(1, len(unjudged)), len(unjudged) + 1):
            trials[f"{count} {topic}"] = (topic, {**grades, **dict.fromkeys(unjudged[:count], grade)})
    return trials
