"""Events as a server records them."""

from __future__ import annotations

from searchlora.events.log import EventLog


def search_event(query="red couch", hits=("P1", "P2", "P3"), milliseconds=5.0, flags=(), **more):
    """What a server records of a search, without id and time."""
    stage = {"label": "rewriter@2", "kind": "adapter", "milliseconds": 2.0, "flags": list(flags), "output": {}}
    event = {"pipeline": "lexical", "query": query, "stages": [stage], "hits": list(hits), "total": len(hits)}
    return event | {"milliseconds": milliseconds} | more


def written(log: EventLog, *events, now=None):
    """Write events as a recorder does, with their ids and times; returns the ids."""
    rows = []
    for event in events:
        id_ = log.new_id(now)
        rows.append({"id": id_, "time": int(1000 * (log.issued(id_) or 0)), **event})
    log.write(rows, [])
    return [row["id"] for row in rows]
