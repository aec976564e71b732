"""Model ids that contain a slash, and name clashes between base, encoders and adapters."""

from __future__ import annotations

import dataclasses
import shutil

import httpx
import pytest

from searchlora.errors import UsageError
from searchlora.models.resolve import resolve
from tests.server.api.serving import asked, made_service, served


def test_a_base_named_by_its_hub_id_is_found_by_it(tiny_base, store):
    service = made_service(tiny_base, store)
    service.engine.base = dataclasses.replace(tiny_base, name="org/tiny")
    with served(service) as url:
        assert httpx.get(f"{url}/v1/models/org/tiny").json()["id"] == "org/tiny"
        assert httpx.get(f"{url}/v1/models/org%2Ftiny").json()["id"] == "org/tiny"
        assert httpx.get(f"{url}/v1/models/org/other").status_code == 404


def test_an_adapter_named_like_the_base_is_listed_by_version_only(tiny_base, store, tmp_path):
    shutil.copytree(tiny_base.path, tmp_path / "one")
    with served(made_service(resolve(str(tmp_path / "one")), store)) as url:
        names = [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]]
        assert sorted(name for name in names if name.startswith("one")) == ["one", "one@1"]
        for model, answers in (("one", "one"), ("one@1", "one@1")):
            answer = httpx.post(f"{url}/v1/chat/completions", json=asked(model=model), timeout=30)
            assert answer.json()["model"] == answers


def test_a_base_and_an_encoder_of_one_name_are_refused_at_the_start(tiny_base, encoder_base, store, tmp_path):
    shutil.copytree(encoder_base.path, tmp_path / "tiny")
    with pytest.raises(UsageError, match="the base and an encoder would both be called 'tiny'"):
        made_service(tiny_base, store, resolve(str(tmp_path / "tiny")))
