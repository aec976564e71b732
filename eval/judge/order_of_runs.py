"""The order of runs under people's grades and under a judge's, over the pairs that both graded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from searchlora.errors import UsageError
from searchlora.eval.judge.order import SystemOrder, order_agreement
from searchlora.eval.judge.pairing import Labels, common, only, size
from searchlora.eval.measures import retrieval_values
from searchlora.eval.trec import Qrels, Run


def order_of_runs(
    human: Qrels,
    judged: Labels,
    runs: Mapping[str, Run],
    *,
    measure: str = "nDCG@10",
    scale: Sequence[int] = (0, 1, 2, 3),
    top: int = 5,
    resamples: int = 10_000,
    seed: int = 0,
) -> SystemOrder:
    """Measure every run with both sets of grades and compare the orders.

    Only pairs that both graded are used, so that the orders differ by the grades alone and not by what was judged. An
    answer of the judge that is no grade stands for no judgment; the notes say how many there are.

    Raises:
        UsageError: for fewer than two runs, an unknown measure, or no pair that both graded.
    """
    shared = common([human, judged])
    invalid = {
        (topic, document) for topic, document in shared if judged[topic][document] not in scale
    }  # fmt: skip
    if shared == invalid:
        raise UsageError(
            "the judge gave no grade to any pair that people graded, so it orders no runs", fix="Leave the runs out."
        )
    sides = [_graded(only(labels, shared - skipped)) for labels, skipped in ((human, set()), (judged, invalid))]
    values = [
        {name: retrieval_values(run, side, [measure])[measure] for name, run in runs.items()} for side in sides
    ]  # fmt: skip
    found = order_agreement(values[0], values[1], measure=measure, top=top, resamples=resamples, seed=seed)
    notes = list(found.notes)
    if left_out := size(human) - len(shared):
        notes.append(
            f"{left_out} of {size(human)} pairs that people graded are not graded by the judge and are left out."
        )
    if invalid:
        notes.append(f"{len(invalid)} pairs whose answer is no grade stand as unjudged on the judge's side.")
    return replace(found, notes=tuple(notes))


def _graded(labels: Labels) -> dict[str, dict[str, int]]:
    rows = {topic: {d: grade for d, grade in row.items() if grade is not None} for topic, row in labels.items()}
    return {topic: row for topic, row in rows.items() if row}
