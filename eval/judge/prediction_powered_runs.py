"""Prediction-powered measures of runs from files, and their differences to the first run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels, read_run
from searchlora.eval.formatting import figure, markdown_table
from searchlora.eval.judge.labels import Labels, check_grades, check_human, check_judge, read_labels
from searchlora.eval.judge.prediction_powered import PredictionPowered, prediction_powered_measure
from searchlora.eval.judge.scale import scale_of
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.judgments.lineage import doubts, read_lineage, refuse_circular
from searchlora.eval.trec import Qrels


@dataclass(frozen=True)
class PoweredRuns:
    """Prediction-powered measures of several runs.

    Attributes:
        runs: name -> mean of the measure.
        differences: name -> that run minus the first run.
        circular: name -> reason why its figures are circular.
        notes: What is unknown about the judge, and the number of its invalid answers.
    """

    measure: str
    runs: Mapping[str, PredictionPowered]
    differences: Mapping[str, PredictionPowered]
    first: str
    circular: Mapping[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "measure": self.measure,
            "runs": {name: dataclasses.asdict(figures) for name, figures in self.runs.items()},
            "first": self.first,
            "differences": {name: dataclasses.asdict(figures) for name, figures in self.differences.items()},
            "circular": dict(self.circular),
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """A table of each run with and without the judge, and the effective number of human-labelled topics."""
        rows = [self._row(self._label(name), figures, "") for name, figures in self.runs.items()]
        rows += [
            self._row(f"{self._label(name)} − {self._label(self.first)}", figures, "+")
            for name, figures in self.differences.items()
        ]
        head = [self.measure, "human and judge", "human only", "weight of the judge", "effective human topics"]
        any_run = next(iter(self.runs.values()))
        caption = f"{any_run.n_human} topics with human judgments, {any_run.n_judged} judged; 95% intervals by topic."
        return f"{markdown_table(head, rows)}\n\n{caption}\n"

    def _label(self, name: str) -> str:
        return f"{name} (circular)" if name in self.circular else name

    @staticmethod
    def _row(name: str, figures: PredictionPowered, sign: str) -> list[str]:
        human_only = figure(figures.human_only_value, figures.human_only_low, figures.human_only_high, sign)
        both = figure(figures.value, figures.low, figures.high, sign)
        return [name, both, human_only, f"{figures.lam:.2f}", f"{figures.effective_n:.0f} of {figures.n_human}"]


def powered_runs(
    human: Path,
    judged: Path,
    runs: Mapping[str, Path],
    *,
    measure: str = "nDCG@10",
    scale: Sequence[int] | None = None,
    queries: Mapping[str, str] | None = None,
    allow_circular: bool = False,
    seed: int = 0,
) -> PoweredRuns:
    """Measures of runs and their differences, from human qrels of few topics and judge qrels of all topics.

    An invalid answer of the judge leaves its document unjudged; human grades must all be on the scale.

    Args:
        human: Human qrels.
        judged: Qrels of the judge, with its invalid answers (`read_labels`).
        runs: name -> run; differences are to the first.
        measure: A retrieval measure.
        scale: The grades of the scale; None: those that the cards name, else 0 to 3.
        queries: topic -> text, to check whether the judge was trained on them; None: not checked.
        allow_circular: Report circular figures, marked as such.

    Raises:
        UsageError: without a run, for scales that differ, for a circular judge without `allow_circular`, or for too few
            human topics.
        DataError: for a file that cannot be read, human qrels whose card names another source or that have a grade
            outside the scale, judge qrels whose card names human grades, or a topic that the judge did not judge.
    """
    if not runs:
        raise UsageError("there is no run to measure", fix="Give one as --run NAME=FILE.")
    check_human(human)
    check_judge(judged)
    human_qrels, labels = read_qrels(human), read_labels(judged)
    graded = scale_of([judged, human], scale)
    graded.check_assumed(str(judged), labels)
    check_grades(human_qrels, graded.grades)
    # Topics with invalid answers only are kept: otherwise topics on which the judge fails would be missing.
    judge_qrels = {
        topic: {document: grade for document, grade in row.items() if grade is not None and grade in graded.grades}
        for topic, row in labels.items()
    }
    lineages = {name: read_lineage(path) for name, path in runs.items()}
    card = read_card(judged) or JudgmentsCard("llm", "")
    circular = refuse_circular(card, lineages, queries or {}, allow=allow_circular)
    loaded = {name: read_run(path) for name, path in runs.items()}
    first = next(iter(loaded))
    return PoweredRuns(
        measure,
        {
            name: prediction_powered_measure(run, human_qrels, judge_qrels, measure, seed=seed)
            for name, run in loaded.items()
        },
        {
            name: prediction_powered_measure(run, human_qrels, judge_qrels, measure, minus=loaded[first], seed=seed)
            for name, run in loaded.items()
            if name != first
        },
        first,
        circular,
        (*([graded.note] if graded.note else ()), *_invalid_note(labels, judge_qrels), *doubts(card, lineages)),
    )


def _invalid_note(labels: Labels, valid: Qrels) -> tuple[str, ...]:
    answers, grades = (sum(map(len, rows.values())) for rows in (labels, valid))
    if answers == grades:
        return ()
    return (f"{answers - grades} of {answers} answers of the judge are invalid and count as unjudged.",)
