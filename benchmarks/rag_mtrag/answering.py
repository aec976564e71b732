"""Training of the adapters and answering of every row; adapters and answers are stored and reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, merged_base
from benchmarks.judgment_trecdl19.warm import warm_adapter
from benchmarks.rag_mtrag.data import FOLDS, SETTINGS, TASK, MtRag, Record
from benchmarks.rag_mtrag.warm import warm_dataset
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.data.dataset import Dataset
from searchlora.experiments.train import train_or_reuse
from searchlora.inference.local import LocalEngine
from searchlora.models.resolve import resolve
from searchlora.outputs import from_json, to_json
from searchlora.pipelines.stages import AdapterStage
from searchlora.progress import Progress, Steps
from searchlora.prompts import messages
from searchlora.recipe import load_recipe
from searchlora.task import PromptedTask, load_prompted_task

HERE = Path(__file__).parent
WARM, NAME = "mtrag-warm", "mtrag-answers"

#: Rows per batch; answers are written to disk after each batch.
BATCH = 16


@dataclass(frozen=True)
class Answers:
    """Outputs, and the training behind them.

    Attributes:
        adapter, base: Row id -> output; the adapter of a row was not trained on its group.
        baselines: Name -> id -> output; thresholds are fitted on the training rows of each fold.
        training: Name of each adapter -> rows, steps, tokens, seconds.
    """

    adapter: Mapping[str, Any]
    base: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Mapping[str, Any]]


def answer(mtrag: MtRag, data: Path, work: Path, steps: Steps) -> Answers:
    """Train missing adapters and answer unanswered rows."""
    store = Store(work / "store")
    task = load_prompted_task(TASK)
    task = task.bound(task.settings_of(SETTINGS, ()))
    longest = load_recipe(task.default_recipe, None, ()).max_new_tokens
    relevance = warm_adapter(data, WORK / "judgment_trecdl19", steps)
    squad = warm_dataset(data, work / "warm")
    warm = _trained(WARM, squad, "warm.yaml", merged_base(relevance, work / "merged"), store, steps)
    first = merged_base(warm, work / "merged")
    training = {each.reference: _about(each) for each in (relevance, warm)}
    adapter, baselines = dict[str, Any](), dict[str, dict[str, Any]]()
    engine = LocalEngine(resolve(str(first)), store)
    for fold in range(FOLDS):
        dataset = mtrag.dataset(fold, work / f"fold{fold + 1}")
        stored = _trained(f"{NAME}-{fold + 1}", dataset, "fold.yaml", first, store, steps)
        training[stored.reference] = _about(stored)
        test_rows = mtrag.test(fold)
        bound = task.bound(stored.manifest.settings, stored.manifest.tuned)
        progress = steps(f"Answering: {stored.reference}")
        adapter |= _asked(bound, engine, stored.reference, test_rows, work / "answers", longest, progress)
        for name, outputs in task.baselines(test_rows, dataset.folder).items():
            of_fold = {row["id"]: output for row, output in zip(test_rows, outputs, strict=True)}
            baselines[name] = {**baselines.get(name, {}), **of_fold}
    test_rows = [row for fold in range(FOLDS) for row in mtrag.test(fold)]
    engine = LocalEngine(resolve(relevance.manifest.base.name), store)
    base = _asked(task, engine, None, test_rows, work / "answers", longest, steps("Answering: base zero-shot"))
    return Answers(adapter, base, baselines, training)


def _trained(name: str, dataset: Dataset, recipe: str, base: Path, store: Store, steps: Steps) -> StoredAdapter:
    settings = (f"base={base}",)
    return train_or_reuse(
        TASK, dataset.folder, name, recipe=HERE / recipe, overrides=settings, store=store, steps=steps
    )


def _asked(
    task: PromptedTask,
    engine: LocalEngine,
    adapter: str | None,
    records: Sequence[Record],
    folder: Path,
    longest: int,
    progress: Progress,
) -> dict[str, Any]:
    """The outputs by id; stored outputs for the same prompts are reused."""
    stage, file = AdapterStage(task, engine, adapter, longest), folder / f"{adapter or 'base'}.jsonl"
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
