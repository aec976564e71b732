"""Retrieval measures per topic, computed by trec_eval's own code through ir_measures.

ir_measures: MacAvaney, Macdonald, Ounis (ECIR 2022). pytrec_eval: Van Gysel, de Rijke (SIGIR 2018).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.trec import Qrels, Run

#: The measures of a table of retrieval results, by the names shown there.
RETRIEVAL_MEASURES = ("nDCG@10", "MRR@10", "Recall@10", "Recall@100")

#: Names that people use -> names of ir_measures. Any other name is given to ir_measures as it is.
_SPELLINGS = (("MRR", "RR"), ("Recall", "R"))


def retrieval_values(
    run: Run, qrels: Qrels, measures: Sequence[str] = RETRIEVAL_MEASURES
) -> dict[str, dict[str, float]]:
    """Measure a run: measure -> topic -> value, for every topic of the qrels.

    A topic without results counts 0. A topic of the run that has no qrels is left out (`retrieval_notes` says so).
    MRR@k is trec_eval's reciprocal rank, 0 where the first relevant document stands below rank k.

    Args:
        measures: Names as shown (`MRR@10`, `Recall@100`) or any name of ir_measures (`AP(rel=2)`, `P@5`).

    Raises:
        UsageError: when a measure is unknown or the qrels are empty.
    """
    if not qrels:
        raise UsageError("there are no judgments to measure against")
    found = {topic: dict(scores) for topic, scores in run.items() if scores and topic in qrels}
    return {name: _values(found, qrels, name) for name in measures}


def retrieval_notes(run: Run, qrels: Qrels) -> tuple[str, ...]:
    """What a reader of the figures must know: topics left out, and topics that count 0 because nothing was found."""
    unjudged = [topic for topic in run if topic not in qrels]
    empty = [topic for topic in qrels if not run.get(topic)]
    notes = []
    if unjudged:
        notes.append(f"{_some(unjudged)} of the run have no judgments and are left out.")
    if empty:
        notes.append(f"{_some(empty)} found nothing and count 0.")
    return tuple(notes)


def _values(run: Run, qrels: Qrels, name: str) -> dict[str, float]:
    import ir_measures

    measure = _parse(name)
    cutoff = None
    if measure.NAME == "RR" and "cutoff" in measure.params:
        # pytrec_eval knows no cutoff for RR, and ir_measures would go to a provider that orders ties otherwise.
        cutoff = measure["cutoff"]
        measure = ir_measures.RR(**{key: value for key, value in measure.params.items() if key != "cutoff"})
    values = dict.fromkeys(qrels, 0.0)
    if run:
        provider = ir_measures.pytrec_eval if ir_measures.pytrec_eval.supports(measure) else ir_measures
        for metric in provider.iter_calc([measure], qrels, run):
            values[metric.query_id] = float(metric.value)
    if cutoff is not None:
        values = {topic: value if value >= 1 / cutoff else 0.0 for topic, value in values.items()}
    return values


def _parse(name: str) -> Any:
    import ir_measures

    spelled = name
    for shown, known in _SPELLINGS:
        spelled = re.sub(rf"^{shown}(?=[@(]|$)", known, spelled)
    try:
        return ir_measures.parse_measure(spelled)
    except (NameError, ValueError, KeyError, TypeError) as error:
        fix = "Examples: nDCG@10, MRR@10, Recall@100, AP, P@5."
        raise UsageError(f"'{name}' is not a measure ({error})", fix=fix) from None


def _some(topics: Iterable[str], shown: int = 5) -> str:
    names = list(topics)
    listed = ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
    return f"{len(names)} topic{'s' if len(names) != 1 else ''} ({listed})"
