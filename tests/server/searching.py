"""Documents and pipelines of tests of search on the server."""

from __future__ import annotations

ATTACK = '<img src=x onerror="alert(1)">'
DOCUMENTS = [
    {"id": "d1", "title": "Red couch", "text": "A red couch for two people."},
    {"id": "d2", "title": "", "text": "A red, red couch."},
    {"id": "d3", "title": "Tent", "text": "A red tent for four."},
    {
        "id": "d4",
        "title": ATTACK,
        "text": f"A couch {ATTACK} \u202eright to left\u202c \U0001f6cb {'long ' * 80}".strip(),
    },
    {"id": "d5", "title": "Lamp", "text": "A blue lamp."},
]
STAGES = {
    "lexical": [{"bm25": {"k": 3}}],
    "rewritten": [{"adapter": {"name": "rewriter", "max_new_tokens": 4}}, {"bm25": {"k": 3}}],
    "judged": [{"bm25": {"k": 3}}, {"passages": {"k": 3}}, {"adapter": {"name": "judge"}}],
    "mixed": [{"fuse": {"k": 5, "of": [{"bm25": {"k": 2}}, {"bm25": {"k": 2, "b": 0}}]}}],
    "careful": [{"adapter": {"name": "rewriter", "budget_s": 1e-6, "on_failure": "skip"}}, {"bm25": {"k": 3}}],
}
