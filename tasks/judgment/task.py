"""The judgment task: grade the relevance of a passage to a query."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from searchlora.encoder_baseline import EncoderBaseline
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.trec import is_word
from searchlora.outputs import Grade, Graded, InvalidOutput
from searchlora.records import GradedTarget, Judgment, Options, Record, SearchContext
from searchlora.rewards import INVALID, RewardContext
from searchlora.task import EvaluationInput, GenerationTask
from searchlora.tasks.judgment import baselines, evaluator, reranking, tuning
from searchlora.tasks.judgment.dataset import FORMATS, reason_line
from searchlora.tasks.judgment.encoder_baselines import BoostingBaseline, CosineBaseline
from searchlora.tasks.judgment.guideline import guideline_of, settings_of

#: `max_new_tokens` of the default recipe with reasons: 300 characters of English are about 70 of SmolLM2's tokens.
REASON_TOKENS = 80

#: Tuned values of a pipeline stage: weight of the first stage's standardised score, and what the judge ranks by.
FIRST_STAGE, RANK_BY = "first_stage_weight", "rank_by"


class JudgmentTask(GenerationTask):
    """Query and passage -> grade, with the probability of each grade and, optionally, a one-sentence reason.

    In a pipeline it is a reranker: it judges every one of `passages` and orders `passages` and `hits` by expected
    grade.

    Settings:
        scale: The grades in ascending order, each with its name and meaning. A grade is written as its digit.
        guideline: Text that follows the grades in the prompt.
        relevant: The lowest grade that counts as relevant.
        characters: The maximum number of characters of title and passage in the prompt.
        reason: True: a sentence on the second line gives the reason. Absent otherwise.
    """

    name = "judgment"
    version = 2
    formats = FORMATS
    reads: Mapping[str, str] = {"query": "query", "passage": "passage", "title": "title"}
    writes = "grade"
    default_settings: Mapping[str, Any] = guideline_of({}).settings()

    @property
    def grades(self) -> tuple[int, ...]:
        """The scale in ascending order."""
        return tuple(meaning["grade"] for meaning in self.settings["scale"])

    @property
    def reasoned(self) -> bool:
        """Whether each grade comes with a reason."""
        return bool(self.settings.get("reason"))

    @property
    def default_recipe(self) -> Mapping[str, Any]:
        """`recipe.yaml`, with more new tokens where reasons are requested."""
        return {**super().default_recipe, **({"max_new_tokens": REASON_TOKENS} if self.reasoned else {})}

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        del records
        return settings_of(options)

    def judgment(self, record: Record) -> Judgment | None:
        """Topic and document from the id, `topic document`; None where the id is another word, or there is no grade."""
        topic, blank, document = str(record["id"]).partition(" ")
        is_pair = bool(blank) and is_word(document) and "grade" in record
        return Judgment(topic, document, record["grade"]) if is_pair else None

    def training_warnings(self, records: Iterable[Record]) -> Iterable[str]:
        """Grades of the scale without a training row, which a judge never learns to give; rows of one class only."""
        used = {record["grade"] for record in records if "grade" in record}
        if not used:  # only a teacher's scores
            return
        yield from _one_class(used, self.settings["relevant"])
        if missing := [str(grade) for grade in self.grades if grade not in used]:
            of_scale = ", ".join(map(str, self.grades))
            yield f"no training row has the grade {', '.join(missing)} of the scale {of_scale}"

    def check_training(self, records: Iterable[Record]) -> None:
        grades = {record.get("grade") for record in records}
        if len(grades) == 1 and None not in grades:
            raise DataError(
                f"all training rows have the grade {grades.pop()}, so the judge would learn a constant",
                fix="Add rows of other grades: a further --data, or --option unjudged=5 of a test collection's build.",
            )

    def check_dataset(self, settings: Mapping[str, Any]) -> None:
        theirs = tuple(meaning["grade"] for meaning in settings["scale"])
        if theirs != self.grades:
            adapter, dataset = (", ".join(map(str, grades)) for grades in (self.grades, theirs))
            raise UsageError(
                f"the adapter uses the grades {adapter}, the dataset {dataset}",
                fix="Build the dataset with the guideline that the adapter was trained with.",
            )

    def fields(self, record: Record) -> Mapping[str, Any]:
        """Title and passage as one text, truncated at a word boundary; white space is collapsed."""
        texts = (_collapsed(record.get("title", "")), _collapsed(record["passage"]))
        return {
            "scale": self.settings["scale"],
            "guideline": self.settings["guideline"],
            "reason": self.reasoned,
            "query": _collapsed(record["query"]),
            "passage": _truncated(". ".join(filter(None, texts)), self.settings["characters"]),
        }

    def has_target(self, record: Record) -> bool:
        """Whether people or a teacher graded the passage; else it has a teacher's score alone."""
        return "grade" in record

    def target(self, record: Record) -> str:
        """The grade; with reasons, the reason of the record on the second line, if it has one."""
        # A record with a teacher's score alone is rendered with some grade, and none is learned from it.
        grade = str(record.get("grade", self.grades[0]))
        return f"{grade}\n{reason_line(record)}" if self.reasoned and "reason" in record else grade

    def graded_target(self, record: Record) -> GradedTarget:
        """The grades of the scale, with the shares of the raters who gave each; passages of a query are one group."""
        return GradedTarget(
            group=str(record["group"]),
            completions=tuple(map(str, self.grades)),
            grades=tuple(map(float, self.grades)),
            shares=tuning.rater_shares(record, self.grades),
            teacher=record.get("teacher"),
            relevant=sum(grade < self.settings["relevant"] for grade in self.grades),
        )

    def labelled(self, record: Record, output: Grade) -> Record:
        """The grade, the probabilities of all grades as soft label, and the reason, if the teacher gives one.

        `shares` also tells that the grades are those of the guideline's own scale.
        """
        probabilities = output.probabilities or [float(grade == output.value) for grade in self.grades]
        shares = {str(grade): share for grade, share in zip(self.grades, probabilities, strict=True) if share > 0}
        rest = {key: value for key, value in record.items() if key not in ("votes", "reason")}
        reason = {"reason": output.reason} if output.reason else {}
        return {**rest, "grade": output.value, "shares": shares, **reason}

    def output(self, record: Record) -> Graded:
        del record
        return Graded({str(grade): grade for grade in self.grades}, reasoned=self.reasoned)

    def records_from(self, context: SearchContext) -> list[Record]:
        """One record per passage of a search, or a single one for a context with one `passage`."""
        if "passages" in context:
            return reranking.passage_records(context)
        if "passage" not in context:
            raise PipelineError(
                "there are no passages to judge",
                where=f"query {context['id']}",
                fix="Put a stage 'passages' before this one.",
            )
        return super().records_from(context)

    def updates(self, context: SearchContext, outputs: Sequence[Grade]) -> Mapping[str, Any]:
        if "passages" in context:
            weight = float(self.tuned.get(FIRST_STAGE, 0.0))
            by = self.tuned.get(RANK_BY, reranking.EXPECTED_GRADE)
            return reranking.reranked(context, outputs, self.grades, self.settings["relevant"], weight, by)
        return super().updates(context, outputs)

    def check_tuned(self, tuned: Mapping[str, Any]) -> None:
        """Accept `first_stage_weight`, a number of at least 0, and `rank_by`, the judge's score to rank by."""
        weight, by = tuned.get(FIRST_STAGE, 0.0), tuned.get(RANK_BY, reranking.EXPECTED_GRADE)
        if others := sorted(set(tuned) - {FIRST_STAGE, RANK_BY}):
            raise UsageError(
                f"a judge takes no tuned value '{others[0]}'", fix=f"It takes {FIRST_STAGE} and {RANK_BY}."
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise UsageError(f"{FIRST_STAGE} is {weight!r}", fix="Give a number of at least 0.")
        if by not in (reranking.EXPECTED_GRADE, reranking.LOG_ODDS):
            raise UsageError(f"{RANK_BY} is {by!r}", fix=f"Give {reranking.EXPECTED_GRADE} or {reranking.LOG_ODDS}.")

    def tune(self, records: Sequence[Record], outputs: Sequence[Grade | InvalidOutput]) -> Mapping[str, Any]:
        graded = [pair for pair in zip(records, outputs, strict=True) if "grade" in pair[0]]
        return tuning.tuned([record for record, _ in graded], [output for _, output in graded], self.grades)

    def apply_tuning(self, output: Grade, record: Record) -> Grade:
        """Probabilities at the tuned temperature; the grade by the tuned thresholds, if there are any."""
        del record
        return tuning.with_tuning(output, self.tuned, self.grades)

    def reward(
        self, records: Sequence[Record], outputs: Sequence[Grade | InvalidOutput], context: RewardContext
    ) -> list[float | None]:
        """Agreement with the record's grade, if it has one: 1 for an equal grade, 0 for the other end of the scale."""
        if context.measure is not None:
            return super().reward(records, outputs, context)
        extent = max(1, self.grades[-1] - self.grades[0])
        return [
            None
            if not self.has_target(record)
            else INVALID
            if isinstance(output, InvalidOutput)
            else 1 - abs(output.value - record["grade"]) / extent
            for record, output in zip(records, outputs, strict=True)
        ]

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        """Measure the outputs of records with a grade; those with a teacher's score alone say nothing."""
        pairs = [pair for pair in zip(inputs.records, inputs.outputs, strict=True) if "grade" in pair[0]]
        if not pairs:
            raise UsageError("no record has a grade to compare with", fix="Give a dataset with human grades.")
        graded = replace(inputs, records=[record for record, _ in pairs], outputs=[output for _, output in pairs])
        return evaluator.evaluate(graded, scale=self.grades, relevant=self.settings["relevant"])

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Grade]]:
        return baselines.baseline_outputs(records, dataset, self.grades)

    def learned_baselines(self, records: Sequence[Record]) -> frozenset[str]:
        del records
        return frozenset({baselines.COMMONEST, baselines.BM25})

    def encoder_baselines(self) -> Sequence[EncoderBaseline]:
        return (CosineBaseline(self.grades), BoostingBaseline(self.grades))


