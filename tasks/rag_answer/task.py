"""The rag_answer task: answer a question from passages with citations, or abstain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from searchlora.encoder_baseline import EncoderBaseline
from searchlora.errors import PipelineError
from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import CitedAnswer, CitedText, InvalidOutput
from searchlora.prompts import truncated_history
from searchlora.records import Evidence, Options, Record, SearchContext
from searchlora.rewards import RewardContext
from searchlora.task import EvaluationInput, GenerationTask
from searchlora.tasks.rag_answer import baselines, deciding, evaluator, settings, tuning
from searchlora.tasks.rag_answer.citations import evidence, joined, whole_sentences, without_marks
from searchlora.tasks.rag_answer.dataset import FORMATS
from searchlora.tasks.rag_answer.settings import WORDS_PER_PASSAGE, passage_texts

#: The prompt keeps the opening turn and this many of the latest turns; the words of a turn by its role.
LATEST_TURNS = 2
WORDS_PER_TURN = {"user": 25, "assistant": 25}


class RagAnswerTask(GenerationTask):
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
    reads: Mapping[str, str] = {"question": "query", "history": "history", "passages": "passages", "grades": "grades"}
    writes = "answer"

    def bound(self, settings: Mapping[str, Any] | None = None, tuned: Mapping[str, Any] | None = None) -> Self:
        """With `add: quotes`, the task reads the answer of an earlier stage as well."""
        task = super().bound(settings, tuned)
        quoted = {"quoted": self.writes} if deciding.decider(task.tuned, "add") == deciding.QUOTES else {}
        task.reads = {**type(self).reads, **quoted}
        return task

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        del records
        return settings.settings_from(options)

    def fields(self, record: Record) -> Mapping[str, Any]:
        return {
            **self.settings,
            "question": " ".join(str(record["question"]).split()),
            "history": truncated_history(record.get("history", []), LATEST_TURNS, WORDS_PER_TURN),
            "passages": passage_texts(record, int(self.settings.get("words", WORDS_PER_PASSAGE))),
        }

    def target(self, record: Record) -> str:
        if not record["answerable"]:
            return str(self.settings["abstention"])
        answer = str(record["answer"])
        return answer if self.settings["citations"] else without_marks(answer)

    def labelled(self, record: Record, output: CitedAnswer) -> Record:
        """The answer with its citations, whose passages become `gold`; or an abstention."""
        rest = {key: value for key, value in record.items() if key not in ("answer", "gold")}
        if output.abstained:
            return {**rest, "answerable": False}
        gold = [str(record["passages"][number - 1]["id"]) for number in output.citations]
        return {**rest, "answerable": True, "answer": output.text, **({"gold": gold} if gold else {})}

    def output(self, record: Record) -> CitedText:
        numbered = len(record["passages"]) if self.settings["citations"] else 0
        abstention = str(self.settings["abstention"])
        cite = deciding.rule_of(self.tuned, "cite") if numbered else None
        keep, add = (deciding.rule_of(self.tuned, kind) for kind in ("keep", "add"))
        if cite is None and keep is None and add is None:
            return CitedText(numbered, abstention)
        return _Ruled(passages=numbered, abstention=abstention, record=record, cite=cite, keep=keep, add=add)

    def whole_part(self, text: str) -> str | None:
        """The whole sentences, each once: an answer that does not end has often begun to repeat itself."""
        return joined(list(dict.fromkeys(whole_sentences(text)))) or None

    def check_tuned(self, tuned: Mapping[str, Any]) -> None:
        """Check the rules of `deciding.KINDS`; other keys, such as their origin, are not read."""
        deciding.check(tuned)

    def tune(self, records: Sequence[Record], outputs: Sequence[CitedAnswer | InvalidOutput]) -> Mapping[str, Any]:
        """The abstention threshold; or the rules that a pipeline asks for, as `{"abstain": "judge"}` in `tuned`."""
        wanted = {kind: str(self.tuned[kind]) for kind in ("abstain", "cite") if kind in self.tuned}
        fitted = tuning.tuned_rules(records, outputs, wanted) if wanted else tuning.tuned(records, outputs)
        return {**fitted, **{kind: self.tuned[kind] for kind in ("keep", "add") if kind in self.tuned}}

    def apply_tuning(self, output: CitedAnswer, record: Record) -> CitedAnswer | InvalidOutput:
        """Abstain where the tuned rule says so; without a rule, from the tuned probability on.

        An output without an abstention probability is unchanged by a threshold of that probability. It is invalid
        where a judge is to decide and has given no grade.
        """
        if output.abstained and output.abstention_probability is None:
            return output  # written by the model: there is no other answer
        relevance = deciding.relevances(record) if deciding.needs_judge(self.tuned) else []
        if relevance is None:
            return InvalidOutput(output.text, "the judge has graded none, or not all, of the passages")
        rule = deciding.rule_of(self.tuned, "abstain")
        if rule is None:
            if "abstain_from" not in self.tuned or output.abstention_probability is None:
                return output
            threshold = min(float(self.tuned["abstain_from"]), tuning.MAX_THRESHOLD)
            rule = deciding.Rule(deciding.ANSWER, {"from": threshold})
        abstains, why = deciding.abstention(rule, output.abstention_probability, max(relevance, default=0.0))
        text = str(self.settings["abstention"]) if abstains else "" if output.abstained else output.text
        return CitedAnswer(text, () if abstains else output.citations, abstains, output.abstention_probability, why)

    def records_from(self, context: SearchContext) -> list[Record]:
        """A single record."""
        failed = any(isinstance(each, InvalidOutput) for its in context.get("outputs", {}).values() for each in its)
        if deciding.needs_judge(self.tuned) and "grades" not in context and not failed:
            raise PipelineError(
                "no stage has judged the passages, and a judge is to decide on abstentions or citations",
                where=f"query {context['id']}",
                fix="Put a stage 'adapter' with a judge before this one, behind 'passages'.",
            )
        if "quoted" in self.reads and self.writes not in context and not failed:
            raise PipelineError(
                "no stage has answered, and its quotations are to be added",
                where=f"query {context['id']}",
                fix="Put a stage 'classical' with a dataset of this task before this one, or leave out add.",
            )
        return super().records_from(context)

    def updates(self, context: SearchContext, outputs: Sequence[CitedAnswer]) -> Mapping[str, Any]:
        """The `answer`, and as `unsupported` its sentences that the passages which they cite do not support, if any."""
        (answer,) = outputs
        unsupported = [each.sentence for each in self.evidence(context, answer) if each.supported is False]
        return {"answer": answer, **({"unsupported": unsupported} if unsupported else {})}

    def evidence(self, context: SearchContext, output: CitedAnswer) -> tuple[Evidence, ...]:
        """The sentences of an answer with their citations and what supports them; none of an abstention."""
        return () if output.abstained else evidence(output.text, context.get("passages", ()))

    def fallback(self, record: Record) -> CitedAnswer:
        """The answer whose quotations were to be added; without one, the abstention."""
        if "quoted" in record:
            quoted: CitedAnswer = record["quoted"]
            return quoted
        reason = "fallback for an invalid output"
        return CitedAnswer(str(self.settings["abstention"]), (), abstained=True, reason=reason)

    def reward(
        self, records: Sequence[Record], outputs: Sequence[CitedAnswer | InvalidOutput], context: RewardContext
    ) -> list[float | None]:
        """Right abstentions, citations, evidence and likeness to the reference; see `evaluator.reward`."""
        if context.measure is not None:
            return super().reward(records, outputs, context)
        citations = bool(self.settings["citations"])
        return [
            evaluator.reward(record, output, citations=citations)
            for record, output in zip(records, outputs, strict=True)
        ]

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs, citations=self.settings["citations"])

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[CitedAnswer]]:
        return baselines.baseline_outputs(records, dataset, str(self.settings["abstention"]))

    def encoder_baselines(self) -> Sequence[EncoderBaseline]:
        return (baselines.QuotingBaseline(str(self.settings["abstention"]), citations=self.settings["citations"]),)

    def learned_baselines(self, records: Sequence[Record]) -> frozenset[str]:
        del records
        return frozenset({baselines.THRESHOLD})

    def baseline_class(self, record: Record) -> str:
        return "answerable" if record["answerable"] else "unanswerable"


@dataclass(frozen=True, kw_only=True)
class _Ruled(CitedText):
    """`CitedText` whose citations and sentences rules choose after the answer was generated."""

    record: Record = field(repr=False)
    cite: deciding.Rule | None
    keep: deciding.Rule | None
    add: deciding.Rule | None

    def parse(self, text: str) -> CitedAnswer | InvalidOutput:
        answer = super().parse(text)
        if isinstance(answer, InvalidOutput):
            return answer
        if self.cite is not None:
            if self.cite.by == deciding.JUDGE and deciding.relevances(self.record) is None:
                return InvalidOutput(text, "the judge has not graded all passages")
            answer = deciding.recited(answer, self.record, self.cite)
        if self.keep is not None:
            answer = deciding.supported_only(answer, self.record, self.abstention)
        if self.add is None:
            return answer
        if "quoted" not in self.record:
            return InvalidOutput(text, "no stage has answered, and its quotations are to be added")
        return deciding.with_quotations(answer, self.record["quoted"])
