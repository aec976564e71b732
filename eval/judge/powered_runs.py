"""Prediction-powered figures of runs, from files: each run's measure, and the differences to the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels, read_run
from searchlora.eval.judge.prediction_powered import (
    PredictionPowered,
    prediction_powered_difference,
    prediction_powered_measure,
)
from searchlora.eval.judgments.card import read_card
from searchlora.eval.judgments.lineage import read_lineage, refuse_circular
from searchlora.eval.printed import figure, markdown_table


@dataclass(frozen=True)
class PoweredRuns:
    """What was found.

    Attributes:
        runs: name -> its measure over topics like these.
        differences: name -> that run minus the first.
        first: The name of the first run.
        circular: name -> why its figures are circular.
    """

    measure: str
    runs: Mapping[str, PredictionPowered]
    differences: Mapping[str, PredictionPowered]
    first: str
    circular: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values, the figures of a run under its name."""
        return {
            "measure": self.measure,
            "runs": {name: dataclasses.asdict(found) for name, found in self.runs.items()},
            "first": self.first,
            "differences": {name: dataclasses.asdict(found) for name, found in self.differences.items()},
            "circular": dict(self.circular),
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
    queries: Mapping[str, str] | None = None,
    allow_circular: bool = False,
    seed: int = 0,
) -> PoweredRuns:
    """Few topics judged by people, all of them by an LLM: measures and differences with honest intervals.

    Args:
        queries: topic -> text, to see whether the judge was trained on them; None: that is not looked into.

    Raises:
        UsageError: without a run, for a circular judge, or for too few topics of people.
        DataError: for a file that cannot be read, or a topic that the judge did not judge.
    """
    if not runs:
        raise UsageError("there is no run to measure", fix="Name one as --run NAME=FILE.")
    people, judge = read_qrels(human), read_qrels(judged)
    lineages = {name: read_lineage(path) for name, path in runs.items()}
    circular = refuse_circular(read_card(judged), lineages, queries or {}, allow=allow_circular)
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
    )
