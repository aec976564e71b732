"""What is chosen on validation rows: a temperature for the probabilities, and cut points on the expected grade.

* **Temperature**: temperature scaling of the probabilities towards the human grades (`eval.calibration`).
* **Cut points** (`cuts`): kept only where, chosen on other queries, they agree better with people than the likeliest
  grade does, in cross-validation over the validation queries.

With fewer rows or queries than any judge's calibration takes (`eval.judge.calibration`), nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from searchlora.eval.calibration import apply_temperature, fit_temperature
from searchlora.eval.judge.calibration import MINIMUM_LABELS, MINIMUM_QUERIES
from searchlora.outputs import Grade, InvalidOutput
from searchlora.records import Record
from searchlora.tasks.judgment.cuts import best_cuts, cut, kappa_of
from searchlora.tasks.judgment.reranking import expected

_FOLDS = 5


def tuned(
    records: Sequence[Record], outputs: Sequence[Grade | InvalidOutput], scale: Sequence[int]
) -> Mapping[str, Any]:
    """`temperature`; `cuts` where they help; and `validation`: the rows, the queries, and kappa without cut points and
    with some that were chosen on other queries. Empty where there is too little to choose from.
    """
    rows = [
        (record, output)
        for record, output in zip(records, outputs, strict=True)
        if isinstance(output, Grade) and output.probabilities is not None
    ]
    gold = [int(record["grade"]) for record, _ in rows]
    groups = [str(record["group"]) for record, _ in rows]
    queries = list(dict.fromkeys(groups))
    if len(rows) < MINIMUM_LABELS or len(queries) < MINIMUM_QUERIES:
        return {}
    found = fit_temperature(
        np.array([output.probabilities for _, output in rows]), [scale.index(each) for each in gold]
    )
    scores = [expected(settled(output, {"temperature": found}, scale), scale) for _, output in rows]
    plain = kappa_of(gold, [output.value for _, output in rows], scale)
    with_cuts = kappa_of(gold, _held_out(scores, gold, groups, queries, scale), scale)
    about = {"rows": len(rows), "queries": len(queries), "kappa": plain, "kappa with cuts": with_cuts}
    chosen = {"cuts": list(best_cuts(scores, gold, groups, scale))} if with_cuts > plain else {}
    return {"temperature": found, **chosen, "validation": about}


def settled(output: Grade, values: Mapping[str, Any], scale: Sequence[int]) -> Grade:
    """An output with what `tuned` chose applied; one without probabilities stays as it is.

    A reason that stood behind another grade than the cut points give is dropped.
    """
    if output.probabilities is None:
        return output
    if "temperature" in values:
        probabilities = apply_temperature(output.probabilities, values["temperature"])
        output = replace(output, probabilities=tuple(probabilities.tolist()))
    if "cuts" in values:
        grade = cut(expected(output, scale), values["cuts"], scale)
        output = replace(output, value=grade, reason=output.reason if grade == output.value else None)
    return output


def _held_out(
    scores: Sequence[float], gold: Sequence[int], groups: Sequence[str], queries: Sequence[str], scale: Sequence[int]
) -> list[int]:
    """The grade of each row by cut points that were chosen without its query."""
    fold = {query: place % _FOLDS for place, query in enumerate(queries)}
    said = [scale[0]] * len(scores)
    for each in range(_FOLDS):
        seen = [place for place, group in enumerate(groups) if fold[group] != each]
        cuts = best_cuts(
            [scores[place] for place in seen], [gold[place] for place in seen], [groups[place] for place in seen], scale
        )
        for place, group in enumerate(groups):
            if fold[group] == each:
                said[place] = cut(scores[place], cuts, scale)
    return said
