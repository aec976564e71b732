"""Compared systems over all rows of MT-RAG that are answerable or known to be unanswerable, and sample answers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.rag_mtrag.answering import ADAPTER, QUOTED, Answers
from benchmarks.rag_mtrag.data import SEED, TASK, WORDS, Record
from searchlora.eval.comparison import Comparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.files import atomic_text
from searchlora.outputs import CitedAnswer
from searchlora.task import EvaluationInput, load_task
from searchlora.tasks.rag_answer.truncation import passage_texts

#: Measures in the order of the table.
MEASURES = (
    "answerability F1",
    "abstention F1",
    "abstention precision",
    "abstention recall",
    "answering F1",
    "citation precision",
    "citation recall",
    "citation F1",
    "unsupported sentences",
    "unsupported by what they cite",
    "token F1",
    "ROUGE-L",
    "words",
    "invalid",
    "cites what was not given",
    "right to answer",
)


def evaluations(rows: Sequence[Record], answers: Answers) -> dict[str, Evaluation]:
    """The evaluation of every system, the candidate last."""
    names = sorted(answers.outputs, key=lambda name: name == candidate(answers.outputs))
    task = load_task(TASK)
    return {
        name: replace(
            found,
            values={each: its for each, its in found.values.items() if each in MEASURES},
            aggregates={each: its for each, its in found.aggregates.items() if each in MEASURES},
        )
        for name in names
        for found in [task.evaluate(EvaluationInput(rows, [answers.outputs[name][row["id"]] for row in rows]))]
    }


def candidate(systems: Mapping[str, Any]) -> str:
    """The system that is compared with all others: the adapter, or the quotations where no LLM generates."""
    return ADAPTER if ADAPTER in systems else QUOTED


def compared(found: Mapping[str, Evaluation]) -> Comparison:
    """Compare the candidate with the rules, the base and the other variants."""
    return compare(found, candidate=candidate(found))


EACH = 10


def write_answers(path: Path, rows: Sequence[Record], outputs: Mapping[str, Any], evaluation: Evaluation) -> None:
    """Ten right and ten wrong answers (or abstentions) with the prompt's passages."""
    shuffled = list(rows)
    random.Random(SEED).shuffle(shuffled)
    good = [row for row in shuffled if _score(row, outputs[row["id"]], evaluation) >= 0.5]
    bad = [row for row in shuffled if _score(row, outputs[row["id"]], evaluation) == 0]
    with atomic_text(path) as out:
        for title, chosen in (("Right", good[:EACH]), ("Wrong", bad[:EACH])):
            out.write(f"# {title}\n\n")
            for row in chosen:
                out.write(_shown(row, outputs[row["id"]]) + "\n")


def _score(row: Record, output: Any, evaluation: Evaluation) -> float:
    """F1 of the citations; 0 for an invalid output and for a wrong decision to answer or abstain."""
    if not isinstance(output, CitedAnswer) or not evaluation.values["right to answer"][row["id"]]:
        return 0.0
    if not row["answerable"]:
        return 1.0
    gold = {number for number, each in enumerate(row["passages"], start=1) if each["id"] in row["gold"]}
    cited = set(output.citations)
    return 2 * len(gold & cited) / (len(gold) + len(cited))


def _shown(row: Record, output: Any) -> str:
    gold = [number for number, each in enumerate(row["passages"], start=1) if each["id"] in row["gold"]]
    before = "".join(f"  {turn['role']}: {turn['text']}\n" for turn in row["history"][-2:])
    passages = "".join(f"  [{number}] {text}\n" for number, text in enumerate(passage_texts(row, WORDS), start=1))
    text = output.text if isinstance(output, CitedAnswer) else f"INVALID ({output.reason}): {output.raw}"
    return (
        f"## {row['id']} ({row['kind']}, {row['source']})\n{before}  QUESTION: {row['question']}\n{passages}"
        f"  gold {gold}: {row.get('answer', '(to abstain)')}\n  MODEL: {text}\n"
    )
