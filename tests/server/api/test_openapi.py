"""The OpenAPI document names every path, method and reference. `test_hostile_values` compares answers with it."""

from __future__ import annotations

import jsonschema
import pytest

from searchlora.server.api.app import create_app, document

DOCUMENT = document()
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")


@pytest.mark.parametrize("template", DOCUMENT["paths"])
def test_405_carries_the_allowed_methods(client, template):
    for method in METHODS:
        if method.lower() not in DOCUMENT["paths"][template]:
            answer = client.request(method, template.replace("{model}", "one"))
            assert answer.status_code == 405, (method, template)
            assert answer.headers["allow"] == ", ".join(sorted(DOCUMENT["paths"][template])).upper()


def test_unknown_paths_are_404_with_and_without_a_slash(client):
    for path in ("/v1/score/", "/healthz/", "/v1", "/v1//models", "/v1/models/"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        schema = {"$ref": "#/components/schemas/ErrorBody", "components": DOCUMENT["components"]}
        jsonschema.validate(answer.json(), schema)


def test_the_document_names_the_routes_of_the_application(service):
    app = create_app(service)
    assert app.openapi()["paths"] == DOCUMENT["paths"]
    templates = {path.replace("{model}", "{model:path}"): methods for path, methods in DOCUMENT["paths"].items()}
    found = {}
    for route in app.routes:
        for inner in getattr(getattr(route, "original_router", None), "routes", [route]):
            found.setdefault(inner.path, set()).update(inner.methods)
    assert {path: {method.lower() for method in methods} for path, methods in found.items()} == {
        path: set(methods) for path, methods in templates.items()
    }


def test_every_reference_in_the_document_resolves():
    def references(node):
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    schemas = DOCUMENT["components"]["schemas"]
    found = set(references(DOCUMENT))
    assert found and all(each.removeprefix("#/components/schemas/") in schemas for each in found)
