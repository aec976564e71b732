"""How far a judge agrees with people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchlora.eval import aggregate
from searchlora.eval.calibration import calibration_curve, expected_calibration_error
from searchlora.eval.evaluation import Evaluation, confusion_matrix
from searchlora.outputs import Grade, InvalidOutput
from searchlora.task import EvaluationInput

KAPPA, BINARY, QUADRATIC = "kappa", "kappa binary", "kappa quadratic"
ALPHA, BIAS, MAE = "alpha", "bias", "MAE"
CALIBRATION = "calibration error"


def evaluate(inputs: EvaluationInput, *, scale: Sequence[int], relevant: int) -> Evaluation:
    """Hold grades, one per record, against those of people, over all records.

    Measures:
        kappa: Cohen's, over all grades; the headline. An invalid output agrees with no grade.
        kappa binary: over relevant (from grade `relevant` on) or not.
        kappa quadratic: weighted by the squared distance of grades; an invalid output is as far off as can be.
        alpha: Krippendorff's, ordinal, over the valid outputs.
        agreement: 1 where the grade is people's.
        MAE: distance from people's grade; an invalid output is as far off as can be.
        bias: mean of the judge's grade less people's, over the valid outputs; above 0 is lenient.
        calibration error: of the probability that a passage is relevant, over the outputs with probabilities (Guo et
            al. 2017, 15 bins of equal width).
        invalid: 1 where the output is no grade.

    Args:
        scale: The grades there are, rising.
        relevant: The grade from which on a passage counts as relevant.
    """
    ids, outputs = inputs.ids, inputs.outputs
    gold = {str(record["id"]): int(record["grade"]) for record in inputs.records}
    said = {id_: _grade(output) for id_, output in zip(ids, outputs, strict=True)}
    chances = {id_: _relevant(output, scale, relevant) for id_, output in zip(ids, outputs, strict=True)}
    probability = {id_: chance for id_, chance in chances.items() if chance is not None}
    truly = {id_: gold[id_] >= relevant for id_ in probability}
    figures = {
        KAPPA: aggregate.cohen_kappa(gold, said, scale),
        BINARY: aggregate.cohen_kappa(gold, said, scale, relevant=relevant),
        QUADRATIC: aggregate.cohen_kappa(gold, said, scale, weights="quadratic"),
        ALPHA: aggregate.krippendorff_alpha(gold, said, scale),
        BIAS: aggregate.signed_bias(gold, said, scale),
    }
    if probability:
        figures[CALIBRATION] = expected_calibration_error(probability, truly)
    worst = {grade: max(grade - scale[0], scale[-1] - grade) for grade in scale}
    return Evaluation(
        headline=KAPPA,
        values={
            "agreement": {id_: float(said[id_] == gold[id_]) for id_ in ids},
            MAE: {id_: float(_off(gold[id_], said[id_], worst)) for id_ in ids},
            "invalid": {id_: float(said[id_] is None) for id_ in ids},
        },
        aggregates=figures,
        clusters=inputs.clusters,
        slices={"human grade": {id_: str(grade) for id_, grade in gold.items()}, **inputs.slices("kind")},
        invalid=inputs.invalid,
        tested=(KAPPA, BINARY),
        confusions={"grades": confusion_matrix(_names(gold), _names(said), [str(each) for each in scale])},
        curves={"probability of relevant": calibration_curve(probability, truly, inputs.clusters)}
        if probability
        else {},
        less_is_better=(MAE, CALIBRATION, "invalid"),
    )


def _grade(output: Grade | InvalidOutput) -> int | None:
    return None if isinstance(output, InvalidOutput) else output.value


def _relevant(output: Grade | InvalidOutput, scale: Sequence[int], relevant: int) -> float | None:
    """The probability that the passage is relevant; None where the output has no probabilities."""
    if isinstance(output, InvalidOutput) or output.probabilities is None:
        return None
    return min(sum(p for grade, p in zip(scale, output.probabilities, strict=True) if grade >= relevant), 1.0)


def _off(gold: int, said: int | None, worst: Mapping[int, int]) -> int:
    return worst[gold] if said is None else abs(said - gold)


def _names(grades: Mapping[str, Any]) -> dict[str, Any]:
    return {id_: None if grade is None else str(grade) for id_, grade in grades.items()}
