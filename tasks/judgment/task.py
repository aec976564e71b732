"""The judgment task: ties schema, prompt, guideline, dataset builder and evaluator together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import Grade, Graded, InvalidOutput
from searchlora.records import Options, Record, SearchContext
from searchlora.task import EvaluationInput, PromptedTask
from searchlora.tasks.judgment import baselines, evaluator, reasons, reranking, tuning
from searchlora.tasks.judgment.dataset import FORMATS
from searchlora.tasks.judgment.guideline import guideline_of, settings_of


class JudgmentTask(PromptedTask):
    """Query and passage -> grade, with the probability of each grade, and one sentence on why where that is asked for.

    In a pipeline it judges every one of `passages` and puts `hits` and `passages` into the order of their expected
    grades: a reranker.

    Settings: `scale` (grades with name and meaning, rising; each is written out as its digit), `guideline` (text below
    them), `relevant` (the grade from which on a passage counts as relevant), `characters` (of title and passage
    that are shown), `reason` (true: a line below the grade says why; else the key is not there).
    """

    name = "judgment"
    version = 2
    formats = FORMATS
    reads: Mapping[str, str] = {"query": "query", "passage": "passage", "title": "title"}
    writes = "grade"
    default_settings: Mapping[str, Any] = guideline_of({}).settings()

    @property
    def grades(self) -> tuple[int, ...]:
        """The scale, rising."""
        return tuple(each["grade"] for each in self.settings["scale"])

    @property
    def reasoned(self) -> bool:
        """Whether a grade comes with its reason."""
        return bool(self.settings.get("reason"))

    @property
    def template(self) -> str:
        """`prompt.jinja`; where a reason is asked for, its last instruction says so."""
        return reasons.asked(super().template) if self.reasoned else super().template

    @property
    def default_recipe(self) -> Mapping[str, Any]:
        """`recipe.yaml`; where a reason is asked for, with the tokens that it takes."""
        return {**super().default_recipe, **({"max_new_tokens": reasons.TOKENS} if self.reasoned else {})}

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        settings = {**settings_of(options), **reasons.settings_of(options)}
        _check_sides([record["grade"] >= settings["relevant"] for record in records], settings["relevant"])
        return settings

    def check_dataset(self, settings: Mapping[str, Any]) -> None:
        theirs = tuple(each["grade"] for each in settings["scale"])
        if theirs != self.grades:
            ours, told = (", ".join(map(str, grades)) for grades in (self.grades, theirs))
            raise UsageError(
                f"the adapter grades {ours}, the dataset {told}",
                fix="Build the dataset with the guideline that the adapter was trained by.",
            )

    def fields(self, record: Record) -> Mapping[str, Any]:
        """The passage with its title before it, cut at the end of a word; white space is made one blank."""
        passage = ". ".join(part for part in (_line(record.get("title", "")), _line(record["passage"])) if part)
        shown = {"scale": self.settings["scale"], "guideline": self.settings["guideline"]}
        return {**shown, "query": _line(record["query"]), "passage": _cut(passage, self.settings["characters"])}

    def target(self, record: Record) -> str:
        """The grade; where a reason is asked for and the record has one, that on the next line."""
        grade = str(record["grade"])
        return reasons.written(grade, record) if self.reasoned else grade

    def output(self, record: Record) -> Graded:
        del record
        return Graded({str(grade): grade for grade in self.grades}, reasoned=self.reasoned)

    def records_from(self, context: SearchContext) -> list[Record]:
        """One record per passage of a search, or one of a context that is a pair of query and passage.

        Raises:
            PipelineError: when there is neither.
        """
        if "passages" in context:
            return reranking.records(context)
        if "passage" not in context:
            raise PipelineError(
                "there are no passages to judge",
                where=f"query {context['id']}",
                fix="Put a stage 'passages' before this one.",
            )
        return super().records_from(context)

    def updates(self, context: SearchContext, outputs: Sequence[Grade]) -> Mapping[str, Any]:
        if "passages" in context:
            return reranking.reranked(context, outputs, self.grades)
        return super().updates(context, outputs)

    def tune(self, records: Sequence[Record], outputs: Sequence[Grade | InvalidOutput]) -> Mapping[str, Any]:
        return tuning.tuned(records, outputs, self.grades)

    def apply_tuning(self, output: Grade, record: Record) -> Grade:
        """Probabilities at the tuned temperature; the grade by the tuned cut points, where there are any."""
        del record
        return tuning.settled(output, self.tuned, self.grades)

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Grade]]:
        return baselines.baseline_outputs(records, dataset, self.grades)

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs, scale=self.grades, relevant=self.settings["relevant"])


def _check_sides(relevant: Sequence[bool], least: int) -> None:
    """A judge that sees one side only learns to say nothing else."""
    if not relevant or len(set(relevant)) == 2:
        return
    if relevant[0]:
        what, fix = "relevant", "Add others; of a collection, --option unjudged=5 takes passages that nobody graded."
    else:
        what = "not relevant"
        fix = "Give a guideline in which 'from' says which of the source's grades are relevant, or --option relevant=."
    raise DataError(f"all {len(relevant)} training rows are {what} (relevant from grade {least} on)", fix=fix)


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _cut(text: str, most: int) -> str:
    """At most so many characters, and "…" where there were more; the last word is whole, unless it is the only one."""
    if len(text) <= most:
        return text
    whole, blank, _ = text[: most + 1].rpartition(" ")
    return f"{whole if blank else text[:most]} …"
