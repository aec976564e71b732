"""The contract of a system: a name, a fingerprint, a lineage, and outputs, hits, costs and failures for rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from searchlora.eval.judgments.lineage import RunLineage
from searchlora.eval.trec import Run
from searchlora.progress import Progress, silent
from searchlora.records import Record
from searchlora.task import GenerationTask

#: The name of the base model without an adapter, as a system.
BASE = "base zero-shot"


@dataclass(frozen=True)
class Outputs:
    """What a system did with rows."""

    outputs: Sequence[Any]
    run: Run | None = None  # row id -> document -> score, best first; None for a system that does not retrieve
    invalid: Mapping[str, str] | None = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    passing: Collection[str] = ()


class System(ABC):
    """Something that answers rows.

    Attributes:
        name: In tables and results.
        batch_size: Rows of one call of `run`, after which a killed measurement continues; None: all rows in one call.
        task: The task with the settings by which the outputs are to be read; None: that of the measures.
        engine_id: The engine of the outputs, see `Engine.engine_id`; None without one.
        fixed_costs: Costs that are known without a run, such as those of training.
        optional: Whether a `PipelineError` of this system leaves it out instead of ending the measurement.
    """

    name: str
    batch_size: int | None = None
    task: GenerationTask | None = None
    engine_id: str | None = None
    fixed_costs: Mapping[str, float] = {}
    optional: bool = False

    @property
    def fingerprint(self) -> str | None:
        """Hash of everything but the row on which an output depends; None: outputs are never cached."""
        return None

    @property
    def lineage(self) -> RunLineage | None:
        """The adapters and base models that take part, with their ancestors; None if unknown."""
        return RunLineage(())

    def row_key(self, row: Record) -> Any:
        """What of a row an output depends on, as a JSON value."""
        return row

    def accepts(self, row: Record, output: Any) -> bool:
        """Whether a cached output can be this system's output for the row."""
        del row, output
        return True

    @abstractmethod
    def run(self, rows: Sequence[Record], progress: Progress = silent) -> Outputs:
        """Answer rows, each with an `id`.

        Raises:
            SearchloraError: if a part of the system fails; an output that does not parse is `InvalidOutput`.
        """

    def finish(self) -> None:  # noqa: B027 (most systems release nothing)
        """Release what only this system needs; called once, when it has been measured."""
