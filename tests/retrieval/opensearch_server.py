"""What OpenSearch answers to the requests of `searchlora.retrieval.opensearch`, in memory.

The forms are those of their published APIs. The score of a text is the number of its words that the query has, times
the boost of the field.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.inference.http_server import ReceivedRequest, Reply


@dataclass
class Cluster:
    """Indexes with their mappings and documents, and aliases.

    Attributes:
        refused: Id of a document that a bulk request refuses -> the reason.
        unready: Number of requests that are answered with 503 first.
        failed_shard: Why one shard answers no search; empty if all do. It holds no document.
    """

    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unready: int = 0
    failed_shard: str = ""

    def __call__(self, asked: ReceivedRequest) -> Reply:
        return json_of(self._answer(asked))

    def _answer(self, asked: ReceivedRequest) -> Reply:
        if self.unready:
            self.unready -= 1
            return Reply({"error": {"reason": "starting"}, "status": 503}, 503)
        path = unquote(urlsplit(asked.path).path).strip("/").split("/")
        if path == ["_aliases"]:
            return self._update_aliases(asked.body)
        if path[-1] == "_bulk":
            return self._bulk(asked.body)
        name, *verb = path
        if verb == ["_mapping"]:
            return Reply({each: self._mapping(each) for each in self._named(name)})
        if asked.method == "PUT":
            self.indexes[name], self.documents[name] = asked.body, {}
            return Reply({"acknowledged": True, "shards_acknowledged": True, "index": name})
        if name not in self.indexes:
            reason = f"no such index [{name}]"
            error = {"type": "index_not_found_exception", "reason": reason, "index": name}
            return Reply({"error": {"root_cause": [error], **error}, "status": 404}, 404)
        if asked.method == "DELETE":
            del self.indexes[name], self.documents[name]
            return Reply({"acknowledged": True})
        if verb == ["_refresh"]:
            return Reply({"_shards": {"total": 1, "successful": 1, "failed": 0}})
        assert verb == ["_search"], asked
        if self.failed_shard and "allow_partial_search_results=false" in asked.path:
            error = {"type": "search_phase_execution_exception", "reason": "Partial shards failure"}
            return Reply({"error": {**error, "caused_by": {"reason": self.failed_shard}}, "status": 500}, 500)
        return self._search(name, asked.body)

    def _named(self, name: str) -> list[str]:
        known = [self.aliases.get(name, name)]
        return [each for each in self.indexes if any(fnmatch.fnmatch(each, pattern) for pattern in known)]

    def _mapping(self, name: str) -> dict[str, Any]:
        return {"mappings": self.indexes[name].get("mappings", {})}

    def _update_aliases(self, body: Any) -> Reply:
        for action in body["actions"]:
            ((verb, what),) = action.items()
            if verb == "add":
                self.aliases[what["alias"]] = what["index"]
            elif self.aliases.get(what["alias"]) == what["index"]:
                del self.aliases[what["alias"]]
        return Reply({"acknowledged": True})

    def _bulk(self, body: Any) -> Reply:
        items = []
        for action, source in zip(body[::2], body[1::2], strict=True):
            target = action["index"]
            name, identifier = target["_index"], target["_id"]
            if reason := self.refused.get(identifier):
                error = {"type": "mapper_parsing_exception", "reason": reason}
                items.append({"index": {"_index": name, "_id": identifier, "status": 400, "error": error}})
                continue
            self.documents[name][identifier] = source
            items.append({"index": {"_index": name, "_id": identifier, "result": "created", "status": 201}})
        return Reply({"took": 1, "errors": any("error" in each["index"] for each in items), "items": items})

    def _search(self, name: str, body: dict[str, Any]) -> Reply:
        assert body["sort"] == [{"_score": "desc"}, {"id": "desc"}]
        held = self.documents[name]
        scores = {key: score for key, row in held.items() if (score := _score(body, row)) is not None}
        best = sorted(scores, key=lambda key: (scores[key], key), reverse=True)[: body["size"]]
        hits = []
        for key in best:
            source = {each: held[key][each] for each in body["_source"]}
            hit = {"_index": name, "_id": key, "_score": scores[key], "_source": source, "sort": [scores[key], key]}
            hits.append(hit)
        found = {"max_score": None, "hits": hits}
        return Reply({"took": 1, "timed_out": False, "_shards": {"total": 1}, "hits": found})


def json_of(reply: Reply) -> Reply:
    """The reply with the type of its content, by which clients parse it."""
    return replace(reply, headers={"Content-Type": "application/json; charset=UTF-8"})


def _score(body: dict[str, Any], row: dict[str, Any]) -> float | None:
    """The score of a document; None if it does not match."""
    ((kind, query),) = body["query"].items()
    if kind == "knn":
        filters = query["vector"].get("filter", {"bool": {"filter": []}})["bool"]["filter"]
        return _near(query["vector"]["vector"], filters, row)
    if kind == "script_score":
        script = query["script"]
        vector = script["params"]["query_value"]
        exists, *filters = query["query"]["bool"]["filter"]
        assert exists == {"exists": {"field": "vector"}}
        return _near(vector, filters, row)
    (match,) = query["must"]
    match = match["multi_match"]
    assert match["type"] == "most_fields"
    words = set(_words(match["query"]))
    score = 0.0
    for each in match["fields"]:
        name, _, boost = each.partition("^")
        score += float(boost) * len(words & set(_words(row[name])))
    return score if score and _fits(query["filter"], row) else None


def _near(vector: list[float], filters: list[Any], row: dict[str, Any]) -> float | None:
    if "vector" not in row or not _fits(filters, row):
        return None
    product = sum(a * b for a, b in zip(vector, row["vector"], strict=True))
    return product + 1 if product >= 0 else 1 / (1 - product)


def _fits(filters: list[Any], row: dict[str, Any]) -> bool:
    return all(set(row["facets"]) & set(each["terms"]["facets"]) for each in filters)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
