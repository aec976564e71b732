"""What unjudged documents do to the figures: how many there are, and what the figures would be otherwise.

Measures count an unjudged document as not relevant, which favours the systems whose documents were judged. Beside the
plain value, which is that of **unjudged as worst**, stand:

* `X condensed`: the value with unjudged documents taken out of the ranking (Sakai, Alternatives to Bpref, SIGIR 2007);
* `X unjudged as best`: the greatest value over giving the first j unjudged documents the best grade of the qrels,
  j = 0 to all of those above the measure's cutoff. nDCG can fall when one more document is relevant, because its ideal
  rises too, so all j are tried up to a cutoff of 20; beyond that, and for measures of the whole ranking, none and all;
* `Judged@k`: the share of the first k documents that are judged, of as many as were found.

`unjudged as best` bounds what the documents would give if each were of the best grade or not relevant. A condensed
value can lie above it: in recall, documents below the cutoff move up for those that are taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from searchlora.eval.measures import Measure, parse_measure, retrieval_values
from searchlora.eval.trec import Qrels, Run, ranked

CONDENSED = "condensed"
AS_BEST = "unjudged as best"

#: Up to this cutoff every number of unjudged documents is tried.
_ALL_TRIED = 20

#: These leave unjudged documents out already, estimate what they would be, or do not look at judgments.
_NOT_CONCERNED = frozenset({"Bpref", "infAP", "Judged", "NumQ", "NumRel", "NumRet"})


def unjudged_values(run: Run, qrels: Qrels, plain: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Measure -> topic -> value, for every topic of the qrels, of the figures that this module names.

    Args:
        plain: What `retrieval_values` gave for this run: measure -> topic -> value. Measures that judge unjudged
            documents otherwise than as not relevant (`Bpref`, `infAP`, anything with `judged_only`) are passed over.
            `Judged@k` is given for each cutoff among the measures, for 10 where they have none.

    Raises:
        UsageError: as `retrieval_values`.
    """
    concerned = [each for each in map(parse_measure, plain) if _concerned(each)]
    cutoffs = sorted({each.cutoff for each in concerned if each.cutoff is not None}) or [10]
    tops = {topic: _top(run.get(topic, {}), max(cutoffs)) for topic in qrels}
    condensed = retrieval_values(_condensed(run, qrels), qrels, [each.name for each in concerned])
    best = _as_best(run, qrels, concerned, tops, plain)
    found: dict[str, dict[str, float]] = {}
    for each in concerned:
        found[f"{each.name} {CONDENSED}"] = condensed[each.name]
        found[f"{each.name} {AS_BEST}"] = best[each.name]
    for cutoff in cutoffs:
        found[f"Judged@{cutoff}"] = {topic: _judged(top[:cutoff], qrels[topic]) for topic, top in tops.items()}
    return found


def _concerned(measure: Measure) -> bool:
    return measure.measure.NAME not in _NOT_CONCERNED and not measure.measure.params.get("judged_only", False)


def _top(scores: Mapping[str, float], depth: int) -> list[str]:
    """The first documents, as `ranked`, without ordering those further down."""
    if len(scores) <= depth:
        return ranked(scores)
    # Single precision, which trec_eval compares in, keeps order; so all that may be among the first are kept.
    values = np.fromiter(scores.values(), dtype=np.float32, count=len(scores))
    least = np.partition(values, len(values) - depth)[len(values) - depth]
    documents = list(scores)
    return ranked({documents[place]: scores[documents[place]] for place in np.flatnonzero(values >= least)})[:depth]


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
    """Name -> topic -> greatest value over the numbers of unjudged documents that are given the best grade."""
    by_cutoff: dict[int | None, list[str]] = {}
    for each in measures:
        by_cutoff.setdefault(each.cutoff, []).append(each.name)
    grade = max((grade for grades in qrels.values() for grade in grades.values()), default=1)
    found: dict[str, dict[str, float]] = {}
    for cutoff, names in by_cutoff.items():
        # What stands below the cutoff has no part in the measure.
        part = {t: {d: run[t][d] for d in top[:cutoff]} for t, top in tops.items()} if cutoff is not None else run
        tried = _tried(part, qrels, tops, cutoff, grade)
        judgments = {key: grades for key, (_, grades) in tried.items()}
        ranking = {key: part[topic] for key, (topic, _) in tried.items()}
        values = retrieval_values(ranking, judgments, names) if tried else {}
        for name in names:
            found[name] = dict(plain[name])
            for key, value in values.get(name, {}).items():
                topic = tried[key][0]
                found[name][topic] = max(found[name][topic], value)
    return found


def _tried(
    run: Run, qrels: Qrels, tops: Mapping[str, Sequence[str]], cutoff: int | None, grade: int
) -> dict[str, tuple[str, Mapping[str, int]]]:
    """A key for each trial -> its topic and its judgments; j = 0 is the plain value and needs no trial."""
    trials: dict[str, tuple[str, Mapping[str, int]]] = {}
    for topic, grades in qrels.items():
        ranking = tops[topic][:cutoff] if cutoff is not None else run.get(topic, ())
        unjudged = [document for document in ranking if document not in grades]
        every = cutoff is not None and cutoff <= _ALL_TRIED
        for count in range(1 if every else max(1, len(unjudged)), len(unjudged) + 1):
            trials[f"{count} {topic}"] = (topic, {**grades, **dict.fromkeys(unjudged[:count], grade)})
    return trials
