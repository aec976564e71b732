"""Systems whose results exist already: a baseline rule's outputs, and a run file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.formats import read_run
from searchlora.eval.judgments.card import read_run_card
from searchlora.eval.judgments.lineage import RunLineage, lineage_of
from searchlora.eval.trec import Run
from searchlora.progress import Progress, silent
from searchlora.records import Record
from searchlora.systems.system import Outputs, System
from searchlora.task import GenerationTask


class FixedResults(System):
    """Outputs or hits that were made elsewhere: by a rule, a classical method, or a reference.

    `run`: Row id -> document -> score; None for a system that does not retrieve. `invalid`: Row id -> why its output is
    not valid; None: unknown.
    """

    def __init__(
        self,
        name: str,
        rows: Sequence[Record],
        outputs: Sequence[Any] = (),
        *,
        run: Run | None = None,
        invalid: Mapping[str, str] | None = None,
        task: GenerationTask | None = None,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        self.name, self.task = name, task
        self._run, self._invalid, self._costs = run, invalid, dict(costs or {})
        known = zip(rows, outputs or [None] * len(rows), strict=True)
        self._outputs = {str(row["id"]): output for row, output in known}

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        """The results of these rows. Raises `KeyError` for a row without an output."""
        del progress
        outputs = [self._outputs[str(row["id"])] for row in rows]
        return Outputs(outputs, self._run, self._invalid, self._costs)


class RunFile(System):
    """A run file in any format of `eval.formats`; the card beside it names the models that took part."""

    def __init__(self, name: str, path: str | Path, format: str | None = None) -> None:
        self.name, self.path, self.format = name, Path(path), format
        self.card = read_run_card(self.path)

    @property
    def lineage(self) -> RunLineage | None:
        return lineage_of(self.card)

    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        """The whole run, also of topics that are not among the rows: notes count them."""
        del progress
        return Outputs([None] * len(rows), read_run(self.path, self.format), invalid=None)
