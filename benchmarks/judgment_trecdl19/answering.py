"""Training of the adapter and grading of all passages; datasets, adapter and grades are stored and reused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import WORK, training_figures
from benchmarks.judges import BASE, from_graded, graded
from benchmarks.judgment_trecdl19.made_queries import made_set
from benchmarks.judgment_trecdl19.pools import Pair, Pool, cosines, training_set, validation_topics
from searchlora.adapters.store import Store, StoredAdapter
from searchlora.experiments.judge.llm_judge import load_judge
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.files import atomic_text
from searchlora.outputs import to_json
from searchlora.progress import Steps
from searchlora.retrieval.encoder import Encoder

NAME = "dl19-judge"
RECIPE = Path(__file__).parent / "recipe.yaml"

#: Of bases other than that of the recipe: at its learning rate, Qwen2.5-Coder-0.5B learns nothing, and in a whole epoch
#: it learns the training queries by heart.
LARGER_RATE = "optim.learning_rate=0.0002"
LARGER = (LARGER_RATE, "optim.max_steps=160", "validation.every_steps=80")

#: Folder of the made queries, which all bases learn from.
MADE = "judgment_trecdl19_queries"

#: On made queries: the last step is kept, as no loss of grades says which is best, and nothing is tuned.
UNGRADED = ("validation.every_steps=100000", "validation.tune_rows=0")

#: After made queries, half an epoch is enough.
AFTER = ("optim.learning_rate=0.0003", "optim.max_steps=700", "validation.every_steps=175")

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


def answer(test: Pool, pool: Pool, work: Path, steps: Steps, base: str | None = None, *, made: bool = False) -> Answers:
    """Train the adapter on the recipe's base or another one, and grade the pools with both; what exists is reused.

    Args:
        made: Whether it learns from made queries first.
    """
    data, store, encoder = work / "training", Store(work / "store"), Encoder.load(ENCODER)
    before = _before(test, pool, store, encoder, steps, base) if made else []
    overrides = LARGER if base is not None else AFTER if made else ()
    stored = train(
        "judgment",
        training_set(pool, data).folder,
        NAME,
        TrainingOptions(overrides, base, RECIPE, start_from=before[-1].reference if made else None, reuse=True),
        store=store,
        steps=steps,
        log=print,
    )
    held_out = validation_topics(pool)
    judge = load_judge(adapter=stored.reference, base=None, task=None, generate=False, store=store)
    bare = load_judge(adapter=None, base=base or BASE, task="judgment", generate=False, store=store, settings=data)
    parts = [(pool, pairs_of(pool, held_out)), (test, pairs_of(test, list(test.queries)))]
    outputs: dict[str, dict[str, Any]] = {"adapter": {}, "base": {}}
    for name, model in (("adapter", judge), ("base", bare)):
        folder = work / "graded" / (stored.reference if name == "adapter" else "base")
        for part, pairs in parts:
            outputs[name] |= from_graded(graded(model, [part.record(pair) for pair in pairs], folder, steps))
    found: dict[str, float] = {}
    for part, pairs in parts:
        found |= cosines(encoder, part.queries, part.passages, pairs, steps)
    training = {each.reference: training_figures(each) for each in (*before, stored)}
    return Answers(outputs["adapter"], outputs["base"], found, stored.manifest.tuned, training)


def _before(
    test: Pool, pool: Pool, store: Store, encoder: Encoder, steps: Steps, base: str | None
) -> list[StoredAdapter]:
    """The writer of queries, and the adapter that orders passages of made queries as the encoder does."""
    writer, data = made_set(pool, test, WORK / MADE, encoder, steps)
    overrides = UNGRADED if base is None else (*UNGRADED, LARGER_RATE)
    options = TrainingOptions(overrides, base, RECIPE, reuse=True)
    return [writer, train("judgment", data.folder, f"{NAME}-ranking", options, store=store, steps=steps, log=print)]


def pairs_of(pool: Pool, topics: Sequence[str]) -> list[Pair]:
    """The graded pairs and the BM25 passages of topics, each once."""
    return list(dict.fromkeys([*pool.judged(topics), *pool.retrieved(topics)]))
