"""Retrieval measures per topic (trec_eval's code through ir_measures), and text overlap (ROUGE-L).

* nDCG@k: sum of grade / log2(1 + rank) over the first k hits, divided by that of the ideal order (Järvelin and
  Kekäläinen 2002, https://doi.org/10.1145/582415.582418).
* MRR@k: 1 / rank of the first relevant document, 0 if it is below rank k (Kantor and Voorhees 2000).
* Recall@k: share of the relevant documents that are in the first k hits.

Software: ir_measures: MacAvaney, Macdonald and Ounis (ECIR 2022). pytrec_eval: Van Gysel and de Rijke (SIGIR 2018).
ROUGE: Lin (2004). Text overlap is a secondary figure: a rewrite is judged by what it retrieves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from subprocess import SubprocessError
from typing import Any

from searchlora.errors import UsageError, some
from searchlora.eval.text_identity import words
from searchlora.eval.trec import Qrels, Run, ranked

#: The default retrieval measures.
RETRIEVAL_MEASURES = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")

#: Largest integer parameter of a measure.
_GREATEST = 2**31 - 1

#: Common names -> names in ir_measures. Any other name is passed to ir_measures unchanged.
_SPELLINGS = (("MRR", "RR"), ("Recall", "R"))


@dataclass(frozen=True)
class Measure:
    """A measure of ir_measures, with its name as requested and its rank cutoff (None: the whole ranking)."""

    name: str
    measure: Any
    cutoff: int | None


def parse_measure(name: str) -> Measure:
    """Parse the name of a measure, a common one (`MRR@10`, `Recall@100`) or one of ir_measures (`AP(rel=2)`, `P@5`).

    Raises:
        UsageError: when the measure is unknown or a parameter is invalid.

    Examples:
        >>> parse_measure("MRR@10").measure, parse_measure("MRR@10").cutoff
        (RR@10, 10)
    """
    import ir_measures

    spelled = name
    for shown, known in _SPELLINGS:
        spelled = re.sub(rf"^{shown}(?=[@(]|$)", known, spelled)
    try:
        measure = ir_measures.parse_measure(spelled)
        measure.validate_params()
    except (
        NameError,
        ValueError,
        KeyError,
        TypeError,
        AssertionError,
        SyntaxError,
        RecursionError,
        MemoryError,
    ) as error:
        why = re.sub(r"invalid param (\w+)=<object.*", r"\1 must be given", str(error))
        fix = "Examples: nDCG@10, MRR@10, Recall@100, AP, P@5."
        raise UsageError(f"'{name}' is not a measure ({why})", fix=fix) from None
    if fault := _parameter_fault(measure.params):
        raise UsageError(f"'{name}' is not a measure ({fault})", fix="Examples: nDCG@10, P(rel=2)@5.")
    return Measure(name, measure, measure.params.get("cutoff"))


def _parameter_fault(params: Mapping[str, Any]) -> str | None:
    """What is wrong with a parameter: trec_eval reads 32-bit integers, and aborts the process for a cutoff of 0."""
    for key, value in params.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{key} must be a finite number"
        if key in ("cutoff", "rel") and isinstance(value, bool):
            return f"{key} must be a number"
        if key in ("cutoff", "rel") and value < 1:
            return f"{key} must be at least 1"
        if isinstance(value, int) and abs(value) > _GREATEST:
            return f"{key} must be at most {_GREATEST:,}"
    return None


def with_relevant(name: str, relevant: int) -> str:
    """Add `rel=N`, the lowest grade that is relevant, to the name of a measure that supports it and does not have it.

    1 is the default of all measures and leaves the name unchanged.

    Examples:
        >>> with_relevant("MRR@10", 2), with_relevant("nDCG@10", 2)
        ('MRR(rel=2)@10', 'nDCG@10')
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
    """Measure a run: measure -> topic -> value for every topic of the qrels, all measures in one pass of trec_eval.

    A topic without results counts 0. A topic of the run without qrels is left out (see `retrieval_notes`). MRR@k is
    trec_eval's reciprocal rank, and 0 if the first relevant document is below rank k. Measures that trec_eval does not
    have (`RBP`, `ERR`) are computed by other providers of ir_measures, on the ranking that trec_eval uses.

    Examples:
        >>> retrieval_values({"q1": {"d1": 2.0, "d2": 1.0}}, {"q1": {"d2": 1}}, ["MRR@10", "Recall@1"])
        {'MRR@10': {'q1': 0.5}, 'Recall@1': {'q1': 0.0}}
    """
    if not qrels:
        raise UsageError("there are no judgments to measure against")
    parsed = [_computed(parse_measure(name)) for name in measures]
    # pytrec_eval takes plain dictionaries only; a large run is copied only where needed.
    results = {
        topic: scores if isinstance(scores, dict) else dict(scores)
        for topic, scores in run.items()
        if scores and topic in qrels
    }
    values = _compute(results, qrels, dict.fromkeys(measure.measure for measure in parsed))
    return {measure.name: _cut(values[measure.measure], measure) for measure in parsed}


