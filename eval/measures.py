"""Retrieval measures per topic, computed by trec_eval's own code through ir_measures.

ir_measures: MacAvaney, Macdonald, Ounis (ECIR 2022). pytrec_eval: Van Gysel, de Rijke (SIGIR 2018).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from subprocess import SubprocessError
from typing import Any

from searchlora.errors import UsageError, some
from searchlora.eval.trec import Qrels, Run, ranked

#: The measures of a table of retrieval results, by the names shown there.
RETRIEVAL_MEASURES = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")

#: Names that people use -> names of ir_measures. Any other name is given to ir_measures as it is.
_SPELLINGS = (("MRR", "RR"), ("Recall", "R"))


@dataclass(frozen=True)
class Measure:
    """A measure of a name.

    Attributes:
        name: As asked for and shown.
        measure: What ir_measures calculates.
        cutoff: The rank at which it ends, None where it takes the whole ranking.
    """

    name: str
    measure: Any
    cutoff: int | None


def parse_measure(name: str) -> Measure:
    """The measure of a name as shown (`MRR@10`, `Recall@100`) or of ir_measures (`AP(rel=2)`, `P@5`).

    Raises:
        UsageError: when there is no such measure.
    """
    import ir_measures

    spelled = name
    for shown, known in _SPELLINGS:
        spelled = re.sub(rf"^{shown}(?=[@(]|$)", known, spelled)
    try:
        measure = ir_measures.parse_measure(spelled)
        measure.validate_params()
    except (NameError, ValueError, KeyError, TypeError, AssertionError, SyntaxError) as error:
        why = re.sub(r"invalid param (\w+)=<object.*", r"\1 must be given", str(error))
        fix = "Examples: nDCG@10, MRR@10, Recall@100, AP, P@5."
        raise UsageError(f"'{name}' is not a measure ({why})", fix=fix) from None
    for key in ("cutoff", "rel"):
        if measure.params.get(key, 1) < 1:  # trec_eval ends the whole process over a cutoff of 0
            raise UsageError(
                f"'{name}' is not a measure ({key} must be at least 1)", fix="Examples: nDCG@10, P(rel=2)@5."
            )
    return Measure(name, measure, measure.params.get("cutoff"))


def with_relevant(name: str, relevant: int) -> str:
    """The name with `rel=N` written in, where the measure takes it and has none: `MRR@10` -> `MRR(rel=2)@10`.

    Args:
        relevant: The grade from which on a document counts in binary measures. 1 is what measures take anyway and
            leaves the name as it is.
    """
    measure = parse_measure(name).measure
    if relevant == 1 or "rel" not in measure.SUPPORTED_PARAMS or "rel" in measure.params:
        return name
    bare, at, cutoff = name.partition("@")
    options = f"{bare[:-1]},rel={relevant})" if bare.endswith(")") else f"{bare}(rel={relevant})"
    return f"{options}{at}{cutoff}"


def retrieval_values(
    run: Run, qrels: Qrels, measures: Sequence[str] = RETRIEVAL_MEASURES
) -> dict[str, dict[str, float]]:
    """Measure a run: measure -> topic -> value, for every topic of the qrels, all measures in one pass of trec_eval.

    A topic without results counts 0. A topic of the run that has no qrels is left out (`retrieval_notes` says so).
    MRR@k is trec_eval's reciprocal rank, 0 where the first relevant document stands below rank k. What trec_eval does
    not know (`RBP`, `ERR`) is left to the other providers of ir_measures, which get the ranking that trec_eval sees.

    Args:
        measures: Names as `parse_measure` takes them.

    Raises:
        UsageError: when a measure is unknown or cannot be calculated here, or the qrels are empty.
    """
    if not qrels:
        raise UsageError("there are no judgments to measure against")
    wanted = [_calculated(parse_measure(name)) for name in measures]
    # pytrec_eval takes plain dictionaries only; a large run is not copied without need.
    found = {
        topic: scores if isinstance(scores, dict) else dict(scores)
        for topic, scores in run.items()
        if scores and topic in qrels
    }
    values = _calculate(found, qrels, dict.fromkeys(each.measure for each in wanted))
    return {each.name: _cut(values[each.measure], each) for each in wanted}


def retrieval_notes(run: Run, qrels: Qrels) -> tuple[str, ...]:
    """What a reader of the figures must know: topics left out, and topics that count 0 because nothing was found."""
    unjudged = [topic for topic in run if topic not in qrels]
    empty = [topic for topic in qrels if not run.get(topic)]
    notes = []
    if unjudged:
        notes.append(f"{_counted(unjudged)} of the run have no judgments and are left out.")
    if empty:
        notes.append(f"{_counted(empty)} found nothing and count 0.")
    return tuple(notes)


def _calculated(measure: Measure) -> Measure:
    """RR without its cutoff, which pytrec_eval does not know; another provider would order ties otherwise."""
    import ir_measures

    if measure.measure.NAME != "RR" or measure.cutoff is None:
        return measure
    params = {key: value for key, value in measure.measure.params.items() if key != "cutoff"}
    return Measure(measure.name, ir_measures.RR(**params), measure.cutoff)


def _cut(values: dict[str, float], measure: Measure) -> dict[str, float]:
    if measure.measure.NAME != "RR" or measure.cutoff is None:
        return dict(values)
    return {topic: value if value >= 1 / measure.cutoff else 0.0 for topic, value in values.items()}


def _calculate(run: dict[str, dict[str, float]], qrels: Qrels, measures: Iterable[Any]) -> dict[Any, dict[str, float]]:
    """measure of ir_measures -> topic -> value."""
    import ir_measures

    # pytrec_eval makes a pass for each level of relevance; measures without one join a pass that is there already.
    ordered = sorted(measures, key=lambda measure: "rel" not in measure.SUPPORTED_PARAMS)
    values = {measure: dict.fromkeys(qrels, 0.0) for measure in ordered}
    ours = [measure for measure in ordered if ir_measures.pytrec_eval.supports(measure)]
    others = [measure for measure in ordered if measure not in ours]
    if run and ours:
        for metric in ir_measures.pytrec_eval.iter_calc(ours, qrels, run):
            values[metric.measure][metric.query_id] = float(metric.value)
    if run and others:
        for measure, topic, value in _by_others(run, qrels, others):
            values[measure][topic] = value
    return values


def _by_others(run: dict[str, dict[str, float]], qrels: Qrels, measures: list[Any]) -> list[tuple[Any, str, float]]:
    """Measure, topic and value, from the providers beside trec_eval.

    They get the ranking that trec_eval sees, and plain ids: some write files whose columns are parted by blanks and
    whose topics are numbers.
    """
    import ir_measures

    numbers = {topic: str(number) for number, topic in enumerate(qrels, start=1)}
    named = {number: topic for topic, number in numbers.items()}
    places: dict[str, dict[str, float]] = {}
    judged: dict[str, dict[str, int]] = {}
    for topic, grades in qrels.items():
        ranking = ranked(run.get(topic, {}))
        ids = {document: f"d{number}" for number, document in enumerate(dict.fromkeys((*ranking, *grades)))}
        judged[numbers[topic]] = {ids[document]: grade for document, grade in grades.items()}
        if ranking:
            places[numbers[topic]] = {ids[document]: float(-place) for place, document in enumerate(ranking)}
    try:
        found = list(ir_measures.iter_calc(measures, judged, places))
    except (ValueError, TypeError, ArithmeticError, RuntimeError, OSError, SubprocessError) as error:
        names = ", ".join(map(str, measures))
        why = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{names} cannot be calculated here ({why})") from None
    return [(metric.measure, named[metric.query_id], float(metric.value)) for metric in found]


def _counted(topics: Sequence[str]) -> str:
    return f"{len(topics)} topic{'s' if len(topics) != 1 else ''} ({some(topics)})"
