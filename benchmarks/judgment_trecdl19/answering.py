"""Training of the adapter and grading of all passages; datasets, adapter and grades are stored and reused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import training_figures
from benchmarks.judges import BASE, from_graded, graded
from benchmarks.judgment_trecdl19.pools import Pair, Pool, training_set, validation_topics
from searchlora.adapters.store import Store
from searchlora.experiments.judge.llm_judge import load_judge
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.files import atomic_text
from searchlora.outputs import to_json
from searchlora.progress import Steps
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.encoding import normalised

NAME = "dl19-judge"
RECIPE = Path(__file__).parent / "recipe.yaml"

#: Of bases other than that of the recipe: at its learning rate, Qwen2.5-Coder-0.5B learns nothing, and in a whole epoch
#: it learns the training queries by heart.
LARGER = ("optim.learning_rate=0.0002", "optim.max_steps=160", "validation.every_steps=80")

#: An encoder that was trained on web search: a rule beside the adapter, and a second opinion to it.
ENCODER = "all-minilm-l6-v2"


@dataclass(frozen=True)
class Answers:
    """Outputs before tuned values are applied.

    Attributes:
        adapter, base: Id of a pair -> output, of the test pool and of the validation queries.
        cosines: Id of a pair -> cosine of query and passage by `ENCODER`.
        tuned: The values tuned on the validation queries.
        training: Name of the adapter -> rows, steps, tokens, seconds.
    """

    adapter: Mapping[str, Any]
    base: Mapping[str, Any]
    cosines: Mapping[str, float]
    tuned: Mapping[str, Any]
    training: Mapping[str, Mapping[str, Any]]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        stored = {
            name: {id_: to_json(grade) for id_, grade in getattr(self, name).items()} for name in ("adapter", "base")
        }
        rest = {"cosines": self.cosines, "tuned": self.tuned, "training": self.training}
        with atomic_text(path) as out:
            json.dump({**stored, **rest}, out)

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Read what `save` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        rest = {name: stored[name] for name in ("cosines", "tuned", "training")}
        return cls(from_graded(stored["adapter"]), from_graded(stored["base"]), **rest)


def answer(test: Pool, pool: Pool, work: Path, steps: Steps, base: str | None = None) -> Answers:
    """Train the adapter on the recipe's base or another one, and grade the pools with both; what exists is reused."""
    data = work / "training"
    stored = train(
        "judgment",
        training_set(pool, data).folder,
        NAME,
        TrainingOptions(() if base is None else LARGER, base, RECIPE, reuse=True),
        store=Store(work / "store"),
        steps=steps,
        log=print,
    )
    held_out = validation_topics(pool)
    store = Store(work / "store")
    judge = load_judge(adapter=stored.reference, base=None, task=None, generate=False, store=store)
    bare = load_judge(adapter=None, base=base or BASE, task="judgment", generate=False, store=store, settings=data)
    parts = [(pool, pairs_of(pool, held_out)), (test, pairs_of(test, list(test.queries)))]
    outputs: dict[str, dict[str, Any]] = {"adapter": {}, "base": {}}
    for name, model in (("adapter", judge), ("base", bare)):
        folder = work / "graded" / (stored.reference if name == "adapter" else "base")
        for part, pairs in parts:
            outputs[name] |= from_graded(graded(model, [part.record(pair) for pair in pairs], folder, steps))
    encoder, found = Encoder.load(ENCODER), dict[str, float]()
    for part, pairs in parts:
        found |= cosines(encoder, part, pairs, steps)
    training = {stored.reference: training_figures(stored)}
    return Answers(outputs["adapter"], outputs["base"], found, stored.manifest.tuned, training)


def cosines(encoder: Encoder, pool: Pool, pairs: Sequence[Pair], steps: Steps) -> dict[str, float]:
    """The cosine of query and passage of each pair, by its id."""
    topics, documents = dict.fromkeys(topic for topic, _ in pairs), dict.fromkeys(document for _, document in pairs)
    of_passages = encoder.encode_documents(
        [pool.passages[document] for document in documents], progress=steps("Encoding")
    )
    vectors = dict(zip(documents, normalised(of_passages), strict=True))
    queries = dict(zip(topics, normalised(encoder.encode([pool.queries[topic] for topic in topics])), strict=True))
    return {f"{topic} {document}": float(queries[topic] @ vectors[document]) for topic, document in pairs}


def pairs_of(pool: Pool, topics: Sequence[str]) -> list[Pair]:
    """The graded pairs and the BM25 passages of topics, each once."""
    return list(dict.fromkeys([*pool.judged(topics), *pool.retrieved(topics)]))
