"""Adapters of encoders: storing, load check and merging."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from searchlora.adapters.golden import BaseCopy, encode_texts
from searchlora.adapters.load_check import check_files, check_vectors, verify
from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.merging import export_merged
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.errors import (
    BaseMismatch,
    GoldenMismatch,
    MissingKey,
    TamperedAdapter,
    UnexpectedKey,
    ZeroDelta,
)
from searchlora.models.fingerprint import fingerprint
from searchlora.models.load import load_encoder
from searchlora.retrieval import Encoder
from tests.factories import (
    copy_of,
    edit_json,
    edit_weights,
    encoder_recipe_for,
    random_encoder_adapter,
    random_encoder_folder,
    shout,
)

TEXTS = ["red tent", "WOOL SOCKS", "a stove that burns below freezing"]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def task(tmp_path):
    return shout(tmp_path / "task")


@pytest.fixture
def stored(store, task, encoder_base, tmp_path):
    return random_encoder_adapter(store, "shouter", task, encoder_base, tmp_path / "made")


@pytest.mark.slow
def test_a_stored_adapter_passes_its_check_and_keeps_golden_vectors(stored, store, task, encoder_base):
    verify(store.get("shouter"), task, encoder_base)
    golden = stored.manifest.golden
    assert [each.text for each in golden.vectors] == ["red tent", "RED TENT", "wool socks", "WOOL SOCKS"]
    assert all(len(each.vector) == 16 and each.base_difference > 0 for each in golden.vectors)
    assert (golden.precision, stored.manifest.trained.precision, stored.manifest.prompt_hash) == ("fp32", "fp32", None)
    assert "golden vectors" in (stored.path / "README.md").read_text()
    config = json.loads((stored.path / "adapter_config.json").read_text())
    assert (config["task_type"], config["target_modules"]) == ("FEATURE_EXTRACTION", ["key", "query", "value"])


@pytest.mark.slow
def test_a_stored_encoder_adapter_is_a_plain_peft_folder(stored, encoder_base):
    from peft import PeftModel

    theirs = load_encoder(encoder_base, device="cpu")
    theirs[0].model = PeftModel.from_pretrained(theirs[0].model, str(stored.path))
    ours = Encoder.load(encoder_base.name, adapter=stored, device="cpu")
    assert ours.name == "shouter@1"
    assert np.allclose(ours.encode(TEXTS), Encoder(theirs.eval(), "theirs").encode(TEXTS), atol=1e-6)


@pytest.mark.slow
def test_changes_that_alter_vectors_are_refused_at_every_load(stored, encoder_base, tmp_path):
    moved = copy_of(encoder_base, tmp_path / "moved")
    check_files(stored, moved)
    pooling = moved.path / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"mean"', '"cls"'))
    with pytest.raises(BaseMismatch, match="another configuration"):
        Encoder.load(str(moved.path), adapter=stored)
    edit_weights(stored.path, lambda tensors: {name: value + 1 for name, value in tensors.items()})
    with pytest.raises(TamperedAdapter, match="was changed"):
        Encoder.load(encoder_base.name, adapter=stored)


@pytest.mark.slow
def test_a_zero_delta_and_wrong_keys_are_not_stored(store, task, encoder_base, tmp_path):
    def stored_from(folder):
        store_adapter(store, "shouter", folder, task=task, recipe=encoder_recipe_for(encoder_base), base=encoder_base)

    with pytest.raises(ZeroDelta):
        stored_from(random_encoder_folder(encoder_base, tmp_path / "zero", scale=0))
    made = random_encoder_folder(encoder_base, tmp_path / "made")
    lacking = shutil.copytree(made, tmp_path / "lacking")
    edit_weights(lacking, lambda tensors: dict(list(tensors.items())[1:]))
    with pytest.raises(MissingKey, match="1 of 6"):
        stored_from(lacking)
    edit_weights(made, lambda tensors: {**tensors, "base_model.model.nowhere.lora_A.weight": tensors[min(tensors)] + 1})
    with pytest.raises(UnexpectedKey, match="nowhere"):
        stored_from(made)
    assert not store.versions("shouter")


@pytest.mark.slow
def test_vectors_that_differ_from_the_golden_ones_fail_the_check(stored, store, encoder_base):
    edit_json(stored.path / MANIFEST, lambda values: values["golden"]["vectors"][1]["vector"].__setitem__(3, 0.5))
    with pytest.raises(GoldenMismatch, match=r"shouter@1.*'RED TENT' is .* off, over"):
        check_vectors(store.get("shouter"), BaseCopy(encoder_base, load_encoder, encode_texts))
    edit_json(stored.path / MANIFEST, lambda values: values["golden"]["vectors"][1]["vector"].pop())
    with pytest.raises(GoldenMismatch, match="inf off"):
        check_vectors(store.get("shouter"), BaseCopy(encoder_base, load_encoder, encode_texts))


@pytest.mark.slow
def test_vectors_equal_to_those_of_the_base_fail_the_check(stored, store, encoder_base):
    """B·A far from zero where it is never used: the load check looks at what comes out, too."""
    edit_weights(stored.path, lambda tensors: {key: value * ("lora_A" in key) for key, value in tensors.items()})
    with pytest.raises(GoldenMismatch, match="equal the base's"):
        check_vectors(store.get("shouter"), BaseCopy(encoder_base, load_encoder, encode_texts))


@pytest.mark.slow
def test_a_merged_encoder_gives_the_same_vectors(stored, encoder_base, tmp_path):
    report = export_merged(stored, tmp_path / "merged")
    assert report.relative_error < 1e-5
    assert (report.prompts, report.precision) == (4, "fp32")
    merged = Encoder.load(str(tmp_path / "merged"), device="cpu")
    adapted = Encoder.load(encoder_base.name, adapter=stored, device="cpu")
    assert np.allclose(merged.encode(TEXTS), adapted.encode(TEXTS), atol=1e-5)
    assert fingerprint(tmp_path / "merged").tensors != fingerprint(encoder_base.path).tensors


def test_content_never_produces_a_special_token(encoder_base):
    tokenizer = load_encoder(encoder_base, device="cpu").tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    def of(text):
        return [token for token in tokenizer(text)["input_ids"] if token in special]

    for token in tokenizer.all_special_tokens:
        assert of(f"a {token} tent{token}") == of("a tent")
