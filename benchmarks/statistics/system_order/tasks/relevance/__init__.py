"""Binary judgment task: whether an abstract answers a question."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from searchlora.eval.evaluation import Evaluation
from searchlora.files import Rows, read_rows
from searchlora.outputs import Graded, InvalidOutput
from searchlora.records import Format, Record
from searchlora.task import EvaluationInput, GenerationTask

SCALE = {"No": 0, "Yes": 1}


class Relevance(GenerationTask):
    """Question and abstract -> No or Yes."""

    name = "relevance"
    version = 1
    reads: Mapping[str, str] = {"query": "query", "passage": "passage"}
    writes = "relevance"

    def __init__(self) -> None:
        super().__init__(Path(__file__).parent)

    @property
    def formats(self) -> Mapping[str, Format]:
        return {"native": Format("native", "records as JSON lines", _read)}

    def target(self, record: Record) -> str:
        return str(record["answer"])

    def output(self, record: Record) -> Graded:
        del record
        return Graded(SCALE)

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        """Accuracy; an invalid answer is wrong."""
        right = {
            str(record["id"]): float(not isinstance(output, InvalidOutput) and output.value == SCALE[record["answer"]])
            for record, output in zip(inputs.records, inputs.outputs, strict=True)
        }
        return Evaluation("accuracy", {"accuracy": right}, inputs.clusters)


def _read(path: Path, options: Mapping[str, str]) -> Rows:
    del options
    return read_rows(path)


task = Relevance()
