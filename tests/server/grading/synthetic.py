"""A small grading session: six topics of four passages, one of which is an attack on the page."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from searchlora.experiments.judge.pairs import QueryPassage
from searchlora.records import Document
from searchlora.server.grading.app import server_config
from searchlora.server.grading.guideline import RatingGuideline
from searchlora.server.grading.ratings_log import RatingsLog
from searchlora.server.grading.session import Session
from searchlora.server.http import address, bind

ATTACK = '<script>document.title = "taken"</script><img src=x onerror=\'document.title = "taken"\'> & "quoted"'
GUIDELINE = RatingGuideline(
    "# How to grade\n\n* 1: Relevant. It **answers**.\n* 0: Not relevant. <b>It does not.</b>\n",
    {0: "Not relevant", 1: "Relevant"},
)


def synthetic_pairs(topics: int = 6, documents: int = 4) -> tuple[QueryPassage, ...]:
    return tuple(
        QueryPassage(
            f"topic-{topic}",
            {"query": f"query {topic} {ATTACK}"},
            Document(f"document-{place}", f"text {place} {ATTACK}", f"title {place} {ATTACK}"),
        )
        for topic in range(topics)
        for document in range(documents)
        for place in [f"{topic}-{document}"]
    )


def synthetic_session(folder: Path, *, overlap: int = 2, seed: int = 0, pairs=None, **more):
    return Session(pairs or synthetic_pairs(), GUIDELINE, RatingsLog(folder), overlap=overlap, seed=seed, **more)


@contextmanager
def served(session):
    """Serve the page of a session; its address."""
    with bind("127.0.0.1", 0) as listening:
        server = uvicorn.Server(server_config(session, "127.0.0.1"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield address(listening)
        finally:
            server.should_exit = True
            thread.join()
