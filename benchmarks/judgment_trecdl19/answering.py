"""Training of the adapter and grading of all passages; datasets, adapter and grades are stored and reused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judgment_trecdl19.pools import Pair, Pool, training_set, validation_topics
from benchmarks.judgment_trecdl19.warm import squad_set
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.eval.text_identity import fingerprint
from searchlora.experiments.judge.grade_records import grade_records
from searchlora.experiments.judge.llm_judge import Judge, load_judge
from searchlora.experiments.train import train_or_reuse
from searchlora.files import atomic_text
from searchlora.outputs import from_json, to_json
from searchlora.progress import Steps
from searchlora.retrieval.encoder import Encoder, Vectors

BASE = "smollm2-135m-instruct-q4_1"
NAME = "dl19-judge"
RECIPE = Path(__file__).parent / "recipe.yaml"

#: An encoder that was trained on web search: a rule beside the adapter, and a second opinion to it.
ENCODER = "all-minilm-l6-v2"

#: SQuAD questions with three pairs each, and the weight of their rows.
QUESTIONS, WEIGHT = 1500, 0.5


@dataclass(frozen=True)
class Answers:
    """Outputs before tuned values are applied.

    Attributes:
        adapter, base: Id of a pair -> output, of the test pool and of the validation queries.
        cosines: Id of a pair -> cosine of query and passage by `ENCODER`.
        tuned: The values tuned on the validation queries.
        training: Name of the adapter -> rows, steps, tokens, seconds.
        share: The share of the training rows that was used.
    """

    adapter: Mapping[str, Any]
    base: Mapping[str, Any]
    cosines: Mapping[str, float]
    tuned: Mapping[str, Any]
    training: Mapping[str, Mapping[str, Any]]
    share: float = 1.0

    def save(self, path: Path) -> None:
        """Write as JSON."""
        stored = {
            name: {id_: to_json(each) for id_, each in getattr(self, name).items()} for name in ("adapter", "base")
        }
        rest = {"cosines": self.cosines, "tuned": self.tuned, "training": self.training, "share": self.share}
        with atomic_text(path) as out:
            json.dump({**stored, **rest}, out)

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Read what `save` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        outputs = {name: {id_: from_json(each) for id_, each in stored[name].items()} for name in ("adapter", "base")}
        rest = {name: stored[name] for name in ("cosines", "tuned", "training", "share")}
        return cls(outputs["adapter"], outputs["base"], **rest)


def trained(pool: Pool, data: Path, work: Path, steps: Steps, share: float, overrides: Sequence[str]) -> StoredAdapter:
    """The adapter, trained on DL 2020 without its validation queries, and on SQuAD; reused, or resumed if interrupted.

    Args:
        share: The share of the training rows that is used.
        overrides: Recipe settings `key=value`, for experiments on the validation queries.
    """
    suffix = "" if share == 1 else f"-{share:g}"
    own = training_set(pool, work / f"dl20{suffix}", share)
    squad = squad_set(data, work / f"squad{suffix}", round(QUESTIONS * share))
    settings = f"-{fingerprint(' '.join(overrides)) % 16**6:06x}" if overrides else ""
    return train_or_reuse(
        "judgment",
        own.folder,
        f"{NAME}{suffix}{settings}",
        recipe=RECIPE,
        overrides=overrides,
        more_data={str(squad.folder): WEIGHT},
        store=Store(work / "store"),
        steps=steps,
    )


def answer(test: Pool, pool: Pool, stored: StoredAdapter, work: Path, steps: Steps, share: float) -> Answers:
    """Grade the pools with adapter and base; graded pairs are reused."""
    held_out = validation_topics(pool)
    store = Store(work / "store")
    judge = load_judge(adapter=stored.reference, base=None, task=None, generate=False, store=store)
    settings = work / ("dl20" if share == 1 else f"dl20-{share:g}")
    bare = load_judge(adapter=None, base=BASE, task="judgment", generate=False, store=store, settings=settings)
    parts = [(pool, pairs_of(pool, held_out)), (test, pairs_of(test, list(test.queries)))]
    outputs: dict[str, dict[str, Any]] = {"adapter": {}, "base": {}}
    for name, each in (("adapter", judge), ("base", bare)):
        folder = work / "graded" / (stored.reference if name == "adapter" else "base")
        for part, pairs in parts:
            outputs[name] |= graded(each, part, pairs, folder, steps)
    encoder, found = Encoder.load(ENCODER), dict[str, float]()
    for part, pairs in parts:
        found |= cosines(encoder, part, pairs, steps)
    about = {key: stored.manifest.training[key] for key in ("rows", "steps", "tokens", "seconds")}
    return Answers(outputs["adapter"], outputs["base"], found, stored.manifest.tuned, {stored.reference: about}, share)


def cosines(encoder: Encoder, pool: Pool, pairs: Sequence[Pair], steps: Steps) -> dict[str, float]:
    """The cosine of query and passage of each pair, by its id."""
    topics, documents = dict.fromkeys(topic for topic, _ in pairs), dict.fromkeys(document for _, document in pairs)
    of_passages = encoder.encode_documents([pool.passages[each] for each in documents], progress=steps("Encoding"))
    vectors = dict(zip(documents, _unit(of_passages), strict=True))
    queries = dict(zip(topics, _unit(encoder.encode([pool.queries[each] for each in topics])), strict=True))
    return {f"{topic} {document}": float(queries[topic] @ vectors[document]) for topic, document in pairs}


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def pairs_of(pool: Pool, topics: Sequence[str]) -> list[Pair]:
    """The graded pairs and the BM25 passages of topics, each once."""
    return list(dict.fromkeys([*pool.judged(topics), *pool.retrieved(topics)]))


def graded(judge: Judge, pool: Pool, pairs: Sequence[Pair], folder: Path, steps: Steps) -> dict[str, Any]:
    """The outputs by id, before tuned values are applied."""
    plain = replace(judge, task=judge.task.bound(judge.task.settings))
    records = [pool.record(pair) for pair in pairs]
    outputs = grade_records(plain, records, folder, steps(f"Grading: {judge.reference}"))
    return {record["id"]: output for record, output in zip(records, outputs, strict=True)}
