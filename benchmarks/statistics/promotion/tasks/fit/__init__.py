"""Binary judgment task: whether a product fits a query."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from searchlora.eval.evaluation import Evaluation
from searchlora.files import read_rows
from searchlora.outputs import Grade, Graded, OutputSpec
from searchlora.records import Format, Record
from searchlora.task import EvaluationInput, GenerationTask


class Fit(GenerationTask):
    """Query and product (the text of its page) -> no (0) or yes (1)."""

    name = "fit"
    reads: Mapping[str, str] = {"query": "query", "product": "passage"}
    writes = "fit"

    def __init__(self) -> None:
        super().__init__(Path(__file__).parent)

    @property
    def formats(self) -> Mapping[str, Format]:
        return {"native": Format("native", "records as JSON lines", lambda path, _: read_rows(path))}

    def target(self, record: Record) -> str:
        return str(record["answer"])

    def output(self, record: Record) -> OutputSpec:
        del record
        return Graded({"no": 0, "yes": 1})

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        wanted = {"no": 0, "yes": 1}
        right = {
            str(record["id"]): float(isinstance(output, Grade) and output.value == wanted[record["answer"]])
            for record, output in zip(inputs.records, inputs.outputs, strict=True)
        }
        return Evaluation("accuracy", {"accuracy": right}, inputs.clusters)


task = Fit()
