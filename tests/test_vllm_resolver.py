"""The plugin that lets vLLM find adapters of a store: references, checks of files, aliases; without vLLM."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from pathlib import Path

import pytest

from searchlora import vllm_resolver
from searchlora.adapters.aliases import AliasHistory
from searchlora.adapters.store import Store
from searchlora.vllm_resolver import NotServable, StoreAdapters
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


def test_it_needs_nothing_but_the_standard_library():
    tree = ast.parse(Path(vllm_resolver.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {module.partition(".")[0] for module in modules} - sys.stdlib_module_names == {"vllm"}


def test_it_pins_every_reference_as_the_store_does(store):
    adapters = StoreAdapters(store.root)
    for reference in ("one", "one@1", "one@2", "one@production"):
        assert adapters.pin(reference) == store.pin(reference)
    store.alias("one", "production", 2)
    assert adapters.pin("one@production") == "one@2"
    deleted, _ = AliasHistory.read(store.root / "one").move("production", None, None)
    deleted.write()
    for reference in ("one@production", "one@staging", "two", "../one", "one@", "one@01", "one.", "a/b@1"):
        with pytest.raises(NotServable):
            adapters.pin(reference)


def test_it_returns_the_folder_and_the_rank(store, tiny_base):
    found = StoreAdapters(store.root).find("one@production", str(tiny_base.path))
    assert (found.reference, found.folder, found.rank) == ("one@1", store.get("one@1").path.resolve(), 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "more.bin").touch(), "other files than its manifest says"),
        (lambda folder: (folder / "README.md").unlink(), "other files than its manifest says"),
        (lambda folder: (folder / "README.md").write_text("x"), "README.md was changed"),
        (lambda folder: change_manifest(folder, version=7), "the manifest of one@1 is that of another version"),
        (lambda folder: (folder / "searchlora.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_changed_version_is_refused(store, tiny_base, change, says):
    change(store.get("one@1").path)
    with pytest.raises(NotServable, match=says):
        StoreAdapters(store.root).find("one@1", str(tiny_base.path))


def test_an_adapter_of_another_architecture_is_refused(store, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["OtherForCausalLM"]}))
    with pytest.raises(NotServable, match=r"was trained on a LlamaForCausalLM, and .* is a OtherForCausalLM"):
        StoreAdapters(store.root).find("one@1", str(tmp_path))


def test_without_a_store_it_registers_nothing(monkeypatch):
    monkeypatch.delenv("SEARCHLORA_STORE", raising=False)
    vllm_resolver.register()
    assert "vllm" not in sys.modules


def change_manifest(folder: Path, **changes: object) -> None:
    file = folder / "searchlora.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
