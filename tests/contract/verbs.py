"""The verbs that compute adapters, as a table: each runs on a small shop with any engine, and returns what it found.

The contract tests compare a local engine with a server; `benchmarks/vllm_managed` compares it with vLLM. A new verb is
one more function in `VERBS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.eval.judgments.card import read_card, read_run_card
from searchlora.eval.policy import Policy
from searchlora.experiments.ablate import ablate
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.improve.command import improve
from searchlora.experiments.judge.command import judge
from searchlora.experiments.options import AblationOptions, TrainingOptions
from searchlora.experiments.promote import promote
from searchlora.experiments.run import run
from searchlora.experiments.tune import tune
from searchlora.files.yaml_text import parse_yaml
from searchlora.inference.engine import Request
from searchlora.inference.engines import make_engine
from searchlora.inference.sampling import Sampling
from searchlora.inference.settings import EngineSettings
from searchlora.models.resolve import BaseModel
from searchlora.pipelines.config import read_pipeline
from searchlora.pipelines.pipeline import Pipeline
from searchlora.task import GenerationTask, load_generation_task
from tests.factories import random_adapter_folder, write_jsonl
from tests.tasks.rag_answer.made import usual_rows

ROWS = 12

IMPROVING = (
    "optim.max_steps=4", "optim.batch_size=4", "lora.r=2", "method=lora", "precision=fp32", "max_new_tokens=8",
    "improve.rounds=2", "improve.samples=1", "improve.patience=2", "improve.min_reward=-1",
)  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A store with a rewriter, a judge and an answering adapter of random weights over a base, and data."""

    root: Path
    store: Store
    base: BaseModel

    @property
    def data(self) -> Path:
        return self.root / "data"


@dataclass(frozen=True)
class Outcome:
    """What a verb found on an engine.

    Attributes:
        outputs: What the engine wrote or chose, and what followed from it.
        scores: Probabilities and figures.
        engines: The engine that the verb's results name; empty for results that name none.
    """

    outputs: Sequence[Any]
    scores: Sequence[float] = ()
    engines: tuple[str, ...] = ()


Verb = Callable[[Shop, EngineSettings, Path], Outcome]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(root: Path) -> None:
    """Queries that are rewritten, documents to search in, judgments, and a dataset of all."""
    words = [f"kicks{letter}" for letter in "abcdefghijkl"]
    splits = ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
    rows = [
        {"id": f"r{n}", "group": f"g{n}", "query": f"red {word}", "rewrite": "red", "split": splits[n]}
        for n, word in enumerate(words)
    ]
    documents = [{"id": "shoe", "text": "red"}, *({"id": f"k{n}", "text": f"red {w}"} for n, w in enumerate(words))]
    write_rows(root / "docs.jsonl", documents)
    write_rows(root / "queries.jsonl", [{"id": row["id"], "query": row["query"]} for row in rows])
    (root / "qrels.txt").write_text("".join(f"r{n} 0 shoe 1\n" for n in range(ROWS)), encoding="utf-8")
    (root / "pairs.txt").write_text("".join(f"r{n} k{n}\nr{n} shoe\n" for n in range(ROWS)), encoding="utf-8")
    source = write_rows(root / "rows.jsonl", rows)
    collection = {"corpus": root / "docs.jsonl", "qrels": root / "qrels.txt"}
    build("rewriting", source, format="native", out=root / "data", **collection)
    options = {"missing": "0.6", "passages": "3", "gold": "1", "abstention": "No."}
    conversations = write_jsonl(root / "reference.jsonl", usual_rows())
    splits_of_answers = {"options": options, "split_ratios": (0.2, 0.7, 0.1)}
    build("rag_answer", conversations, format="mtrag", out=root / "answers", **splits_of_answers)


def made_shop(base: BaseModel, root: Path, spread: float = 0.3) -> Shop:
    """The shop in a new folder; the weights of its adapters have this standard deviation."""
    store = Store(root / "store")
    write_data(root)
    judging = load_generation_task("judgment")
    tasks: Mapping[str, GenerationTask] = {
        "rewriter": load_generation_task("rewriting"),
        "grader": judging.bound(judging.settings_of({"grades": "2"}, ())),
        "answerer": load_generation_task("rag_answer"),
    }
    for seed, (name, task) in enumerate(tasks.items(), 1):
        changes = ("precision=fp32", "max_new_tokens=10")
        made, recipe = random_adapter_folder(base, root / name, seed, changes, spread=spread)
        store_adapter(store, name, made, task=task, recipe=recipe, base=base)
    return Shop(root, store, base)


