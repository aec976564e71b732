"""Prediction-powered figures of runs, from files: each run's measure, and the differences to the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels, read_run
from searchlora.eval.formatting import figure, markdown_table
from searchlora.eval.judge.labels import Labels, check_grades, check_of_people, read_labels
from searchlora.eval.judge.prediction_powered import (
    PredictionPowered,
    prediction_powered_difference,
    prediction_powered_measure,
)
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.judgments.lineage import doubts, read_lineage, refuse_circular
from searchlora.eval.trec import Qrels


@dataclass(frozen=True)
class PoweredRuns:
    """What was found.

    Attributes:
        runs: name -> its measure over topics like these.
        differences: name -> that run minus the first.
        first: The name of the first run.
        circular: name -> why its figures are circular.
        notes: What could not be looked into, and how many answers of the judge are no grade.
    """

    measure: str
    runs: Mapping[str, PredictionPowered]
    differences: Mapping[str, PredictionPowered]
    first: str
    circular: Mapping[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, the figures of a run under its name."""
        return {
            "measure": self.measure,
            "runs": {name: dataclasses.asdict(found) for name, found in self.runs.items()},
            "first": self.first,
            "differences": {name: dataclasses.asdict(found) for name, found in self.differences.items()},
            "circular": dict(self.circular),
            "notes": list(self.notes),
        }

    def to_markdown(self) -> str:
        """One table: with the judge, without it, and how many people's topics the judge is worth."""
        rows = [self._row(self._shown(name), found, "") for name, found in self.runs.items()]
        rows += [
            self._row(f"{self._shown(name)} − {self._shown(self.first)}", found, "+")
            for name, found in self.differences.items()
        ]
        head = [self.measure, "people and judge", "people alone", "judge's weight", "worth, in people's topics"]
        any_run = next(iter(self.runs.values()))
        said = f"{any_run.n_human} topics judged by people, {any_run.n_judged} by the judge; 95% intervals by topic."
        return f"{markdown_table(head, rows)}\n\n{said}\n"

    def _shown(self, name: str) -> str:
        return f"{name} (circular)" if name in self.circular else name

    @staticmethod
    def _row(name: str, found: PredictionPowered, sign: str) -> list[str]:
        alone = figure(found.human_only_value, found.human_only_low, found.human_only_high, sign)
        both = figure(found.value, found.low, found.high, sign)
        return [name, both, alone, f"{found.lam:.2f}", f"{found.effective_n:.0f} of {found.n_human}"]


def powered_runs(
    human: Path,
    judged: Path,
    runs: Mapping[str, Path],
    *,
    measure: str = "nDCG@10",
    scale: Sequence[int] = (0, 1, 2, 3),
    queries: Mapping[str, str] | None = None,
    allow_circular: bool = False,
    seed: int = 0,
) -> PoweredRuns:
    """Few topics judged by people, all of them by an LLM: measures and differences with honest intervals.

    An answer of the judge that is no grade of the scale leaves its document unjudged; people's must all be on it.

    Args:
        judged: Qrels of the judge, with `<file>.invalid.jsonl` where there is one (`read_labels`).
        queries: topic -> text, to see whether the judge was trained on them; None: that is not looked into.

    Raises:
        UsageError: without a run, for a circular judge, or for too few topics of people.
        DataError: for a file that cannot be read, qrels of people whose card says that they are not or that have a
            grade outside the scale, or a topic that the judge did not judge.
    """
    if not runs:
        raise UsageError("there is no run to measure", fix="Name one as --run NAME=FILE.")
    check_of_people(human)
    people, labels = read_qrels(human), read_labels(judged)
    check_grades(people, scale)
    # A topic without a grade stays among the topics, or those that the judge fails on would be missing.
    judge = {
        topic: {document: grade for document, grade in row.items() if grade is not None and grade in scale}
        for topic, row in labels.items()
    }
    lineages = {name: read_lineage(path) for name, path in runs.items()}
    card = read_card(judged) or JudgmentsCard("llm", "")
    circular = refuse_circular(card, lineages, queries or {}, allow=allow_circular)
    read = {name: read_run(path) for name, path in runs.items()}
    first = next(iter(read))
    return PoweredRuns(
        measure,
        {name: prediction_powered_measure(run, people, judge, measure, seed=seed) for name, run in read.items()},
        {
            name: prediction_powered_difference(run, read[first], people, judge, measure, seed=seed)
            for name, run in read.items()
            if name != first
        },
        first,
        circular,
        (*_invalid(labels, judge), *doubts(card, lineages)),
    )


def _invalid(labels: Labels, judge: Qrels) -> tuple[str, ...]:
    answers, grades = (sum(map(len, rows.values())) for rows in (labels, judge))
    if answers == grades:
        return ()
    return (f"{answers - grades} of {answers} answers of the judge are no grade of the scale and count as unjudged.",)
