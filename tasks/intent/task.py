"""The intent task: classify a query by a label, several labels, or a JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.encoder_baseline import EncoderBaseline
from searchlora.errors import UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import InvalidOutput, JsonObject, Label, LabelSet, OneLabel, OutputSpec
from searchlora.records import Options, Record
from searchlora.task import EvaluationInput, GenerationTask
from searchlora.tasks.intent import baselines, evaluator, tuning
from searchlora.tasks.intent.dataset import FORMATS
from searchlora.tasks.intent.settings import KINDS, prompt_fields, settings_from, target_text


class IntentTask(GenerationTask):
    """Query -> intent: one label of a closed set, several labels, or a JSON object by the user's schema.

    Settings:
        kind: "label", "labels" or "object".
        labels: The label set, sorted; for the first two kinds.
        out_of_scope: The label, or the value of a field, for queries that no other label fits; None: there is none.
        schema: JSON Schema of the object.
    """

    name = "intent"
    version = 1
    reads: Mapping[str, str] = {"query": "query"}
    writes = "intent"
    formats = FORMATS

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        return settings_from(options, records)

    def check_dataset(self, settings: Mapping[str, Any]) -> None:
        if settings.get("kind") != self.settings.get("kind"):
            raise UsageError(
                f"the adapter answers with '{self.settings.get('kind')}', the dataset has '{settings.get('kind')}'",
                fix="Build the dataset with --option kind=, or evaluate an adapter of the same kind.",
            )

    def fields(self, record: Record) -> Mapping[str, Any]:
        return prompt_fields(self.settings, record)

    def target(self, record: Record) -> str:
        return target_text(record)

    def labelled(self, record: Record, output: Any) -> Record:
        return {**record, self.settings["kind"]: output.value if isinstance(output, Label) else output}

    def output(self, record: Record) -> OutputSpec:
        """The form of every answer. Raises `UsageError` for a task without settings."""
        del record
        kind = self.settings.get("kind")
        if kind not in KINDS:
            raise UsageError(
                "the intent task has no settings, so its set of answers is unknown",
                fix="Take them from a dataset or an adapter: `searchlora data build intent` writes them.",
            )
        if kind == "object":
            return JsonObject(self.settings["schema"])
        return (OneLabel if kind == "label" else LabelSet)(tuple(self.settings["labels"]))

    def tune(self, records: Sequence[Record], outputs: Sequence[Any | InvalidOutput]) -> Mapping[str, Any]:
        return tuning.tuned(self.settings, records, outputs)

    def apply_tuning(self, output: Any, record: Record) -> Any:
        del record
        return tuning.with_tuning(self.settings, self.tuned, output)

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(self.settings, inputs)

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Any]]:
        return baselines.baseline_outputs(self.settings, records, dataset)

    def learned_baselines(self, records: Sequence[Record]) -> frozenset[str]:
        del records
        return baselines.learned(self.settings["kind"])

    def encoder_baselines(self) -> Sequence[EncoderBaseline]:
        return baselines.encoder_baselines(self.settings)