def evaluating(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    del out
    evaluated = evaluate("rewriter", shop.data, engine=engine, store=shop.store)
    outputs = [[system, *result.outputs] for system, result in evaluated.systems.items()]
    figures = [row.value for row in evaluated.comparison.rows if "per query" not in row.measure]  # not the time
    return Outcome(outputs, figures, evaluated.engines)


def promoting(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    promoted = promote("rewriter@1", f"at-{out.name}", Policy(), shop.data, engine=engine, store=shop.store)
    assert promoted.move.decision is not None
    return Outcome([promoted.results], (), tuple(promoted.move.decision.evidence["engines"]))


def judging_pairs(shop: Shop, engine: EngineSettings, out: Path, **judges: Any) -> Outcome:
    files = (shop.root / "queries.jsonl", shop.root / "docs.jsonl", out / "grades.txt")
    judges = judges or {"adapter": "grader"}
    judge(*files, pairs=shop.root / "pairs.txt", engine=engine, store=shop.store, **judges)
    card = read_card(out / "grades.txt")
    assert card is not None
    rows = (out / "grades.txt.probabilities.jsonl").read_text(encoding="utf-8").splitlines()
    scores = [value for row in map(json.loads, rows) for value in numbers(row)]
    return Outcome((out / "grades.txt").read_text(encoding="utf-8").splitlines(), scores, (str(card.engine),))


def judging_with_a_bare_base(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    """Its recipe is the task's, in bf16; the server computes in fp32, and so does another engine when told to."""
    if "precision" in type(engine).model_fields:
        engine = engine.model_copy(update={"precision": "fp32"})
    return judging_pairs(shop, engine, out, base=str(shop.base.path), task="judgment")


def running(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    files = [out / "run.trec", out / "run.jsonl"]
    config = read_pipeline("rewrite_bm25", ["adapter=rewriter"], engine)
    run(config, shop.root / "queries.jsonl", shop.root / "docs.jsonl", files, store=shop.store)
    card = read_run_card(files[0])
    assert card is not None
    return Outcome([line for file in files for line in file.read_text().splitlines()], (), card.engines)


def searching(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    del out
    config = read_pipeline("rewrite_bm25", ["adapter=rewriter"], engine)
    pipeline = Pipeline.load(config, corpus=shop.root / "docs.jsonl", store=shop.store)
    results = [pipeline.search(f"red kicks{letter}") for letter in "abcd"]
    return Outcome(results)


def ablating(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    config = read_pipeline("rewrite_bm25", ["adapter=rewriter"], engine)
    files = (shop.root / "queries.jsonl", shop.root / "qrels.txt", out)
    options = AblationOptions(measures=["MRR@10"])
    ablation = ablate(config, *files, options, corpus=shop.root / "docs.jsonl", store=shop.store)
    return Outcome([row.system for row in ablation.comparison.rows], [row.value for row in ablation.comparison.rows])


def tuning(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    config = read_pipeline("answers_judged", ("adapter=answerer", "judge=grader", "depth=3"), engine)
    tuned = dict(tune(config, shop.root / "answers", out / "tuned.yaml", store=shop.store).tuned)
    origin = tuned.pop("origin")
    assert "engine" not in parse_yaml((out / "tuned.yaml").read_bytes())
    return Outcome([tuned], numbers(tuned), tuple(origin["engines"]))


def improving(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    """With one sample for each row, the samples are equal, and with them all that follows."""
    options = TrainingOptions(IMPROVING, base=str(shop.base.path))
    stored = improve(None, shop.data, f"improved-{out.name}", options, engine=engine, store=shop.store)
    found = stored.manifest.training["improve"]
    rounds = [[each["candidates"], each["winners"], each["validation"]] for each in found["rounds"]]
    assert rounds[1][0]["valid"] is not None  # the second round has sampled from the first one's adapter
    return Outcome(rounds, (), (found["engine"],))


def sampling(shop: Shop, engine: EngineSettings, out: Path) -> Outcome:
    """The first of three different answers to each request."""
    del out
    asked = [
        Request(({"role": "user", "content": text},), "rewriter", 10, sampling=Sampling(1.0, seed=5))
        for text in ("red", "tent")
    ]
    made = make_engine(engine, shop.base, shop.store, precision="fp32")
    answers = made.generate_answers(asked, 3)
    made.close()
    assert [len({answer.text for answer in of_request}) for of_request in answers] == [3, 3]
    return Outcome([of_request[0].text for of_request in answers])


def numbers(value: Any) -> list[float]:
    """The numbers in a structure of mappings and lists, in order."""
    if isinstance(value, Mapping):
        return [number for part in value.values() for number in numbers(part)]
    if isinstance(value, list | tuple):
        return [number for part in value for number in numbers(part)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


VERBS: Mapping[str, Verb] = {
    "evaluate": evaluating,
    "promote": promoting,
    "judge": judging_pairs,
    "judge with a bare base": judging_with_a_bare_base,
    "run": running,
    "search": searching,
    "ablate": ablating,
    "tune": tuning,
    "improve": improving,
    "several answers": sampling,
}