def retrieval_notes(run: Run, qrels: Qrels) -> tuple[str, ...]:
    """Notes on topics that are left out, and on topics that count 0 because nothing was retrieved."""
    unjudged = [topic for topic in run if topic not in qrels]
    empty = [topic for topic in qrels if not run.get(topic)]
    notes = []
    if unjudged:
        notes.append(f"{_counted(unjudged)} of the run have no judgments and are left out.")
    if empty:
        notes.append(f"{_counted(empty)} found nothing and count 0.")
    return tuple(notes)


def _computed(measure: Measure) -> Measure:
    """RR without its cutoff, which pytrec_eval does not support; another provider would order ties differently."""
    import ir_measures

    if measure.measure.NAME != "RR" or measure.cutoff is None:
        return measure
    params = {key: value for key, value in measure.measure.params.items() if key != "cutoff"}
    return Measure(measure.name, ir_measures.RR(**params), measure.cutoff)


def _cut(values: dict[str, float], measure: Measure) -> dict[str, float]:
    if measure.measure.NAME != "RR" or measure.cutoff is None:
        return dict(values)
    return {topic: value if value >= 1 / measure.cutoff else 0.0 for topic, value in values.items()}


def _compute(run: dict[str, dict[str, float]], qrels: Qrels, measures: Iterable[Any]) -> dict[Any, dict[str, float]]:
    """measure of ir_measures -> topic -> value."""
    import ir_measures

    # pytrec_eval makes a pass for each relevance level; measures without a level join an existing pass.
    ordered = sorted(measures, key=lambda measure: "rel" not in measure.SUPPORTED_PARAMS)
    values = {measure: dict.fromkeys(qrels, 0.0) for measure in ordered}
    supported = [measure for measure in ordered if ir_measures.pytrec_eval.supports(measure)]
    others = [measure for measure in ordered if measure not in supported]
    if run and supported:
        try:
            for metric in ir_measures.pytrec_eval.iter_calc(supported, qrels, run):
                values[metric.measure][metric.query_id] = float(metric.value)
        except (ValueError, TypeError, KeyError) as error:
            raise _not_computed(supported, error) from None
    if run and others:
        for measure, topic, value in _by_other_providers(run, qrels, others):
            values[measure][topic] = value
    return values


def _by_other_providers(
    run: dict[str, dict[str, float]], qrels: Qrels, measures: list[Any]
) -> list[tuple[Any, str, float]]:
    """Measure, topic and value from the providers beside trec_eval.

    They receive the ranking that trec_eval uses, with plain ids: some of them write files with blank-separated columns
    and numeric topics.
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
            places[numbers[topic]] = {ids[document]: float(-rank) for rank, document in enumerate(ranking)}
    try:
        metrics = list(ir_measures.iter_calc(measures, judged, places))
    except (ValueError, TypeError, ArithmeticError, RuntimeError, OSError, SubprocessError) as error:
        raise _not_computed(measures, error) from None
    return [(metric.measure, named[metric.query_id], float(metric.value)) for metric in metrics]


def _not_computed(measures: Iterable[Any], error: Exception) -> UsageError:
    why = " ".join(str(error).split()).rstrip(".")
    return UsageError(f"{', '.join(map(str, measures))} cannot be computed here ({why})")


def _counted(topics: Sequence[str]) -> str:
    return f"{len(topics)} topic{'s' if len(topics) != 1 else ''} ({some(topics)})"


def rouge_l(outputs: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F1 per row, 0 to 1, by rouge-score without stemming, over words of any alphabet."""
    from rouge_score.rouge_scorer import RougeScorer

    if len(outputs) != len(references):
        raise UsageError(f"{len(outputs)} outputs cannot be compared with {len(references)} references")
    if not outputs:
        raise UsageError("there are no outputs to measure")
    scorer = RougeScorer(["rougeL"], tokenizer=_WordTokenizer())
    return [
        float(scorer.score(reference, output)["rougeL"].fmeasure)
        for output, reference in zip(outputs, references, strict=True)
    ]


class _WordTokenizer:
    """Tokenizer for words of any alphabet; rouge-score's own one keeps the letters a to z only."""

    def tokenize(self, text: str) -> list[str]:
        return [part for word in words(text) for part in word.split("_") if part]