def _one_class(grades: Collection[int], threshold: int) -> Iterator[str]:
    """A warning where all grades are relevant or none is."""
    relevant = {grade >= threshold for grade in grades}
    if len(relevant) == 1:
        (all_relevant,) = relevant
        what, fix = (
            ("relevant", "add other rows; with a test collection, --option unjudged=5 adds unjudged passages")
            if all_relevant
            else (
                "not relevant",
                "say which of the four grades the source's are, as --grades 0=0,1=3 with --format judgments; or give a "
                "guideline whose 'from' lists the source's relevant grades, or --option relevant=",
            )
        )
        yield f"all training rows are {what} (relevant from grade {threshold}): {fix}"


def _collapsed(text: Any) -> str:
    return " ".join(str(text).split())


#: Characters from which on a word is truncated.
_LONG_WORD = 40


def _truncated(text: str, max_characters: int) -> str:
    """At most `max_characters` characters, with "…" appended where text was removed. Words stay whole, except very long
    ones: Japanese is written without blanks."""
    if len(text) <= max_characters:
        return text
    whole = text[: max_characters + 1].rpartition(" ")[0]
    is_near = max_characters - len(whole) <= max(_LONG_WORD, max_characters // 5)
    return f"{whole if whole and is_near else text[:max_characters]} …"
