"""Deciding alone at a stated risk: coverage on BANKING77 and on Chorus, and the error on rows that were not used.

    python -m benchmarks.risk                  all systems
    python -m benchmarks.risk --only-encoder   the classical model of BANKING77; results of the adapters are kept

The adapters are those of `benchmarks.bases` for SmolLM2-135M: intents of BANKING77 after 300 steps, and grades of
Chorus by cross-validation. Beside the intents stands logistic regression over a frozen encoder. Thresholds are fitted
on one half of the test rows and measured on the other, over 200 random halves; of rows of one group only one counts, as
they are not independent.

Two rules that a team would use instead: the lowest threshold whose error rate on the same half is at most the risk, and
the probability 1 - risk, after temperature scaling.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bases.__main__ import DEFAULT, FOLDER, JOBS, Run
from benchmarks.common import parser, read_results, save_figures
from searchlora.cli.terminal import progress_bars
from searchlora.errors import DataError
from searchlora.eval.formatting import markdown_table
from searchlora.eval.risk import threshold_at_risk
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import DEFAULT_ENCODER, EvaluationOptions
from searchlora.experiments.tune_risk import scored_answers
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import GenerationTask, generation_task, load_task

NAME = "risk"
RISKS, SPLITS, SEED = (0.01, 0.02, 0.05), 200, 13
ADAPTER, ENCODER = "adapter", "frozen encoder + logistic regression"

#: Name of the data, job of `benchmarks.bases`, and its number of steps.
JOBS_OF_DATA = (("BANKING77", "banking77", 300), ("Chorus", "chorus", None))

Floats, Flags = NDArray[np.float64], NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Answers of one system to the test rows of one dataset.

    Attributes:
        probabilities: Of each answer.
        wrong: Whether it differs from the label.
        groups: The group of each row, which is independent of the others.
    """

    probabilities: Floats
    wrong: Flags
    groups: Sequence[str]


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("--only-encoder", action="store_true", help="measure no adapter")
    options = arguments.parse_args()
    (FOLDER / "data").mkdir(parents=True, exist_ok=True)
    found = {("BANKING77", ENCODER): _classical()}
    with progress_bars() as steps:
        for data, job, limit in () if options.only_encoder else JOBS_OF_DATA:
            found[data, ADAPTER] = _adapter(job, limit, steps)
    known = [row for row in read_results(NAME).get("rows", []) if (row["data"], row["system"]) not in found]
    rows = known + [
        {"data": data, "system": system, "rule": name, **_measured(answers, risk, rule)}
        for (data, system), answers in found.items()
        for risk in RISKS
        for name, rule in RULES.items()
    ]
    head = ["data", "system", "risk", "rule", "decided", "min-max", "error", "error > risk"]
    save_figures(NAME, rows, [], {"table": markdown_table(head, map(_line, rows), words=4), "splits": SPLITS})


def _classical() -> Answers:
    """The baseline of `evaluate` for intents, over the test rows of BANKING77."""
    (part,) = JOBS["banking77"].parts(FOLDER / "data")
    task = generation_task(load_task("intent")).bound(part.evaluated.settings)
    (baseline,) = task.encoder_baselines()
    encoder = FrozenEncoder(DEFAULT_ENCODER)
    training, validation, test = (part.evaluated.records(split) for split in ("train", "validation", "test"))
    baseline.fit(training, validation, encoder.encode_once)
    return _of(task, test, baseline.predict(test, encoder.encode_once))


def _adapter(job: str, limit: int | None, steps: Steps) -> Answers:
    """An adapter over the test rows of all parts of a job."""
    parts, run = JOBS[job].parts(FOLDER / "data"), Run(job, DEFAULT, limit, None)
    options = EvaluationOptions(cache_dir=FOLDER / DEFAULT / "outputs" / job)
    found = []
    for stored, part in zip(run.train(parts, steps), parts, strict=True):
        result = evaluate(stored.reference, part.evaluated.folder, options, store=run.store, steps=steps)
        task = generation_task(result.task)
        found.append(_of(task, result.records, result.systems[stored.reference].outputs))
    return _joined(found)


def _of(task: GenerationTask, records: Sequence[Record], outputs: Sequence[Any]) -> Answers:
    answers = scored_answers(task, records, outputs)
    assert len(answers) == len(records)  # each has a probability
    probabilities, wrong = zip(*answers, strict=True)
    return Answers(np.array(probabilities), np.array(wrong), [str(record["group"]) for record in records])


def _joined(parts: Sequence[Answers]) -> Answers:
    probabilities, wrong = (
        np.concatenate([getattr(part, key) for part in parts]) for key in ("probabilities", "wrong")
    )
    return Answers(probabilities, wrong, [group for part in parts for group in part.groups])


def _ours(probabilities: Floats, wrong: Flags, risk: float) -> float:
    try:
        return threshold_at_risk(probabilities.tolist(), wrong.tolist(), risk).above
    except DataError:
        return np.inf


def _empirical(probabilities: Floats, wrong: Flags, risk: float) -> float:
    """The lowest threshold whose error rate on these rows is at most the risk."""
    order = np.argsort(-probabilities, kind="stable")
    rates = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(rates <= risk)
    return float(probabilities[order[kept[-1]]]) if len(kept) else np.inf


def _by_probability(probabilities: Floats, wrong: Flags, risk: float) -> float:
    del probabilities, wrong
    return 1 - risk


RULES: Mapping[str, Callable[[Floats, Flags, float], float]] = {
    "tune --risk": _ours,
    "error on the half": _empirical,
    "probability": _by_probability,
}


def _measured(answers: Answers, risk: float, rule: Callable[[Floats, Flags, float], float]) -> dict[str, Any]:
    """Coverage and error on the other half, over random splits of the groups; one row of each group."""
    chance = np.random.default_rng(SEED)
    members: dict[str, list[int]] = {}
    for row, group in enumerate(answers.groups):
        members.setdefault(group, []).append(row)
    coverage, errors, exceeded, none = [], [], 0, 0
    for _ in range(SPLITS):
        rows = np.array([chance.choice(of_group) for of_group in members.values()])
        chance.shuffle(rows)
        fitted, untouched = np.split(rows, [len(rows) // 2])
        above = rule(answers.probabilities[fitted], answers.wrong[fitted], risk)
        decided = untouched[answers.probabilities[untouched] >= above]
        coverage.append(len(decided) / len(untouched))
        none += not len(decided)
        if len(decided):
            errors.append(float(answers.wrong[decided].mean()))
            exceeded += errors[-1] > risk
    return {
        "risk": risk,
        "n": len(members) - len(members) // 2,
        "fitted_on": len(members) // 2,
        "coverage": statistics.median(coverage),
        "coverage_min": min(coverage),
        "coverage_max": max(coverage),
        "error": statistics.median(errors) if errors else None,
        "exceeded": exceeded / SPLITS,
        "no_threshold": none / SPLITS,
    }


def _line(row: Mapping[str, Any]) -> list[str]:
    error = "" if row["error"] is None else f"{row['error']:.3f}"
    decided = [f"{row['coverage']:.1%}", f"{row['coverage_min']:.1%}-{row['coverage_max']:.1%}"]
    return [row["data"], row["system"], f"{row['risk']:.0%}", row["rule"], *decided, error, f"{row['exceeded']:.1%}"]


if __name__ == "__main__":
    main()
