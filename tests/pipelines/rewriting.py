"""A pipeline that rewrites and searches, by an engine that rewrites by a table."""

from __future__ import annotations

import time

from searchlora.errors import EngineError, RequestRefused
from searchlora.inference.engine import Completion
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.stages.adapter import AdapterStage
from searchlora.pipelines.stages.passages import PassagesStage
from searchlora.records import Document
from searchlora.task import load_task

DOCUMENTS = [Document("d1", "waterproof boots"), Document("d2", "a green tent"), Document("d3", "tent pegs")]
REWRITES = {"kicks": "boots", "shelter": "tent", "tent": "tent", "empty": ""}


class Rewriter:
    """An engine that rewrites by a table, slowly if need be, and refuses or fails for two queries."""

    call_size = 1
    engine_id = "table"

    def __init__(self, rewrites=REWRITES, seconds: float = 0.0, finish: str = "stop") -> None:
        self.rewrites, self.seconds, self.finish = rewrites, seconds, finish
        self.calls: list[int] = []

    def pin(self, adapter):
        return adapter

    def generate(self, requests):
        self.calls.append(len(requests))
        time.sleep(self.seconds)
        queries = [request.messages[-1]["content"].rpartition("Query: ")[2] for request in requests]
        if "too long" in queries:
            raise RequestRefused("does not fit")
        if "server" in queries:
            raise EngineError("the server does not answer")
        texts = [self.rewrites[query] for query in queries]
        return [Completion(text, self.finish, 10, len(text)) for text in texts]

    def score(self, requests, choices, **_):
        raise NotImplementedError


def built(engine, adapter=None, bm25=None, more=()):
    """A pipeline that rewrites and searches, with settings of its two stages."""
    configs = [{"adapter": {"name": "rewriter@3", **(adapter or {})}}, {"bm25": {"k": 10, **(bm25 or {})}}, *more]
    settings = parse_stages(configs, "here")
    search = settings[1].over(DOCUMENTS)
    fused = settings[0].rewrite == "fuse"
    rewrite = AdapterStage(load_task("rewriting"), engine, "rewriter@3", fuse_rewrite=fused)
    stages = [rewrite, search]
    if more:
        stages.append(PassagesStage({document.id: document for document in DOCUMENTS}, 10))
    return Pipeline("p", stages, tuple(settings))


def searches(*queries):
    return [{"id": f"q{n}", "query": query} for n, query in enumerate(queries)]
