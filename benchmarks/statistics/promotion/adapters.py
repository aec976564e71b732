"""Inputs of the study: the synthetic shop, its dataset, five versions of a rewriter, and a circular judge."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch

from searchlora.adapters.operations import Origin, store_adapter
from searchlora.adapters.peft_folder import factors, read_config, read_weights, write_folder
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.progress import Steps
from searchlora.recipe import parse_recipe
from searchlora.shop import make_shop
from searchlora.task import load_task

NAME, JUDGE = "shop-rewriter", "shop-judge"
TASKS = Path(__file__).parent / "tasks"


def make(work: Path, steps: Steps) -> None:
    """Create missing inputs with the commands of the CLI."""
    store = Store(work / "store")
    for name, seed in (("shop", 13), ("shop-later", 14)):
        if not (work / name).is_dir():
            make_shop(work / name, seed=seed, progress=steps(f"Making {name}"))
            build("rewriting", work / name, format="shop", out=work / f"data-{name}", progress=steps("Building"))
    _versions(work, store, steps)
    _judge(work, store, steps)


def _versions(work: Path, store: Store, steps: Steps) -> None:
    """1 stopped early, 2 fully trained, 3 merges 2 with a little of 1, 4 hardly trained, 5 without plain queries."""
    data = work / "data-shop"
    rewriting = work / "data-rewriting-only"
    if not rewriting.is_dir():
        rows = [record for record in load_dataset(data).records("train") if record["kind"] not in ("plain", "code")]
        _write_lines(work / "rewriting-only.jsonl", rows)
        build("rewriting", work / "rewriting-only.jsonl", format="native", out=rewriting, split_ratios=(0.9, 0.1, 0.0))
    if len(store.versions(NAME)) == 5:
        return
    shutil.rmtree(store.root / NAME, ignore_errors=True)
    train(
        "rewriting",
        data,
        NAME,
        TrainingOptions(overrides=["optim.max_steps=40"], reuse=True),
        store=store,
        steps=steps,
        log=print,
    )
    train("rewriting", data, NAME, TrainingOptions(reuse=True), store=store, steps=steps, log=print)
    _store_sum(store, {f"{NAME}@2": 0.95, f"{NAME}@1": 0.05})
    _store_sum(store, {f"{NAME}@1": 0.2, f"{NAME}@2": 0.0})
    train("rewriting", rewriting, NAME, TrainingOptions(reuse=True), store=store, steps=steps, log=print)


def _store_sum(store: Store, weights: Mapping[str, float]) -> None:
    """Store the weighted sum of two versions as the next one; their ranks add up, and the weights are in A."""
    parents = [store.get(reference) for reference in weights]
    first = parents[0].manifest
    config, lora = read_config(parents[0].path), first.recipe["lora"]
    halves = [factors(read_weights(parent.path)) for parent in parents]
    tensors = {}
    for module in halves[0]:
        scale = lora["alpha"] / lora["r"]
        a = [half[module][0] * (weight * scale) for half, weight in zip(halves, weights.values(), strict=True)]
        tensors[f"{module}.lora_A.weight"] = torch.cat(a, dim=0)
        tensors[f"{module}.lora_B.weight"] = torch.cat([half[module][1] for half in halves], dim=1)
    rank = lora["r"] * len(parents)
    recipe = parse_recipe({**first.recipe, "lora": {**lora, "r": rank, "alpha": rank}})
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), {**config, "r": rank, "lora_alpha": rank}, tensors)
        store_adapter(
            store,
            NAME,
            Path(folder),
            task=load_task(first.task).bound(first.settings),
            recipe=recipe,
            base=first.base.resolve(),
            origin=Origin(training={"weights": list(weights.values())}, parents=list(weights)),
        )


def _judge(work: Path, store: Store, steps: Steps) -> None:
    """A judge trained on the queries of the test split."""
    dataset = load_dataset(work / "data-shop")
    texts = {document.id: document.text for document in dataset.documents() or ()}
    qrels, test_records = dataset.qrels() or {}, dataset.records("test")
    _write_lines(work / "topics.jsonl", [{"id": record["id"], "query": record["query"]} for record in test_records])
    best = {topic: max(grades, key=grades.__getitem__) for topic, grades in qrels.items()}
    judged = [record for record in test_records if record["id"] in best]
    rows: list[dict[str, object]] = []
    for record, other in pairwise(judged):
        for answer, document in (("yes", best[record["id"]]), ("no", best[other["id"]])):
            if answer == "yes" or document not in qrels[record["id"]]:
                row = {"id": f"{record['id']}-{answer}", "group": record["id"], "query": record["query"]}
                rows.append({**row, "product": texts[document], "answer": answer})
    _write_lines(work / "judge.jsonl", rows)
    if not store.versions(JUDGE):
        shutil.rmtree(work / "data-judge", ignore_errors=True)
        build(load_task("fit", TASKS), work / "judge.jsonl", format="native", out=work / "data-judge", on_leak="drop")
        train(
            "fit",
            work / "data-judge",
            JUDGE,
            TrainingOptions(restart=True),
            store=store,
            tasks=TASKS,
            steps=steps,
        )


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
