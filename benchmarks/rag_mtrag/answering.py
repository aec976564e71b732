"""Training of the adapters, grading and answering of every row; adapters, grades and answers are stored and reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rag_mtrag.data import FOLDS, SETTINGS, TASK, MtRag, Record, fold_of
from benchmarks.rag_mtrag.embedder import MODEL, embedders
from benchmarks.rag_mtrag.grading import graded
from benchmarks.rag_mtrag.judge import question_judge
from benchmarks.rag_mtrag.squad_rows import squad_rows
from benchmarks.rag_mtrag.variants import Judge, Written, generated, quoted
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.experiments.train import train_or_reuse
from searchlora.inference.local import LocalEngine
from searchlora.outputs import CitedAnswer, InvalidOutput, from_json, to_json
from searchlora.pipelines.stages.adapter import AdapterSettings, AdapterStage
from searchlora.pipelines.stages.similarity import SimilaritySettings
from searchlora.progress import Progress, Steps
from searchlora.prompts import messages
from searchlora.recipe import load_recipe
from searchlora.task import GenerationTask, load_prompted_task
from searchlora.tasks.rag_answer.baselines import fitted_baselines

HERE = Path(__file__).parent
NAME = "mtrag-answers"

#: Rows per batch; answers are written to disk after each batch.
BATCH = 16

#: A rule under which no answer is an abstention, so that every row is answered once for all variants.
ALWAYS = {"abstain": {"by": "answer", "from": 2.0}}


#: The systems that are compared with all others: with answers that an adapter wrote, and with quotations.
ADAPTER, QUOTED = "adapter", "adapter, quoting"

#: Systems whose answers the answering adapters write -> judge, who abstains, who cites.
GENERATED: Mapping[str, tuple[str, str, str]] = {
    "adapter, own score": ("embedder", "answer", "answer"),
    "adapter, LLM judge": ("judge", "judge", "judge"),
    "adapter, encoder abstains": ("embedder", "judge", "answer"),
    "adapter, encoder abstains, support cites": ("embedder", "judge", "support"),
    "adapter, encoder and own score": ("embedder", "both", "judge"),
    ADAPTER: ("embedder", "judge", "judge"),
}


@dataclass(frozen=True)
class Answers:
    """Outputs, and what is behind them.

    Attributes:
        outputs: System -> row id -> output. No adapter of a row was trained on its group, and no threshold was fitted
            on a row of its fold.
        rules: Judge -> for each fold, the fitted rules.
        training: Name of each adapter -> rows, steps, tokens, seconds.
    """

    outputs: Mapping[str, Mapping[str, Any]]
    rules: Mapping[str, Sequence[Mapping[str, Any]]]
    training: Mapping[str, Mapping[str, Any]]


def answer(mtrag: MtRag, data: Path, work: Path, steps: Steps, *, llm: bool = True) -> Answers:
    """Train missing adapters, and grade and answer what was not yet.

    Args:
        llm: False: only what needs no LLM, which are the rules, the encoders, and quotations.
    """
    store = Store(work / "store")
    task = load_prompted_task(TASK)
    task = task.bound(task.settings_of(SETTINGS, ()))
    outputs: dict[str, Mapping[str, Any]] = {**_rules_of_folds(mtrag, str(task.settings["abstention"]))}
    adapters = embedders(mtrag, work, store, steps)
    training: dict[str, Mapping[str, Any]] = {each.reference: _about(each) for each in adapters}
    plain = graded(mtrag.official, SimilaritySettings(model=MODEL), store, work / "grades", steps("Encoding"))
    judges = {"MiniLM": Judge.of_all_folds(plain), "embedder": _held_out(mtrag, adapters, store, work, steps)}
    if llm:
        judge = question_judge(data, work, store, steps)
        training[judge.reference] = _about(judge)
        settings = AdapterSettings(name=judge.reference)
        rows = graded(mtrag.official, settings, store, work / "grades", steps("Judging"))
        judges["judge"] = Judge.of_all_folds(rows)
    rules = dict[str, Sequence[Mapping[str, Any]]]()
    quoting = {"MiniLM": "MiniLM, quoting", "embedder": QUOTED, "judge": "adapter, LLM judge, quoting"}
    for name, each in judges.items():
        outputs[quoting[name]], rules[name] = quoted(task, each)
    if llm:
        longest = load_recipe(task.default_recipe, None, ()).max_new_tokens
        engine = LocalEngine(judge.manifest.base.resolve(), store)
        written = _written(mtrag, data, work, task, engine, store, longest, training, steps)
        outputs["base zero-shot"] = _asked(
            task, engine, None, mtrag.official, work / "answers", longest, steps("Answering: base zero-shot")
        )
        for name, (by, abstain, cite) in GENERATED.items():
            outputs[name] = generated(task, judges[by], written, abstain=abstain, cite=cite)
    return Answers(outputs, rules, training)


def _held_out(mtrag: MtRag, adapters: Sequence[StoredAdapter], store: Store, work: Path, steps: Steps) -> Judge:
    """The embedding adapters as judges; the thresholds of a fold are fitted on its validation rows."""
    fits = [mtrag.validation(fold) for fold in range(FOLDS)]
    rows = []
    for fold, adapter in enumerate(adapters):
        needed = [row for row in mtrag.official if fold_of(row) == fold or row["id"] in fits[fold]]
        settings = SimilaritySettings(model=MODEL, adapter=adapter.reference)
        rows.append(graded(needed, settings, store, work / "grades", steps(f"Encoding: {adapter.reference}")))
    return Judge(rows, fits)


def _rules_of_folds(mtrag: MtRag, abstention: str) -> dict[str, dict[str, Any]]:
    """The task's baselines; their threshold is fitted on the rows of the other folds."""
    found: dict[str, dict[str, Any]] = {}
    for fold in range(FOLDS):
        test_rows = mtrag.test(fold)
        for name, outputs in fitted_baselines(test_rows, mtrag.training(fold), abstention).items():
            of_fold = {row["id"]: output for row, output in zip(test_rows, outputs, strict=True)}
            found[name] = {**found.get(name, {}), **of_fold}
    return found


