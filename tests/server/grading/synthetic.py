"""A small grading session: six topics of four passages, one of which is an attack on the page."""

from __future__ import annotations

from pathlib import Path

from searchlora.server.grading.guideline import RatingGuideline, ScaleGrade
from searchlora.server.grading.ratings_log import RatingsLog
from searchlora.server.grading.session import Pair, Session

ATTACK = '<script>document.title = "taken"</script><img src=x onerror=\'document.title = "taken"\'> & "quoted"'
GUIDELINE = RatingGuideline(
    "# How to grade\n\n* 1: Relevant. It **answers**.\n* 0: Not relevant. <b>It does not.</b>\n",
    (ScaleGrade(0, "Not relevant"), ScaleGrade(1, "Relevant")),
)


def synthetic_pairs(topics: int = 6, documents: int = 4) -> tuple[Pair, ...]:
    return tuple(
        Pair(f"p{topic}x{document}", f"topic-{topic}", f"document-{topic}-{document}", f"query {topic} {ATTACK}", *text)
        for topic in range(topics)
        for document in range(documents)
        for text in [(f"title {topic} {document} {ATTACK}", f"text {topic} {document} {ATTACK}")]
    )


def synthetic_session(folder: Path, *, overlap: int = 2, seed: int = 0, pairs: tuple[Pair, ...] | None = None, **more):
    return Session(pairs or synthetic_pairs(), GUIDELINE, RatingsLog(folder), overlap=overlap, seed=seed, **more)
