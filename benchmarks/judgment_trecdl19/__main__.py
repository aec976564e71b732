"""Relevance judgment of TREC Deep Learning 2019 passages, and reranking of BM25 by the grades.

    python -m benchmarks.judgment_trecdl19             train, grade, evaluate
    python -m benchmarks.judgment_trecdl19 --evaluate  evaluate the grades in benchmarks/work; no model is loaded

43 queries in five folds: each query is graded by an adapter that was trained on the human grades of the other folds. A
first adapter is trained on SQuAD and Cranfield (see `warm`) and merged into the base model of the five. Takes about an
hour on 2 cores; datasets, adapters and grades in `benchmarks/work/judgment_trecdl19` are reused.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import RESULTS, WORK, real_data, save
from benchmarks.judgment_trecdl19 import systems as made
from benchmarks.judgment_trecdl19.answering import Answers, answer
from benchmarks.judgment_trecdl19.folds import EACH, FOLDS, VALIDATING, Topics, write_examples
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.judge.card import judge_card, to_json
from searchlora.eval.trec import read_qrels, write_qrels

NAME = "judgment_trecdl19"
QRELS = "qrels.dl19-passage.txt"


def main() -> None:
    data, work = real_data(), WORK / NAME
    topics = Topics.read(data / "trecdl19")
    file = work / "answers.json"
    if "--evaluate" not in sys.argv:
        work.mkdir(parents=True, exist_ok=True)
        with progress_bars() as steps:
            answer(topics, data, work, steps).save(file)
    evaluate(topics, data, Answers.load(file), work)


def evaluate(topics: Topics, data: Path, answers: Answers, work: Path) -> None:
    """Write all results from the grades."""
    human = read_qrels(data / "trecdl19" / QRELS)
    systems = made.judges(topics, answers)
    comparison, evaluations = made.agreement(topics, systems)
    written = {"adapter": made.ADAPTER_TUNED, "base": made.ZERO_SHOT}
    cards = {}
    for name, system in written.items():
        judged = made.labels(systems, system)
        write_qrels(RESULTS / f"{NAME}_{name}.txt", judged)
        cards[name] = to_json(judge_card(human, judged, name=system))
    about = {
        "caption": "figures over all graded pairs and 95% interval by query; alpha and bias are over valid answers",
        "design": {"folds": FOLDS, "validating_queries": VALIDATING, "most_of_a_grade_and_query": EACH},
        "calibration_error": made.calibration(evaluations),
        "confusions": {name: asdict(each.confusions["grades"]) for name, each in evaluations.items()},
        "tuned": list(answers.tuned),
        "training": answers.training,
        "cards": cards,
    }
    save(NAME, comparison, about)
    print_comparison(comparison)
    ranked = made.reranking(made.runs(topics, answers), human)
    save(f"{NAME}_rerank", ranked, {"caption": "mean over queries and 95% interval"}, module=NAME)
    print_comparison(ranked)
    write_examples(work / "examples.md", topics, systems[made.ADAPTER_TUNED])


if __name__ == "__main__":
    main()
