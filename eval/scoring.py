"""A run and its judgments become the evaluation of a system."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.measures import RETRIEVAL_MEASURES, retrieval_notes, retrieval_values, with_relevant
from searchlora.eval.slicing import by_thirds
from searchlora.eval.trec import Qrels, Run
from searchlora.eval.unjudged import unjudged_values

#: 1 for a topic that found nothing; its mean is the rate.
ZERO_RESULTS = "zero results"

#: A field of numbers with more values than this is cut into thirds; one of words with more than that is refused.
_FEW, _MANY = 10, 50


def evaluate_run(
    run: Run,
    qrels: Qrels,
    *,
    measures: Sequence[str] = RETRIEVAL_MEASURES,
    tested: Sequence[str] = (),
    topics: Mapping[str, Mapping[str, Any]] | None = None,
    slices: Sequence[str] = (),
    weight: str | None = None,
    cluster: str | None = None,
    relevant: int = 1,
    unjudged: bool = True,
    costs: Mapping[str, float] | None = None,
    invalid: Mapping[str, str] | None = None,
    circular: str = "",
) -> Evaluation:
    """Measure a run over every topic of the qrels; a topic without results counts 0 (`zero results` counts them).

    Args:
        measures: Names as `measures.parse_measure` takes them, the headline first.
        tested: Those whose differences are tested; empty: all.
        topics: topic -> its fields (`query` and any other), for the next three.
        slices: Fields to slice by. A field of numbers with more than ten values is cut into thirds.
        weight: The field with a topic's traffic, a number that is not negative.
        cluster: The field whose equal topics depend on each other (an information need, a session); topics without
            it stand for themselves.
        relevant: The grade from which on a document counts in binary measures; written into their names as `rel=N`.
        unjudged: Whether to work out what unjudged documents do (`eval.unjudged`).
        costs: What a topic cost on average, for example `ms per query`.
        invalid: topic -> why an output behind the run did not parse.
        circular: Why the figures are circular (law 6); empty: they are not.

    Raises:
        UsageError: when a measure is unknown, a field is in no topic or has too many values to slice by, or there are
            no judgments.
        DataError: naming the topic whose traffic is not a number from 0 on; when there is no traffic at all.
    """
    names = [with_relevant(name, relevant) for name in dict.fromkeys(measures)]
    judged = {topic: (topics or {}).get(topic, {}) for topic in qrels}
    notes = list(retrieval_notes(run, qrels))
    found_nothing = {topic: float(not run.get(topic)) for topic in qrels}
    values = retrieval_values(run, qrels, names)
    clusters = _field(judged, cluster) if cluster is not None else {}
    return Evaluation(
        headline=names[0],
        values={**values, ZERO_RESULTS: found_nothing},
        clusters={topic: str(clusters.get(topic, topic)) for topic in qrels},
        slices={field: _slice(judged, field, notes) for field in slices},
        tested=tuple(with_relevant(name, relevant) for name in tested or measures),
        weights=_weights(judged, weight) if weight is not None else {},
        unjudged=unjudged_values(run, qrels, values) if unjudged else {},
        costs=dict(costs or {}),
        invalid={topic: why for topic, why in (invalid or {}).items() if topic in qrels},
        circular=circular,
        notes=tuple(notes),
    )


def _field(topics: Mapping[str, Mapping[str, Any]], field: str) -> dict[str, Any]:
    """Topic -> its value, of the topics that have one."""
    found = {topic: fields[field] for topic, fields in topics.items() if fields.get(field) not in (None, "")}
    if not found:
        known = ", ".join(sorted({name for fields in topics.values() for name in fields})) or "none"
        raise UsageError(f"no judged topic has a field '{field}'", fix=f"Fields of the topics: {known}.")
    return found


def _weights(topics: Mapping[str, Mapping[str, Any]], field: str) -> dict[str, float]:
    weights = {}
    for topic, value in _field(topics, field).items():
        number = _number(value)
        if number is None or number < 0:
            raise DataError(f"the traffic '{value}' is not a number from 0 on", where=f"topic {topic}, field {field}")
        weights[topic] = number
    if not 0 < sum(weights.values()) < math.inf:
        raise DataError("the traffic of all topics together is 0 or beyond all bounds", where=f"field {field}")
    return weights


def _slice(topics: Mapping[str, Mapping[str, Any]], field: str, notes: list[str]) -> dict[str, str]:
    found = _field(topics, field)
    if missing := len(topics) - len(found):
        notes.append(f"{missing} topics have no '{field}' and are in none of its slices.")
    distinct = len(set(map(str, found.values())))
    numbers = {topic: number for topic, value in found.items() if (number := _number(value)) is not None}
    if len(numbers) == len(found) and distinct > _FEW:
        notes.append(f"{field} has {distinct} values and is cut into thirds.")
        return by_thirds(numbers)
    if distinct > _MANY:
        raise UsageError(
            f"the field '{field}' has {distinct} values, too many to slice by", fix=f"At most {_MANY} are possible."
        )
    return {topic: f"{value:g}" if isinstance(value, float) else str(value) for topic, value in found.items()}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
