"""A server with a shared alias, searches of users, shadow searches and interleaving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import yaml

from searchlora.adapters.store import Store
from searchlora.events.export import OUTCOME
from searchlora.events.interleaving import INTERLEAVED
from searchlora.events.log import EventLog, Feedback
from searchlora.server.api.service import Service
from searchlora.task import load_task
from tests.events.recorded import search_event, written
from tests.factories import random_adapter
from tests.server.api.serving import made_service, served

ALIAS = "rewriter@production"


class Running(NamedTuple):
    url: str
    store: Store
    service: Service


@contextmanager
def in_production(folder, base, corpus, **more) -> Iterator[Running]:
    """Version 2 has a tenth of the requests of the alias; version 1 was before, and version 3 before that."""
    store = Store(folder / "store")
    for seed in range(3):
        random_adapter(store, "rewriter", load_task("rewriting").bound(None), base, folder / f"{seed}", seed)
    for version in (3, 1):
        store.alias("rewriter", "production", version)
    pipeline = folder / "shop.yaml"
    stages = [{"adapter": {"name": ALIAS, "max_new_tokens": 4}}, {"bm25": {"k": 3}}]
    pipeline.write_text(yaml.safe_dump({"name": "shop", "stages": stages}), encoding="utf-8")
    events = folder / "events"
    log = EventLog(events)
    _write_searches(log, 1, range(40), time.time() - 90_000)
    _write_searches(log, 1, range(40, 80), time.time() - 60)
    store.split("rewriter", "production", {1: 0.9, 2: 0.1}, main=1)
    _write_searches(log, 2, range(80, 100), time.time() + 2, invalid=True)
    _write_searches(log, 1, range(100, 140), time.time() + 2)
    _write_shadows(log)
    _write_interleaved(log)
    written(log, {**search_event("gone", hits=()), "pipeline": "shop", "stages": [], OUTCOME: "failed"})
    written(log, {**search_event("red couch", hits=()), "pipeline": "down", "stages": [], OUTCOME: "failed"})
    settings = {"pipelines": (str(pipeline),), "corpora": (corpus,), "events": str(events)}
    service = made_service(base, store, **settings | more)
    with served(service) as url:
        yield Running(url, store, service)


def _write_searches(log, version, users, now, invalid=False):
    for user in users:
        flags = ("invalid: is empty",) if invalid and user % 10 == 0 else ()
        event = search_event(f"red couch {user % 7}", pipeline="shop", user=f"u{user}", flags=flags)
        event["stages"][0] |= {"label": f"rewriter@{version}", "adapter": f"rewriter@{version}"}
        (search,) = written(log, event, now=now)
        if user % 2:
            log.write([], [Feedback(search, "click", "P1")])


def _write_shadows(log):
    live = [event for event, _ in log.searches()][-20:]
    shadows = [
        {**event, "id": None, "shadow": event["id"], "candidates": {"rewriter": "rewriter@3"}, "hits": ["P1", "P9"]}
        for event in live
    ]
    log.write(shadows, [])


def _write_interleaved(log):
    more = {INTERLEAVED: {"other": "shop_new", "method": "team_draft", "credits": [-1.0, 1.0, 1.0]}}
    for user in range(60):
        (search,) = written(log, search_event("tent", pipeline="shop", user=f"i{user}", **more))
        log.write([], [Feedback(search, "click", "P2" if user % 10 else "P1")])
