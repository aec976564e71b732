"""Documents, topics and pipelines of tests of search on the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from searchlora.inference.engine import ChoiceScores, Completion, Request

ATTACK = '<img src=x onerror="alert(1)">'
DOCUMENTS = [
    {"id": "d1", "title": "Red couch", "text": "A red couch for two people."},
    {"id": "d2", "title": "", "text": "A red, red couch."},
    {"id": "d3", "title": "Tent", "text": "A red tent \U0001f3d5 for four. It weighs 2 kg. It is new."},
    {
        "id": "d4",
        "title": ATTACK,
        "text": f"A couch {ATTACK} \u202eright to left\u202c \U0001f6cb {'long ' * 80}".strip(),
    },
    {"id": "d5", "title": "Lamp", "text": "A blue lamp."},
    {
        "id": "d6",
        "title": "\u05e1\u05e4\u05d4 \u05d0\u05d3\u05d5\u05de\u05d4 \U0001f6cb\ufe0f",
        "text": "x" * 4000 + " couch",
    },
]
#: Topic -> query and judgments.
TOPICS = {
    "t1": ("red couch", {"d1": 2}),
    "t2": ("couch right", {"d4": 1}),
    "t3": ("blue lamp", {"d5": 3}),
    "t4": ("two people", {"d1": 1, "d2": 0}),
    "t5": (f"{ATTACK} \u05d0\u05d3\u05d5\u05de\u05d4 \U0001f6cb\ufe0f", {"d6": 2}),
}
_FUSED = [{"bm25": {"k": 2}}, {"bm25": {"k": 2, "b": 0}}, {"bm25": {"k": 2, "k1": 2}}]
STAGES = {
    "lexical": [{"bm25": {"k": 3}}],
    "rewritten": [{"adapter": {"name": "rewriter", "max_new_tokens": 4}}, {"bm25": {"k": 3}}],
    "judged": [{"bm25": {"k": 3}}, {"passages": {"k": 3}}, {"adapter": {"name": "judge"}}],
    "mixed": [{"fuse": {"k": 5, "of": _FUSED[:2]}}],
    "triple": [{"fuse": {"k": 5, "of": _FUSED}}],
    "careful": [{"adapter": {"name": "rewriter", "budget_s": 1e-6, "on_failure": "skip"}}, {"bm25": {"k": 3}}],
    "answered": [{"bm25": {"k": 3}}, {"passages": {"k": 3}}, {"adapter": {"name": "answerer"}}],
}

#: What the answering model says, whatever it is asked: a supported sentence, and one that nothing supports.
ANSWER = "It weighs 2 kg [1]. It costs 9 euros [1]."


def served_files(folder: Path, corpus: Path) -> dict[str, object]:
    """The settings of a server with all pipelines."""
    return {"pipelines": tuple(str(folder / f"{name}.yaml") for name in STAGES), "corpora": (corpus,)}


def judged_by(collection: Path, grades: Path | None) -> dict[str, object]:
    """The settings of a server that measures on a test collection, and collects grades in a folder."""
    return {"grades": grades, "topics": collection / "topics.jsonl", "qrels": collection / "qrels"}


class AnsweringEngine:
    """An engine that answers every question with `ANSWER`, and never abstains: a model of a test is too small to."""

    engine_id, call_size = "test", 8

    def pin(self, adapter: str) -> str:
        return adapter

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [Completion(ANSWER, "stop", 10, 5) for _ in requests]

    def score(
        self, requests: Sequence[Request], choices: Sequence[Sequence[str]], *, prune_margin: float | None = None
    ) -> list[ChoiceScores]:
        del requests, prune_margin
        return [ChoiceScores(tuple(-5.0 - place for place in range(len(each))), 10, 2) for each in choices]
