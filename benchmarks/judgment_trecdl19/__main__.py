"""Relevance judgment of TREC Deep Learning 2019 passages, reranking of BM25 by the grades, and the order of systems.

    python -m benchmarks.judgment_trecdl19                train, grade, evaluate
    python -m benchmarks.judgment_trecdl19 --evaluate     evaluate the grades in benchmarks/work; no model is loaded
    python -m benchmarks.judgment_trecdl19 --base "base05=FOLDER/qwen2.5-coder-0.5b-instruct-q8_0.gguf"   another base
    python -m benchmarks.judgment_trecdl19 --made         learn from made queries first; with --base as well

One adapter, trained on the human grades of TREC DL 2020 and 2021, and to rank as the strong systems of 2020 to 2022 do.
24 judged queries are held out: the best step, the thresholds, whether to rank by the expected grade or by the log odds,
and the weight of BM25 or of the encoder in the fused rankings are chosen on them.
The test set is the pool of six real systems on the 43 queries of DL 2019. Datasets, adapter and grades in
`benchmarks/work/judgment_trecdl19` are reused. The results of another base have its name, as in
`judgment_trecdl19_base05`; nothing else differs but `answering.LARGER`. With `--made`, whose results end in `_made`,
the adapter first learns to order passages of made queries as the encoder does (`made_queries`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks.common import WORK, parser, real_data, save
from benchmarks.judges import ADAPTER, ZERO_SHOT_TUNED, labels
from benchmarks.judgment_trecdl19 import systems as made
from benchmarks.judgment_trecdl19.answering import Answers, answer
from benchmarks.judgment_trecdl19.pools import EACH, PASSAGES, TEACHERS, VALIDATING, Pool, dl19, learning_pool
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.formatting import to_plain
from searchlora.eval.judge.card import judge_card, to_json

NAME = "judgment_trecdl19"


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("--evaluate", action="store_true")
    arguments.add_argument("--base", metavar="NAME=PATH", help="train another base than the recipe's")
    arguments.add_argument("--made", action="store_true", help="learn from made queries first")
    options = arguments.parse_args()
    base, _, path = (options.base or "").partition("=")
    name = "_".join([NAME, *([base] if base else []), *(["made"] if options.made else [])])
    data, work = real_data(), WORK / name
    test, pool = dl19(data), learning_pool(data)
    file = work / "answers.json"
    if not options.evaluate:
        work.mkdir(parents=True, exist_ok=True)
        with progress_bars() as steps:
            answer(test, pool, work, steps, path or None, made=options.made).save(file)
    module = f'{NAME} --base "{base}=FOLDER/{Path(path).name}"' if base else NAME
    module += " --made" if options.made else ""
    evaluate(test, pool, Answers.load(file), work, name, module)


def evaluate(test: Pool, pool: Pool, answers: Answers, work: Path, result: str, module: str) -> None:
    """Write all results from the grades, as `result` and names that begin with it."""
    systems = made.judges(test, pool, answers, work)
    comparison, evaluations = made.agreement(test, systems)
    orders = made.orders(test, systems)
    cards = {}
    for name, system in {"adapter": ADAPTER, "base": ZERO_SHOT_TUNED}.items():
        judged = labels(systems[system])
        cards[name] = to_json(judge_card(test.qrels, judged, name=system))
    design = {
        "trained_on": "DL 2020 to 2022",
        "validation_queries": VALIDATING,
        "most_of_a_grade_and_query": EACH,
        "further_passages_of_a_query": PASSAGES,
        "teachers": TEACHERS,
    }
    about = {
        "caption": "figures over all graded pairs and 95% interval by query; alpha and bias are over valid answers",
        "design": design,
        "calibration_error": made.calibration(evaluations),
        "confusions": {name: asdict(evaluation.confusions["grades"]) for name, evaluation in evaluations.items()},
        "order_of_systems": {name: to_plain(asdict(order)) for name, order in orders.items()},
        "tuned": answers.tuned,
        "training": answers.training,
        "cards": cards,
    }
    save(result, comparison, about, module=module)
    print_comparison(comparison)
    runs, chosen = made.runs(test, pool, answers)
    ranked = made.reranking(runs, test.all_qrels)
    about = {"caption": "mean over queries and 95% interval", "chosen": chosen}
    save(f"{result}_rerank", ranked, about, module=module)
    print_comparison(ranked)
    for name, order in orders.items():
        print(f"{name}: Kendall's tau of {len(test.runs)} systems {order.tau.value:.2f}")


if __name__ == "__main__":
    main()
