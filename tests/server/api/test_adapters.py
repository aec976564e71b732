"""`/v1/adapters`: versions, measures with intervals, decisions, aliases, and slots of served pipelines."""

from __future__ import annotations

import json

import httpx
import pytest

from searchlora.server.api.app import document
from tests.server.api.serving import served


@pytest.fixture(scope="module")
def client(search_service):
    with served(search_service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_an_adapter_has_versions_measures_decisions_aliases_and_pipelines(client, search_service):
    text = client.get("/v1/adapters").text
    assert str(search_service.store.root) not in text
    by_id = {each["id"]: each for each in json.loads(text)["data"]}
    assert set(by_id) == {"rewriter", "judge", "answerer"}
    rewriter = by_id["rewriter"]
    assert rewriter["aliases"] == {"production": {"version": 1, "forced": False, "by_hand": False}}
    newest, oldest = rewriter["versions"]
    assert (newest["reference"], oldest["reference"]) == ("rewriter@2", "rewriter@1")
    (evaluation,) = newest["evaluations"]
    assert (evaluation["value"], evaluation["low"], evaluation["high"], evaluation["n"]) == (0.41, 0.35, 0.47, 40)
    assert oldest["evaluations"] == []
    refused, first = rewriter["history"]
    assert (first["from"], first["to"], first["reason"], first["decision"]) == (None, 1, "the first one", None)
    assert refused["decision"]["outcome"] == "refused"
    assert [rule["passed"] for rule in refused["decision"]["rules"]] == [False]
    assert [row["value"] for row in refused["decision"]["figures"]] == [0.41]  # the candidate's alone
    assert rewriter["pipelines"] == ["rewritten", "careful"]


def test_every_request_example_of_the_document_is_valid():
    """The examples fit their schemas; on a server with these pipelines they work."""
    import jsonschema

    components = document()["components"]
    examples = {name: schema["examples"] for name, schema in components["schemas"].items() if "examples" in schema}
    assert len(examples) == 4
    for name, bodies in examples.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        for body in bodies:
            jsonschema.Draft202012Validator(schema).validate(body)
