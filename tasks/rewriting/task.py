"""The rewriting task: rewrite a query, given its conversation, into a self-contained query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import FreeText, InvalidOutput, OutputSpec
from searchlora.prompts import truncated_history
from searchlora.records import Options, Record
from searchlora.rewards import RewardContext, retrieval_rewards
from searchlora.task import EvaluationInput, GenerationTask
from searchlora.tasks.rewriting import baselines, candidates, evaluator, listed_words, reduction
from searchlora.tasks.rewriting.dataset import FORMATS

#: The prompt keeps the opening turn, which names the subject, and this many of the latest turns.
LATEST_TURNS = 4
WORDS_PER_ANSWER = 30


class RewritingTask(GenerationTask):
    """Query and conversation -> a self-contained query in the vocabulary of the collection.

    It writes `query`, so it is evaluated by retrieval with its outputs.
    """

    name = "rewriting"
    version = 1
    formats = FORMATS
    upper_bounds = frozenset({baselines.REFERENCE})
    reads: Mapping[str, str] = {"query": "query", "history": "history", "titles": "titles"}
    writes = "query"

    def fields(self, record: Record) -> Mapping[str, Any]:
        return {
            "query": record["query"],
            "titles": record.get("titles", ()),
            "history": truncated_history(record.get("history", []), LATEST_TURNS, {"assistant": WORDS_PER_ANSWER}),
        }

    def target(self, record: Record) -> str:
        """The reference rewrite. Raises `DataError` for a record that has none."""
        if "rewrite" not in record:
            raise DataError(
                "has no rewrite to train on",
                where=f"record {record['id']}",
                fix="`searchlora improve` learns from judgments alone.",
            )
        return str(record["rewrite"])

    def has_target(self, record: Record) -> bool:
        return "rewrite" in record

    def settings_of(self, options: Options, records: Iterable[Record]) -> Mapping[str, Any]:
        """`words: query` where rewrites only leave words out. Raises `UsageError` for an invalid option."""
        del records
        return reduction.settings_of(options)

    def labelled(self, record: Record, output: str) -> Record:
        return {**record, "rewrite": output}

    def output(self, record: Record) -> OutputSpec:
        """One line of text; with the setting `words: query`, words of the query in their order."""
        if reduction.WORDS in self.settings:
            return reduction.ReducedQuery(str(record["query"]))
        return FreeText(max_chars=400)

    def queries(self, record: Record) -> Sequence[str]:
        """The query, then its rewrite: both have one information need."""
        return [str(record[field]) for field in ("query", "rewrite") if field in record]

    def fallback(self, record: Record) -> str:
        """The original query."""
        return str(record["query"])

    def evaluate(self, inputs: EvaluationInput) -> Evaluation:
        return evaluator.evaluate(inputs)

    def candidates(
        self, records: Sequence[Record], dataset: Path, context: RewardContext
    ) -> Sequence[Mapping[str, str]]:
        return candidates.rule_candidates(records, dataset, context)

    def settled(self, record: Record) -> str | None:
        """The query, if the record says that it needs no rewrite."""
        return str(record["query"]) if record.get("needs_rewrite") is False else None

    def variants(self, record: Record, completion: str) -> Mapping[str, str]:
        return candidates.variants(record, completion)

    def keeps_protected(self, record: Record, completion: str) -> bool:
        return candidates.keeps_protected(record, completion)

    def reward(
        self, records: Sequence[Record], outputs: Sequence[str | InvalidOutput], context: RewardContext
    ) -> list[float | None]:
        """By retrieval, see `rewards.retrieval_rewards`. Raises `UsageError` for a dataset without documents."""
        if not context.searches:
            raise UsageError(
                "a rewrite is rewarded by what it retrieves, and the dataset has no documents",
                fix="Build it with --corpus and --qrels.",
            )
        return retrieval_rewards([str(record["id"]) for record in records], outputs, context)

    def baselines(self, records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[str]]:
        """The rules; where rewrites only leave words out, also the rule that learns which from the judgments."""
        learned = listed_words.baseline_outputs(records, dataset) if reduction.WORDS in self.settings else {}
        return {**baselines.baseline_outputs(records, dataset), **learned}

    def learned_baselines(self, records: Sequence[Record]) -> frozenset[str]:
        del records
        return frozenset({listed_words.LISTED}) if reduction.WORDS in self.settings else frozenset()
