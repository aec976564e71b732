"""The rag_answer task: answer a question from passages with citations, or abstain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import CitedAnswer, CitedText, InvalidOutput
from searchlora.records import Options, Record
from searchlora.task import EvaluationInput, PromptedTask
from searchlora.tasks.rag_answer import baselines, evaluator, settings, tuning
from searchlora.tasks.rag_answer.citations import without_marks
from searchlora.tasks.rag_answer.dataset import FORMATS
from searchlora.tasks.rag_answer.truncation import WORDS_PER_PASSAGE, passage_texts, truncated_history


class RagAnswerTask(PromptedTask):
    """Question, conversation and numbered passages -> an answer with citations, or the abstention.

    Settings:
        abstention: The sentence that answers an unanswerable question.
        style: One or two sentences on the style of answers, part of the prompt.
        citations: Whether answers cite passages.
        words: Maximum number of words of a passage in the prompt.
    """

    name = "rag_answer"
    version = 2
    formats = FORMATS
    default_settings = settings.DEFAULT
    reads: Mapping[str, str] = {"question": "query", "history": "history", "passages": "passages"}
    writes = "answer"

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        del records
        return settings.settings_from(options)

    def fields(self, record: Record) -> Mapping[str, Any]:
        return {
            **self.settings,
            "question": " ".join(str(record["question"]).split()),
            "history": truncated_history(record.get("history", [])),
            "passages": passage_texts(record, int(self.settings.get("words", WORDS_PER_PASSAGE))),
        }

    def target(self, record: Record) -> str:
        if not record["answerable"]:
            return str(self.settings["abstention"])
        answer = str(record["answer"])
        return answer if self.settings["citations"] else without_marks(answer)

    def output(self, record: Record) -> CitedText:
        numbered = len(record["passages"]) if self.settings["citations"] else 0
        return CitedText(numbered, str(self.settings["abstention"]))

    def tune(self, records: Sequence[Record], outputs: Sequence[CitedAnswer | InvalidOutput]) -> Mapping[str, Any]:
        return tuning.tuned(records, outputs)

    def apply_tuning(self, output: CitedAnswer, record: Record) -> CitedAnswer:
        """Abstain from the tuned probability on; an output without an abstention probability is unchanged."""
        if "abstain_from" not in self.tuned or output.abstention_probability is None:
            return output
        threshold = min(float(self.tuned["abstain_from"]), tuning.MAX_THRESHOLD)
        return self.output(record).at_threshold(output.abstention_probability, threshold)

    def fallback(self, record: Record) -> CitedAnswer:
        """The abstention."""
        del record
        return CitedAnswer(str(self.settings["abstention"]), (), abstained=True)

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs, citations=self.settings["citations"])

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[CitedAnswer]]:
        return baselines.baseline_outputs(records, dataset, str(self.settings["abstention"]))
