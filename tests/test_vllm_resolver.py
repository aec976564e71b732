"""The plugin that lets vLLM find adapters of a store: references, checks of files, aliases; without vLLM."""

from __future__ import annotations

import ast
import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from searchlora import vllm_resolver
from searchlora.adapters.store import Store
from searchlora.errors import BaseMismatch, TamperedAdapter, UsageError
from searchlora.vllm_resolver import checked_folder, shares
from tests.inference.small_models import random_store


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory) -> Store:
    store = random_store(tiny_base, tmp_path_factory.mktemp("resolver"), "one", "one")
    store.alias("one", "production", 1)
    return store


@pytest.fixture
def store(made, tmp_path) -> Store:
    """A copy, which a test may change."""
    shutil.copytree(made.root, tmp_path / "store")
    for file in (tmp_path / "store").rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    return Store(tmp_path / "store")


def test_it_needs_nothing_that_vllm_has_not():
    """vLLM's environment has pydantic and safetensors, and none of the other requirements of this package."""
    program = "import sys, searchlora.vllm_resolver; print({name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    others = {name for name in ast.literal_eval(imported) if not name.startswith("_")} - sys.stdlib_module_names
    assert others <= {
        *("searchlora", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"),
        "safetensors",
    }


def test_an_alias_that_versions_share_means_each_of_them(store):
    assert shares(store, "one@production") == {"one@1": 1}
    assert shares(store, "one") == {"one@2": 1}
    store.split("one", "production", {1: 0.75, 2: 0.25})
    assert shares(store, "one@production") == {"one@1": 0.75, "one@2": 0.25}


@pytest.mark.parametrize("reference", ["one@staging", "two", "../one", "one@", "one@01", "one.", "a/b@1"])
def test_what_the_store_does_not_have_is_no_adapter(store, resolver, tiny_base, reference, caplog):
    assert asyncio.run(resolver.resolve_lora(str(tiny_base.path), reference)) is None
    assert "searchlora: " in caplog.text
    (store.root / "one" / "aliases.json").write_text("[1]")  # which is not understood
    assert asyncio.run(resolver.resolve_lora(str(tiny_base.path), "one@production")) is None
    assert "aliases.json" in caplog.text


def test_a_changed_version_is_refused(store, tiny_base):
    assert checked_folder(store, "one@1", str(tiny_base.path)) == store.get("one@1").path.resolve()
    (store.get("one@1").path / "README.md").write_text("x")
    with pytest.raises(TamperedAdapter, match="was changed"):
        checked_folder(store, "one@1", str(tiny_base.path))


def test_an_adapter_of_another_architecture_is_refused(store, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["OtherForCausalLM"]}))
    with pytest.raises(BaseMismatch, match=r"was trained on a LlamaForCausalLM, and .* is a OtherForCausalLM"):
        checked_folder(store, "one@1", str(tmp_path))


def test_without_a_store_it_registers_nothing_and_a_url_is_refused(monkeypatch):
    monkeypatch.delenv("SEARCHLORA_STORE", raising=False)
    vllm_resolver.register()
    assert "vllm" not in sys.modules
    monkeypatch.setenv("SEARCHLORA_STORE", "s3://bucket/store")
    with pytest.raises(UsageError, match="SEARCHLORA_STORE is 's3://bucket/store'"):
        vllm_resolver.register()


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class OpenAIServingModels:
    """What vLLM's class of this name has for adapters; `fails` makes the engine refuse one."""

    def __init__(self) -> None:
        self.lora_requests: dict[str, LoRARequest] = {}
        self.lora_id_counter, self.number = self, 100
        self.engine_client = self
        self.fails = False

    async def resolve_lora(self, resolver, base: str, name: str) -> LoRARequest:
        return await resolver.resolve_lora(base, name)

    def inc(self, by: int) -> int:
        self.number += by
        return self.number

    async def add_lora(self, request: LoRARequest) -> None:
        del request
        if self.fails:
            raise ValueError("no memory")


@pytest.fixture
def resolver(store, monkeypatch):
    """The resolver that the plugin registers in vLLM."""
    registered = {}
    names = ("vllm.lora.request", "vllm.lora.resolver")
    contents = (
        {"LoRARequest": LoRARequest},
        {"LoRAResolver": object, "LoRAResolverRegistry": SimpleNamespace(register_resolver=registered.__setitem__)},
    )
    for name, content in zip(names, contents, strict=True):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.setenv("SEARCHLORA_STORE", str(store.root))
    monkeypatch.setattr(vllm_resolver, "POLL_S", 0.01)
    vllm_resolver.register()
    return registered["searchlora store"]


def test_an_alias_is_followed_once_vllm_has_loaded_the_new_version(store, resolver, tiny_base, caplog):
    async def served() -> None:
        await resolver.resolve_lora(str(tiny_base.path), "one@production")
        assert "one@production stays at one@1: this vLLM is unknown" in caplog.text
        models = OpenAIServingModels()
        request = await models.resolve_lora(resolver, str(tiny_base.path), "one@production")
        assert (request.lora_name, request.lora_path) == ("one@production/1", str(store.get("one@1").path.resolve()))
        models.lora_requests["one@production"] = request
        models.fails = True
        store.alias("one", "production", 2)
        await logged("one@production stays at one@1: no memory")
        assert models.lora_requests["one@production"] is request
        models.fails = False
        await logged("one@production is one@2 now")
        moved = models.lora_requests["one@production"]
        assert (moved.lora_name, moved.lora_path) == ("one@production/2", str(store.get("one@2").path.resolve()))
        assert moved.lora_int_id > 101  # every load has a number of its own
        store.split("one", "production", {1: 0.25, 2: 0.75})
        await logged("one@production is one@2 (75%), one@1 (25%) now")
        drawn = Counter(models.lora_requests["one@production"].lora_name for _ in range(2000))
        assert drawn.keys() == {"one@production/1", "one@production/2"}
        assert 0.7 < drawn["one@production/2"] / 2000 < 0.8
        resolver.following.cancel()

    async def logged(text: str) -> None:
        async with asyncio.timeout(20):
            while text not in caplog.text:
                await asyncio.sleep(0.01)

    caplog.set_level("INFO", "vllm.searchlora")
    asyncio.run(served())
    assert caplog.text.count("no memory") == 1
