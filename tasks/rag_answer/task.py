"""The rag_answer task: ties schema, prompt, dataset builder and evaluator together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import CitedAnswer, CitedText, InvalidOutput
from searchlora.records import Options, Record
from searchlora.task import EvaluationInput, PromptedTask
from searchlora.tasks.rag_answer import abstaining, baselines, evaluator, settings
from searchlora.tasks.rag_answer.dataset import FORMATS
from searchlora.tasks.rag_answer.sentences import without_marks
from searchlora.tasks.rag_answer.shown import WORDS_OF_A_PASSAGE, passage_texts, shortened


class RagAnswerTask(PromptedTask):
    """Question, conversation and numbered passages -> an answer with citations, or a stated abstention."""

    name = "rag_answer"
    version = 2
    formats = FORMATS
    default_settings = settings.DEFAULT
    reads: Mapping[str, str] = {"question": "query", "history": "history", "passages": "passages"}
    writes = "answer"

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        del records
        return settings.of(options)

    def fields(self, record: Record) -> Mapping[str, Any]:
        return {
            **self.settings,
            "question": " ".join(str(record["question"]).split()),
            "history": shortened(record.get("history", [])),
            "passages": passage_texts(record, int(self.settings.get("words", WORDS_OF_A_PASSAGE))),
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
        return abstaining.tuned(records, outputs)

    def apply_tuning(self, output: CitedAnswer, record: Record) -> CitedAnswer:
        """Abstains from the tuned probability on; an answer whose abstention was not scored stays as it is."""
        if "abstain_from" not in self.tuned or output.abstention_probability is None:
            return output
        least = min(float(self.tuned["abstain_from"]), abstaining.MOST)
        return self.output(record).at_threshold(output.abstention_probability, least)

    def fallback(self, record: Record) -> CitedAnswer:
        """The abstention: who cannot be understood has said nothing."""
        del record
        return CitedAnswer(str(self.settings["abstention"]), (), abstained=True)

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs, citations=self.settings["citations"])

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[CitedAnswer]]:
        return baselines.baseline_outputs(records, dataset, str(self.settings["abstention"]))
