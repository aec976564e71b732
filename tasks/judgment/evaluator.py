"""Agreement of a judge with human grades: kappa, alpha, bias and calibration."""

from __future__ import annotations

from collections.abc import Sequence

from searchlora.eval import grade_measures
from searchlora.eval.calibration import calibration_curve, expected_calibration_error
from searchlora.eval.evaluation import Evaluation, confusion_matrix
from searchlora.outputs import Grade
from searchlora.records import Record
from searchlora.task import EvaluationInput

KAPPA, BINARY, QUADRATIC = "kappa", "kappa binary", "kappa quadratic"
ALPHA, BIAS, MAE = "alpha", "bias", "MAE"
#: Name here -> name in `eval.grade_measures`.
_AGGREGATES = {
    KAPPA: grade_measures.KAPPA,
    BINARY: grade_measures.BINARY,
    QUADRATIC: grade_measures.QUADRATIC,
    ALPHA: "alpha",
    BIAS: "bias",
}
CALIBRATION, CALIBRATION_RATERS = "calibration error", "calibration error, raters"


def evaluate(inputs: EvaluationInput, *, scale: Sequence[int], relevant: int) -> Evaluation:
    """Compare predicted grades with human grades over all records.

    Measures:
        kappa (headline): Cohen's kappa over all grades. An invalid output agrees with no grade.
        kappa binary: Cohen's kappa over relevant (grade `relevant` or higher) and not relevant.
        kappa quadratic: weighted by the squared distance of grades; an invalid output has the largest distance.
        alpha: ordinal Krippendorff's alpha over the valid outputs.
        agreement: 1 where the predicted grade is the human grade.
        MAE: absolute distance from the human grade; an invalid output has the largest distance.
        bias: mean of predicted minus human grade over the valid outputs; a positive bias is lenient.
        calibration error: expected calibration error of the probability that a passage is relevant, over the outputs
            with probabilities.
        calibration error, raters: the same against the share of raters for whom the passage is relevant, over the
            outputs with probabilities of records with several raters.
        invalid: 1 where the output is not a grade.
    """
    valid = inputs.valid
    gold = {str(record["id"]): int(record["grade"]) for record in inputs.records}
    predicted = {id_: None if output is None else int(output.value) for id_, output in valid.items()}
    probability = {
        id_: _probability_relevant(output, scale, relevant)
        for id_, output in valid.items()
        if output is not None and output.probabilities is not None
    }
    is_relevant = {id_: gold[id_] >= relevant for id_ in probability}
    measures = grade_measures.grade_measures(scale, relevant)
    figures = {name: measures[known].aggregate(gold, predicted) for name, known in _AGGREGATES.items()}
    if probability:
        figures[CALIBRATION] = expected_calibration_error(probability, is_relevant)
    shares = {id_: share for id_, share in _rater_shares(inputs.records, relevant).items() if id_ in probability}
    if shares:
        figures[CALIBRATION_RATERS] = expected_calibration_error({id_: probability[id_] for id_ in shares}, shares)
    worst = {grade: max(grade - scale[0], scale[-1] - grade) for grade in scale}
    return Evaluation(
        headline=KAPPA,
        values={
            "agreement": {id_: float(predicted[id_] == grade) for id_, grade in gold.items()},
            MAE: {
                id_: float(worst[gold[id_]] if grade is None else abs(grade - gold[id_]))
                for id_, grade in predicted.items()
            },
            "invalid": {id_: float(grade is None) for id_, grade in predicted.items()},
        },
        aggregates=figures,
        clusters=inputs.clusters,
        slices={"human grade": {id_: str(grade) for id_, grade in gold.items()}, **inputs.slices("kind")},
        invalid=inputs.invalid,
        tested=(KAPPA, BINARY),
        confusions={
            "grades": confusion_matrix(
                {id_: str(grade) for id_, grade in gold.items()},
                {id_: None if grade is None else str(grade) for id_, grade in predicted.items()},
                [str(grade) for grade in scale],
            )
        },
        curves={"probability of relevant": calibration_curve(probability, is_relevant, inputs.clusters)}
        if probability
        else {},
        less_is_better=(MAE, CALIBRATION, CALIBRATION_RATERS, "invalid"),
        zero_is_best=(BIAS,),
    )


def _rater_shares(records: Sequence[Record], relevant: int) -> dict[str, float]:
    """Record id -> share of its raters whose grade is relevant, for records with several raters."""
    votes = {str(record["id"]): record["votes"] for record in records if "votes" in record}
    return {
        id_: sum(count for grade, count in row.items() if int(grade) >= relevant) / raters
        for id_, row in votes.items()
        if (raters := sum(row.values())) > 1
    }


def _probability_relevant(output: Grade, scale: Sequence[int], relevant: int) -> float:
    probabilities = zip(scale, output.probabilities or (), strict=True)
    return min(sum(probability for grade, probability in probabilities if grade >= relevant), 1.0)