def _written(
    mtrag: MtRag,
    data: Path,
    work: Path,
    task: GenerationTask,
    engine: LocalEngine,
    store: Store,
    longest: int,
    training: dict[str, Mapping[str, Any]],
    steps: Steps,
) -> Written:
    own, text = dict[str, float](), dict[str, str | InvalidOutput]()
    validation, tuned = [], []
    more = squad_rows(data)
    for fold in range(FOLDS):
        dataset = mtrag.dataset(fold, work / f"fold{fold + 1}", more)
        stored = _trained(f"{NAME}-{fold + 1}", dataset, "fold.yaml", engine, store, steps)
        training[stored.reference] = _about(stored)
        bound = task.bound(stored.manifest.settings, {**stored.manifest.tuned, **ALWAYS})
        progress = steps(f"Answering: {stored.reference}")
        answered = _asked(bound, engine, stored.reference, mtrag.test(fold), work / "answers", longest, progress)
        for id_, output in answered.items():
            text[id_] = output if isinstance(output, InvalidOutput) else output.text
        rows = [*mtrag.test(fold), *dataset.records("validation")]
        scores = _scores(bound, engine, stored.reference, rows, work / "scores", steps("Scoring"))
        own |= {row["id"]: scores[row["id"]] for row in mtrag.test(fold)}
        validation.append({row["id"]: scores[row["id"]] for row in dataset.records("validation")})
        tuned.append(dict(stored.manifest.tuned))
    return Written(own, text, validation, tuned)


def _scores(
    task: GenerationTask,
    engine: LocalEngine,
    adapter: str,
    records: Sequence[Record],
    folder: Path,
    progress: Progress,
) -> dict[str, float]:
    """The probability of the abstention by id."""
    outputs = _asked(task, engine, adapter, records, folder, 1, progress, continue_after_choice=False)
    return {
        id_: output.abstention_probability
        for id_, output in outputs.items()
        if isinstance(output, CitedAnswer) and output.abstention_probability is not None
    }


def _trained(
    name: str, dataset: Dataset, recipe: str, engine: LocalEngine, store: Store, steps: Steps
) -> StoredAdapter:
    settings = (f"base={engine.base.name}",)
    return train_or_reuse(
        TASK, dataset.folder, name, recipe=HERE / recipe, overrides=settings, store=store, steps=steps
    )


def _asked(
    task: GenerationTask,
    engine: LocalEngine,
    adapter: str | None,
    records: Sequence[Record],
    folder: Path,
    longest: int,
    progress: Progress,
    *,
    rest: bool = True,
) -> dict[str, Any]:
    """The outputs by id; stored outputs for the same prompts are reused."""
    stage, file = (
        AdapterStage(task, engine, adapter, longest, continue_after_choice=rest),
        folder / f"{adapter or 'base'}.jsonl",
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    _end_line(file)
    prompts = {row["id"]: _hash(stage, row) for row in records}
    known = {id_: output for id_, prompt, output in _lines(file) if prompts.get(id_) == prompt}
    missing = [row for row in records if row["id"] not in known]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        outputs = stage.ask(batch)
        with file.open("a", encoding="utf-8") as out:
            for row, output in zip(batch, outputs, strict=True):
                line = {"id": row["id"], "prompt": prompts[row["id"]], "output": to_json(output)}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
        known |= {row["id"]: output for row, output in zip(batch, outputs, strict=True)}
        progress(len(known), len(records))
    return {row["id"]: known[row["id"]] for row in records}


def _end_line(file: Path) -> None:
    """End an incomplete line that an interrupted run may have left."""
    if file.is_file() and not file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as out:
            out.write("\n")


def _lines(file: Path) -> Iterator[tuple[str, str, Any]]:
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                yield entry["id"], entry["prompt"], from_json(entry["output"])
            except (ValueError, KeyError):
                continue  # incomplete line: its row is answered again


def _hash(stage: AdapterStage, record: Record) -> str:
    chat = [dict(message) for message in messages(stage.task, record)]
    return hashlib.sha256(json.dumps([chat, stage.max_new_tokens]).encode()).hexdigest()[:16]


def _about(stored: StoredAdapter) -> dict[str, Any]:
    return {key: stored.manifest.training[key] for key in ("rows", "steps", "tokens", "seconds")}
