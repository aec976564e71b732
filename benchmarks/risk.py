"""Deciding alone at a stated risk: coverage on BANKING77 and on Chorus, and the error on rows that were not used.

    python -m benchmarks.risk                     both datasets
    python -m benchmarks.risk --only BANKING77    one dataset; results of the other are kept

The adapters are those of SmolLM2-135M: intents of BANKING77 (`benchmarks.bases`, all steps), and grades of Chorus
by cross-validation (`benchmarks.judgment_chorus`, whose outputs are read). Beside the intents stands logistic
regression over a frozen encoder; the classical models of Chorus give grades without probabilities. Thresholds are
fitted on one half of the test rows and measured on the other, over 200 random halves; of rows of one group only one
counts, as they are not independent.

Two rules that a team would use instead: the lowest threshold whose error rate on the same half is at most the risk, and
the probability 1 - risk, after temperature scaling.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bases.__main__ import DEFAULT, FOLDER, JOBS, Run
from benchmarks.common import WORK, parser, read_results, real_data, save_figures
from benchmarks.judges import answers_of, from_graded, judgment_task
from benchmarks.judgment_chorus.__main__ import NAME as CHORUS
from benchmarks.judgment_chorus.folds import Chorus
from searchlora.cli.terminal import progress_bars
from searchlora.errors import DataError
from searchlora.eval.formatting import markdown_table
from searchlora.eval.risk import threshold_at_risk
from searchlora.experiments.options import DEFAULT_ENCODER
from searchlora.experiments.tune_risk import scored_answers
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import GenerationTask, generation_task, load_task
from searchlora.tasks.judgment.tuning import with_tuning

NAME = "risk"
RISKS, SPLITS, SEED = (0.01, 0.02, 0.05), 200, 13
ADAPTER, ENCODER = "adapter", "frozen encoder + logistic regression"

INTENTS, GRADES = "BANKING77", "Chorus"

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
    arguments.add_argument("--only", choices=(INTENTS, GRADES), help="measure one dataset")
    options = arguments.parse_args()
    (FOLDER / "data").mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], Answers] = {}
    if options.only != GRADES:
        with progress_bars() as steps:
            found |= {(INTENTS, ENCODER): _classical(), (INTENTS, ADAPTER): _intents(steps)}
    if options.only != INTENTS:
        found[GRADES, ADAPTER] = _grades()
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


def _intents(steps: Steps) -> Answers:
    """The adapter over the test rows of BANKING77."""
    (part,), run = JOBS["banking77"].parts(FOLDER / "data"), Run("banking77", DEFAULT, None, None)
    (stored,) = run.train([part], steps)
    records = part.evaluated.records("test")
    task, outputs = answers_of(stored.reference, run.store, records, "label", WORK / NAME / "answers", steps)
    return _of(task, records, outputs)


def _grades() -> Answers:
    """The adapters over all pairs of Chorus, each trained on the other folds of a pair."""
    work, task = WORK / CHORUS, judgment_task()
    chorus, file = Chorus.read(real_data(), work / "all"), work / "answers.json"
    if not file.is_file():
        sys.exit(f"{file} does not exist. Write it: python -m benchmarks.{CHORUS}.")
    answers = json.loads(file.read_text(encoding="utf-8"))
    outputs = from_graded(answers["adapter"])
    records: list[Record] = []
    grades: list[Any] = []
    for groups, tuning in zip(chorus.folds(), answers["tuned"], strict=True):
        of_fold = chorus.of(groups)
        records += of_fold
        grades += [with_tuning(outputs[record["id"]], tuning, task.grades) for record in of_fold]
    return _of(task, records, grades)


def _of(task: GenerationTask, records: Sequence[Record], outputs: Sequence[Any]) -> Answers:
    answers = scored_answers(task, records, outputs)
    assert len(answers) == len(records)  # each has a probability
    probabilities, wrong = zip(*answers, strict=True)
    return Answers(np.array(probabilities), np.array(wrong), [str(record["group"]) for record in records])


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
