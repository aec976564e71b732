"""Answers to MT-RAG that an adapter writes, beside quoting.

    python -m benchmarks.rag_written                                              the base of the recipes
    python -m benchmarks.rag_written "Qwen2.5-Coder-0.5B=FOLDER/qwen2.5-coder-0.5b-instruct-q8_0.gguf"   another base

Rows, folds and passages are those of `benchmarks.rag_mtrag`. For each fold an adapter learns from the answerable rows
of the other folds to write the reference answer from its gold passages. Every system abstains, and chooses the passages
to cite, by the same cosines of MiniLM with thresholds from the other folds; an adapter sees only the passages to
cite. So only the texts of the answers differ. Each adapter is measured as it writes, without the sentences
that its passages do not support (`keep: support`), and with the quotations after them that say something else
(`add: quotes`). Adapters and answers in `benchmarks/work/rag_written` are reused, and the results file keeps the
figures of bases that are not asked for, so the bases can be run on several machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, native_dataset, parser, real_data, save, training_figures
from benchmarks.judges import answered
from benchmarks.rag_mtrag.__main__ import ENCODER, evaluated, quoted
from benchmarks.rag_mtrag.data import FOLDS, SETTINGS, TASK, VALIDATING, MtRag, validates
from benchmarks.rag_mtrag.embedder import MODEL
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import compare
from searchlora.eval.evaluation import Evaluation
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.task_model import load_task_model
from searchlora.experiments.train import train
from searchlora.outputs import CitedAnswer, InvalidOutput
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import load_generation_task
from searchlora.tasks.rag_answer.baselines import graded
from searchlora.tasks.rag_answer.citations import cited_sentences, joined, reference_sentences, titled
from searchlora.tasks.rag_answer.deciding import relevances, relevant_passages, supported_only, with_quotations
from searchlora.tasks.rag_answer.task import RagAnswerTask

NAME, DEFAULT = "rag_written", "SmolLM2-135M"
FOLDER, RECIPE = WORK / NAME, Path(__file__).parent / "recipe.yaml"

#: Number of words shown of each passage: twice as many as to an adapter that sees all three.
SHOWN = {"words": "280"}

#: Of bases other than that of the recipes, which learn a few hundred answers by heart at its learning rate.
LARGER = ("optim.learning_rate=0.0002", "optim.epochs=2")

#: The one measure that is tested: what a written answer should gain over a quoted one. All systems abstain and cite by
#: the same rules.
LIKENESS = "token F1"

#: A longer answer shares more words with a reference: shown is also what quoting gains by this many more sentences.
MORE = (1, 2, 3)


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("bases", nargs="*", metavar="NAME=PATH", help="bases in place of that of the recipes")
    bases: dict[str, str | None] = {DEFAULT: None}
    if given := arguments.parse_args().bases:
        bases = dict(base.split("=", 1) for base in given)
    mtrag, store = MtRag.read(real_data()), Store(FOLDER / "store")
    task = load_generation_task(TASK)
    task = task.bound(task.settings_of(SETTINGS, ()))
    abstention = str(task.settings["abstention"])
    encode = FrozenEncoder(MODEL).encode_once
    others = [mtrag.others(fold) for fold in range(FOLDS)]
    outputs = dict[str, Mapping[str, Any]]()
    outputs[ENCODER], rules = quoted(task, mtrag.official, [encode] * FOLDS, others)
    adapters: dict[str, list[StoredAdapter]] = {}
    with progress_bars() as steps:
        for name, path in bases.items():
            adapters[name] = [_trained(name, path, mtrag, fold, store, steps) for fold in range(FOLDS)]
            by_id: dict[str, Any] = {}
            for fold, adapter in enumerate(adapters[name]):
                rows = graded(mtrag.test(fold), encode)
                found = _written(adapter, rules[fold], rows, store, FOLDER / "answers" / adapter.manifest.name, steps)
                by_id |= {row["id"]: output for row, output in zip(rows, found, strict=True)}
            outputs[f"{name}, written"] = by_id
            outputs[f"{name}, supported"] = {
                row["id"]: _supported(by_id[row["id"]], row, abstention) for row in mtrag.official
            }
            outputs[f"{name}, supported, then quoted"] = {
                row["id"]: _then_quoted(outputs[f"{name}, supported"][row["id"]], outputs[ENCODER][row["id"]])
                for row in mtrag.official
            }
    evaluations = {name: evaluated(task, mtrag.official, of_rows) for name, of_rows in outputs.items()}
    comparison = compare(
        {name: replace(each, headline=LIKENESS, tested=(LIKENESS,)) for name, each in evaluations.items()},
        candidate=ENCODER,
    )
    longer = {
        more: evaluated(task, mtrag.official, quoted(task, mtrag.official, [encode] * FOLDS, others, more)[0])
        for more in MORE
    }
    save(NAME, comparison, _about(adapters, rules, longer), keep=True)
    print_comparison(comparison)


def answers(mtrag: MtRag, fold: int) -> list[Mapping[str, Any]]:
    """The answerable rows from which the adapter of a fold learns: the whole reference, from the gold passages."""
    return [
        {
            **row,
            "passages": (gold := [passage for passage in row["passages"] if passage["id"] in row["gold"]]),
            "answer": joined(
                cited_sentences(
                    reference_sentences(row["reference"]),
                    {number: titled(passage) for number, passage in enumerate(gold, 1)},
                )
            ),
            "split": "validation" if validates(row, f"validation {fold}", VALIDATING) else "train",
        }
        for row in mtrag.training(fold)
        if row["answerable"]
    ]


def _trained(name: str, path: str | None, mtrag: MtRag, fold: int, store: Store, steps: Steps) -> StoredAdapter:
    data = native_dataset(FOLDER / "data" / f"fold{fold + 1}", TASK, answers(mtrag, fold), options=SHOWN)
    options = TrainingOptions(base=path, recipe=RECIPE, overrides=() if path is None else LARGER, reuse=True)
    return train(TASK, data.folder, f"{name}-{fold + 1}".lower(), options, store=store, steps=steps, log=print)


def _written(
    adapter: StoredAdapter,
    rules: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    store: Store,
    folder: Path,
    steps: Steps,
) -> list[Any]:
    """The answers of an adapter where the rules do not abstain, from the passages that they cite."""
    model = load_task_model(adapter=adapter.reference, base=None, task=None, generate=False, store=store)
    decided = {key: rules[key] for key in ("abstain", "cite")}
    model = replace(model, task=_OfCitedPassages().bound(model.task.settings, decided))
    hidden = ("answer", "reference", "gold", "answerable")
    asked = [{key: value for key, value in row.items() if key not in hidden} for row in rows]
    return answered(model, asked, folder, steps(f"Answering: {adapter.reference}"))


class _OfCitedPassages(RagAnswerTask):
    """The task with a prompt that has only the passages that the judge cites."""

    def fields(self, record: Record) -> Mapping[str, Any]:
        numbers = relevant_passages(relevances(record) or (), self.tuned["cite"]["from"])
        return super().fields({**record, "passages": [record["passages"][number - 1] for number in numbers]})


def _supported(output: Any, row: Mapping[str, Any], abstention: str) -> Any:
    """The output as by the rule `keep: support`."""
    return output if isinstance(output, InvalidOutput) else supported_only(output, row, abstention)


def _then_quoted(written: Any, quoted: CitedAnswer) -> CitedAnswer:
    """The output as by the rule `add: quotes`."""
    return quoted if isinstance(written, InvalidOutput) else with_quotations(written, quoted)


def _about(
    adapters: Mapping[str, Sequence[StoredAdapter]],
    rules: Sequence[Mapping[str, Any]],
    longer: Mapping[int, Evaluation],
) -> dict[str, Any]:
    return {
        "caption": "token F1 and ROUGE-L over the answerable rows, words over those that all systems of a run answer, "
        "other figures over all; 95% interval by group",
        "what quoting learned for each fold": list(rules),
        "quoting more sentences": {
            f"{more} more": {name: each.figures()[name] for name in (LIKENESS, "words")}
            for more, each in longer.items()
        },
        "training": {each.reference: training_figures(each) for of_base in adapters.values() for each in of_base},
    }


if __name__ == "__main__":
    main()
