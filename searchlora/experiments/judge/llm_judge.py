"""LLM judge: a prompted task whose output is a grade, applied to one query-passage pair at a time.

The search context of a pair has these fields (`GenerationTask.reads`):

* `query`: the query, and all other fields of the topic (`history`, `narrative`, ...),
* `passage`: the document's text,
* `title`: the document's title, empty if it has none.

There is no `hits`: a context is one pair, so `records_from` returns exactly one record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from searchlora.errors import UsageError
from searchlora.experiments.task_model import TaskModel, load_task_model
from searchlora.outputs import Grade, Graded, InvalidOutput
from searchlora.records import Record, SearchContext
from searchlora.task import GenerationTask


@dataclass(frozen=True)
class Judge(TaskModel):
    """A model that answers a grading task."""

    def record(self, context: SearchContext) -> Record:
        """The record of a pair."""
        records = self.task.records_from(context)
        if len(records) != 1:
            raise UsageError(
                f"the task '{self.task.name}' makes {len(records)} records of one query-passage pair",
                fix="A judging task makes one record of a context with 'query' and 'passage'.",
            )
        self.output(records[0])
        return records[0]

    def output(self, record: Record) -> Graded:
        """The output specification with the scale. Raises `UsageError` when the output is not a grade."""
        output = self.task.output(record)
        if not isinstance(output, Graded):
            raise UsageError(
                f"the output of the task '{self.task.name}' is not a grade",
                fix="Judge with a task whose output is a grade.",
            )
        return output

    def grade(self, records: Sequence[Record]) -> list[Grade | InvalidOutput]:
        """One grade per record, as `ask`."""
        return self.ask(records)


def load_judge(**how: Any) -> Judge:
    """Load an adapter, a bare base or a model of a service as a judge; arguments and errors as `load_task_model`."""
    return Judge(**vars(load_task_model(**how, check=_check_reads_pairs)))


def _check_reads_pairs(task: GenerationTask) -> None:
    if missing := {"query", "passage"} - set(task.reads.values()):
        raise UsageError(
            f"the task '{task.name}' does not read the {' and the '.join(sorted(missing))}, so it cannot judge pairs"
        )
