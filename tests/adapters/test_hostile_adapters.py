"""Hostile adapters: oversized, malformed or forged files are refused before they are loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from searchlora.adapters import load_check, peft_folder
from searchlora.adapters.attach import attach, new_adapter
from searchlora.adapters.golden import golden_renders
from searchlora.adapters.load_check import check_files, check_renders, verify
from searchlora.adapters.manifest import MANIFEST, ManifestDraft, parse_manifest
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.peft_folder import CONFIG, WEIGHTS, check_delta, check_header, read_config, read_weights
from searchlora.adapters.store import Store, StoredAdapter
from searchlora.errors import (
    GoldenLogitsMismatch,
    GoldenRenderMismatch,
    LoadCheckFailed,
    ManifestError,
    RecipeError,
    TamperedAdapter,
    UnexpectedKey,
)
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.prompts import Renderer
from searchlora.task import load_prompted_task
from tests.factories import EchoTask, edit_weights, random_adapter, recipe_for
from tests.factories import random_adapter as labelled_adapter

SLOW = "(.*a){25}b"  # fullmatch of a long name takes years
NAME = "model.layers.0.self_attn.q_proj"


def edit_config(folder: Path, **settings: Any) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": SLOW},
        {"target_modules": "q_proj"},
        {"target_modules": [SLOW]},
        {"target_modules": [NAME, "q_proj$"]},
        {"target_modules": [NAME + "\n"]},
        {"target_modules": [""]},
        {"target_modules": ["a" * 300]},
        {"target_modules": ["a"] * 5000},
        {"target_modules": None},
        {"target_modules": {"q_proj": 1}},
        {"exclude_modules": SLOW},
        {"exclude_modules": [SLOW]},
        {"layers_pattern": SLOW, "layers_to_transform": [0]},
        {"layers_pattern": ["(a+)+"], "layers_to_transform": [0]},
        {"rank_pattern": {SLOW: 4}},
        {"rank_pattern": {"q_proj": 10**6}},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {f"q{n}": 4 for n in range(600)}},
        {"alpha_pattern": {"(x+x+)+y": 4}},
        {"alpha_pattern": {"q_proj": -1}},
        {"lora_alpha": 0},
        {"lora_alpha": -1.0},
        {"lora_alpha": 1e30},
        {"lora_alpha": "8"},
        {"lora_alpha": None},
        {"r": 0},
        {"r": -4},
        {"r": 4096},
        {"r": 4.5},
        {"r": True},
        {"lora_dropout": 7},
        {"task_type": "SEQ_CLS"},
        {"brand_new_setting": "on"},
        {"use_dora": [1]},
    ],
    ids=lambda settings: json.dumps(settings)[:60],
)
def test_settings_are_plain_names_and_numbers_within_bounds(
    base: BaseModel, writable: Path, settings: dict[str, Any]
) -> None:
    edit_config(writable, **settings)
    started = time.monotonic()
    with pytest.raises(LoadCheckFailed, match=next(iter(settings))):
        read_config(writable)
    with pytest.raises(LoadCheckFailed):
        attach(load_model(base, precision="fp32"), writable)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "text",
    ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000],
)
def test_a_non_finite_or_non_numeric_setting_is_refused(writable: Path, text: str) -> None:
    file = writable / CONFIG
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "lora_alpha": "HERE"}).replace('"HERE"', text))
    with pytest.raises((TamperedAdapter, LoadCheckFailed)):
        read_config(writable)


def test_a_configuration_that_is_nested_or_too_long_is_refused(writable: Path) -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, json.dumps({"peft_type": "LORA", "pad": "x" * 5_000_000}), "\xff"):
        (writable / CONFIG).write_text(text, encoding="latin-1")
        with pytest.raises((TamperedAdapter, LoadCheckFailed)):
            read_config(writable)


def test_disabled_settings_are_ignored_under_any_name(base: BaseModel, writable: Path) -> None:
    edit_config(writable, brand_new_setting=None, another=False, third={}, auto_mapping={"parent_library": "os"})
    attach(load_model(base, precision="fp32"), writable)


@pytest.mark.parametrize("modules", [SLOW, "q_proj", [SLOW], ["q_proj|k_proj"], ["q proj"]])
def test_a_recipe_lists_target_modules_by_plain_name(base: BaseModel, modules: Any) -> None:
    with pytest.raises(RecipeError, match="target_modules"):
        new_adapter(load_model(base, precision="fp32"), recipe_for(base, target_modules=modules))


def write_header(folder: Path, header: Any, data: int = 0) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    file = folder / WEIGHTS
    file.unlink(missing_ok=True)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + data)  # a sparse file: it occupies no disk space


def tensor(*shape: int, dtype: str = "F32") -> dict[str, Any]:
    size = 4
    for side in shape:
        size *= side
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}


A, B = f"base_model.model.{NAME}.lora_A.weight", f"base_model.model.{NAME}.lora_B.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({A: tensor(4096, 32)}, 4096 * 32 * 4, "rank 4,096.*more than rank 1,024"),
        ({B: tensor(32, 2000)}, 32 * 2000 * 4, "rank 2,000"),
        ({A: tensor(2, 2**30)}, 9 * 2**30, "bytes, more than"),
        ({f"{A}{n}": tensor(1, 1) for n in range(20_001)}, 80_004, "20,001 tensors"),
        ({A: tensor(4, 32, dtype="I8")}, 128, "type I8"),
        ({A: tensor(4, 32, dtype="F8_E4M3")}, 128, "type F8_E4M3"),
        ({A: tensor(4, 32, dtype="F64")}, 1024, "type F64"),
        ("[" * 100_000, 0, "not safetensors"),
        ("{}x", 0, "not safetensors"),
        ({A: {"dtype": "F32"}}, 0, "not safetensors"),
        ({A: []}, 0, "not safetensors"),
        ([], 0, "not safetensors"),
    ],
)
def test_size_rank_and_types_are_checked_before_weights_are_loaded(
    writable: Path, monkeypatch: pytest.MonkeyPatch, header: Any, data: int, message: str
) -> None:
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("weights were loaded"))
    write_header(writable, header, data)
    for check in (check_header, read_weights, check_delta):
        with pytest.raises(LoadCheckFailed, match=message):
            check(writable)


def test_a_header_longer_than_its_file_is_refused(writable: Path) -> None:
    for length in (2**63, 10**9, 100):
        (writable / WEIGHTS).unlink()
        (writable / WEIGHTS).write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(TamperedAdapter, match="not safetensors"):
            read_weights(writable)


@pytest.mark.parametrize("value", [1e38, -1e38, 3.4e38, 1e5, float("nan"), float("inf"), -float("inf")])
def test_implausible_weights_are_not_stored(
    store: Store, base: BaseModel, task: EchoTask, writable: Path, value: float
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[B][0, 0] = value
        return tensors

    edit_weights(writable, spoil)
    with pytest.raises(LoadCheckFailed, match=r"lora_B.weight holds"):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)
    assert store.list() == []


def test_int8_weights_are_not_stored(store: Store, base: BaseModel, task: EchoTask, writable: Path) -> None:
    edit_weights(writable, lambda tensors: {name: (value * 100).to(torch.int8) for name, value in tensors.items()})
    with pytest.raises(UnexpectedKey, match="type I8"):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)


def test_a_rank_beyond_the_bound_is_refused_by_the_recipe(base: BaseModel) -> None:
    with pytest.raises(RecipeError, match=r"lora\.r"):
        recipe_for(base, r=4096)
    assert peft_folder.MAX_RANK == 1024


# Manifests


def edit_manifest(stored: StoredAdapter, change: Callable[[dict[str, Any]], Any]) -> None:
    file = stored.path / MANIFEST
    values = json.loads(file.read_text())
    change(values)
    file.chmod(0o644)
    file.write_text(json.dumps(values))


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created", "yesterday"),
        ("created", 5),
        ("created", None),
        ("created", "2026-11-26T20:00:00" + "0" * 100),
        ("version", 10**9),
        ("version", 0),
        ("version", -1),
        ("version", "1 "),
        ("name", "../x"),
        ("name", "Echo"),
        ("task", "../x"),
        ("task", LONG),
        ("task", "e\x1b[31mcho"),
        ("task_version", -1),
        ("metrics", {"loss": {"a": 1}}),
        ("metrics", {"loss": [1.0]}),
        ("metrics", [1]),
        ("metrics", {"l\x07ss": 1.0}),
        ("metrics", {"loss": LONG}),
        ("metrics", {f"m{n}": 1 for n in range(2000)}),
        ("parents", ["../../etc/passwd"]),
        ("parents", ["echo@production"]),
        ("parents", ["echo@1\n"]),
        ("parents", ["echo@1"] * 2000),
        ("files", {"../x": "a" * 64}),
        ("files", {"a/b": "a" * 64}),
        ("files", {"x": "abc"}),
        ("files", {"x" * 200: "a" * 64}),
        ("versions", {"torch\n": "1"}),
        ("versions", {"torch": "1\x1b[0m"}),
        ("prompt_hash", "no hash"),
        ("schema_version", 0),
        ("schema_version", -3),
    ],
)
def test_fields_of_a_manifest_have_bounds(stored: StoredAdapter, store: Store, field: str, value: Any) -> None:
    edit_manifest(stored, lambda values: values.update({field: value}))
    with pytest.raises(ManifestError, match=field):
        store.get("echo")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("base", "name"), ""),
        (("base", "name"), LONG),
        (("base", "name"), "a\nb"),
        (("base", "name"), "\u202eevil"),
        (("base", "revision"), "\x00"),
        (("base", "fingerprint", "tensors"), "x" * 1000),
        (("base", "fingerprint", "tensors"), "a\nb"),
        (("golden", "tolerance"), 2.0),
        (("golden", "tolerance"), -1.0),
        (("golden", "renders", 0, "token_ids"), []),
        (("golden", "renders", 0, "token_ids"), [-1]),
        (("golden", "renders", 0, "token_ids"), [2**40]),
        (("golden", "renders", 0, "prompt_length"), 0),
        (("golden", "renders", 0, "prompt_length"), 10**6),
        (("golden", "logits", 0, "ids"), []),
        (("golden", "logits", 0, "ids"), [1]),
        (("golden", "logits"), []),
        (("recipe", "prompt"), {"date": "today"}),
        (("recipe", "prompt"), {"template_kwargs": {"chat_template": "x"}}),
    ],
)
def test_inner_fields_of_a_manifest_have_bounds(
    stored: StoredAdapter, store: Store, task: EchoTask, path: tuple[Any, ...], value: Any
) -> None:
    def change(values: Any) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    edit_manifest(stored, change)
    with pytest.raises(LoadCheckFailed if path == ("golden", "logits") else ManifestError):
        verify(store.get("echo"), task)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"metrics": {"a": NaN}}', '{"name": "\\ud800"}', "\0"]
)
def test_a_manifest_that_is_not_plain_json_is_refused(text: str) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(text, "somewhere")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("field", ["base_difference", "tolerance"])
def test_a_manifest_holds_finite_numbers_only(stored: StoredAdapter, store: Store, field: str, number: str) -> None:
    file = stored.path / MANIFEST
    file.chmod(0o644)
    values = json.loads(file.read_text())
    (values["golden"]["logits"][0] if field == "base_difference" else values["golden"])[field] = "HERE"
    file.write_text(json.dumps(values).replace('"HERE"', number))
    with pytest.raises(ManifestError):
        store.get("echo")


def with_golden(store: Store, stored: StoredAdapter, **changes: Any) -> StoredAdapter:
    golden = stored.manifest.golden.model_copy(update=changes)
    draft = stored.manifest.draft().model_copy(update={"golden": golden})
    return store.add("echo", stored.path, ManifestDraft.model_validate(draft.model_dump()))


def test_without_golden_records_nothing_is_verified(store: Store, stored: StoredAdapter, task: EchoTask) -> None:
    for changes in ({"renders": [], "logits": []}, {"logits": []}):
        with pytest.raises(LoadCheckFailed, match="no golden records"):
            verify(with_golden(store, stored, **changes), task)


def test_a_task_without_examples_is_refused_before_storing(
    store: Store, trained: Path, base: BaseModel, task: EchoTask
) -> None:
    (task.folder / "examples.jsonl").write_text("")
    with pytest.raises(LoadCheckFailed, match=r"no golden records.*examples\.jsonl"):
        store_adapter(store, "echo", trained, task=EchoTask(task.folder), recipe=recipe_for(base), base=base)
    assert store.list() == []


@pytest.mark.slow
def test_the_tolerance_comes_from_the_code_not_the_manifest(
    store: Store, stored: StoredAdapter, task: EchoTask
) -> None:
    first, *rest = stored.manifest.golden.logits
    off = first.model_copy(update={"logits": [value + 0.01 for value in first.logits]})
    with pytest.raises(GoldenLogitsMismatch, match=r"0\.01 off"):
        verify(with_golden(store, stored, logits=[off, *rest], tolerance=1.0), task)
    huge = first.model_copy(update={"logits": [1e30, *first.logits[1:]]})
    with pytest.raises(GoldenLogitsMismatch, match="off"):
        verify(with_golden(store, stored, logits=[huge, *rest], tolerance=1.0), task)


def test_a_lower_precision_does_not_widen_the_tolerance(store: Store, stored: StoredAdapter, task: EchoTask) -> None:
    with pytest.raises(LoadCheckFailed, match="bf16, not in fp32"):
        verify(with_golden(store, stored, precision="bf16", tolerance=1 / 32), task)


def test_golden_token_ids_lie_in_the_vocabulary(store: Store, stored: StoredAdapter, task: EchoTask) -> None:
    first, *rest = stored.manifest.golden.logits
    far = first.model_copy(update={"ids": [10**6, *first.ids[1:]]})
    with pytest.raises(GoldenLogitsMismatch, match="1000000 is not in the vocabulary"):
        verify(with_golden(store, stored, logits=[far, *rest]), task)
    render, *others = stored.manifest.golden.renders
    outside = render.model_copy(update={"token_ids": [10**6, *render.token_ids[1:]]})
    with pytest.raises(GoldenRenderMismatch, match="'e0'"):
        verify(with_golden(store, stored, renders=[outside, *others]), task)


def test_an_adapter_of_an_older_schema_loads_with_a_notice(
    stored: StoredAdapter, store: Store, base: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    def older(values: dict[str, Any]) -> None:
        values["schema_version"] = 3
        del values["recipe"]["prompt"]

    edit_manifest(stored, older)
    old = store.get("echo")
    for _ in range(2):
        check_files(old, base)
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "echo@1 has manifest schema 3" in record.message and "older rule" in record.message
    assert old.manifest.rendering == 3 and stored.manifest.rendering == 4
    caplog.clear()
    check_files(stored, base)
    assert caplog.records == [] and stored.manifest.notice is None


@pytest.mark.slow
def test_an_ordinary_adapter_passes_all_bounds(base: BaseModel, task: EchoTask, store: Store, tmp_path: Path) -> None:
    folder = random_adapter(base, tmp_path / "wide", r=32, alpha=64, target_modules=["q_proj", "self_attn.v_proj"])
    stored = store_adapter(store, "echo", folder, task=task, recipe=recipe_for(base, r=32), base=base)
    verify(stored, task, base)


@pytest.mark.slow
def test_golden_records_do_not_make_the_check_take_for_ever(
    store: Store, stored: StoredAdapter, task: EchoTask, base: BaseModel, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = stored.manifest.golden
    renders = [golden.renders[0]] * 2000
    for changes in (
        {"renders": renders, "logits": [golden.logits[0]] * 2000},
        {"renders": [golden.renders[0].model_copy(update={"token_ids": [5] * 70_000})], "logits": golden.logits[:1]},
        {"renders": renders[:1000], "logits": [golden.logits[0]] * 1000},
    ):
        with pytest.raises(ValueError, match=r"at most|more than"):
            with_golden(store, stored, **changes)

    def with_example(characters: int) -> EchoTask:
        example = {"id": "e0", "group": "e0", "query": "x" * characters}
        (task.folder / "examples.jsonl").write_text(json.dumps(example))
        return EchoTask(task.folder)

    render = golden_renders(with_example(6000), Renderer(load_tokenizer(base)))
    hostile = with_golden(store, stored, renders=render, logits=golden.logits[:1])
    monkeypatch.setattr(load_check, "last_logits", lambda *_: pytest.fail("was computed"))
    with pytest.raises(GoldenLogitsMismatch, match=r"tokens, more than the 4,096 that the base reads"):
        verify(hostile, task)
    with pytest.raises(LoadCheckFailed, match=r"examples have 14.* tokens.*examples\.jsonl"):
        store_adapter(store, "echo", trained, task=with_example(70_000), recipe=recipe_for(base), base=base)


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": [None]},
        {"precision": "fp8"},
        {"max_new_tokens": "x"},
        {"max_new_tokens": -1},
        {"max_new_tokens": 2**40},
        {"max_new_tokens": 1.5},
        {"classifier": 3},
        {"sides": "left"},
        {"method": {}},
        {"lora": []},
    ],
)
def test_what_is_read_of_a_recipe_is_validated(store: Store, trained: Path, draft: ManifestDraft, changed: Any) -> None:
    stored = store.add("echo", trained, draft)
    values = json.loads((stored.path / MANIFEST).read_text())
    values["recipe"].update(changed)
    with pytest.raises(ManifestError, match="is not a manifest: field 'recipe"):
        parse_manifest(json.dumps(values), "x")
    for key in changed:
        del values["recipe"][key]
    shorter = parse_manifest(json.dumps(values), "x")
    if "precision" in changed or "max_new_tokens" in changed:
        with pytest.raises(ManifestError, match=f"echo@1: the recipe in the manifest lacks '{next(iter(changed))}'"):
            _ = shorter.precision, shorter.max_new_tokens


def test_settings_that_the_task_cannot_use_fail_the_load_check(tiny_base: BaseModel, tmp_path: Path) -> None:
    task = load_prompted_task("intent").bound({"kind": "label", "labels": ["buy", "return"], "out_of_scope": None})
    stored = labelled_adapter(Store(tmp_path / "store"), "a", task, tiny_base, tmp_path / "made", seed=0)
    renderer = Renderer(load_tokenizer(tiny_base))
    check_renders(stored, task, renderer)
    for values in ({"settings": {"kind": "label", "labels": 5}}, {"settings": {"kind": "label"}}, {"settings": [7]}):
        manifest = stored.manifest.model_copy(update=values)
        with pytest.raises(LoadCheckFailed):
            check_renders(replace(stored, manifest=manifest), task, renderer)
