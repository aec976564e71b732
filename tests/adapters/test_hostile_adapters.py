"""Hostile adapters: oversized, malformed or forged files are refused before they are loaded."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from searchlora.adapters import golden as golden_outputs
from searchlora.adapters.attach import attach, new_adapter
from searchlora.adapters.golden import golden_renders
from searchlora.adapters.load_check import check_renders, verify
from searchlora.adapters.manifest import MANIFEST, ManifestDraft, parse_manifest
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.peft_folder import CONFIG, WEIGHTS, check_delta, check_header, read_config, read_weights
from searchlora.adapters.store import Store
from searchlora.errors import (
    GoldenMismatch,
    LoadCheckFailed,
    ManifestError,
    RecipeError,
    TamperedAdapter,
)
from searchlora.models.load import load_model, load_tokenizer
from searchlora.prompts import Renderer
from searchlora.task import load_generation_task
from tests.factories import EchoTask, edit_json, edit_weights, recipe_for
from tests.factories import random_adapter as labelled_adapter

SLOW = "(.*a){25}b"  # fullmatch of a long name takes years
NAME = "model.layers.0.self_attn.q_proj"


def edit_config(folder, **settings):
    edit_json(folder / CONFIG, lambda values: values.update(settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": SLOW},
        {"target_modules": [NAME, "q_proj$"]},
        {"target_modules": ["a"] * 5000},
        {"target_modules": None},
        {"exclude_modules": [SLOW]},
        {"layers_pattern": ["(a+)+"], "layers_to_transform": [0]},
        {"rank_pattern": {SLOW: 4}},
        {"rank_pattern": {"q_proj": 10**6}},
        {"rank_pattern": {f"q{n}": 4 for n in range(600)}},
        {"alpha_pattern": {"q_proj": -1}},
        {"lora_alpha": 0},
        {"lora_alpha": 1e30},
        {"lora_alpha": "8"},
        {"r": 4096},
        {"r": True},
        {"lora_dropout": 7},
        {"task_type": "SEQ_CLS"},
        {"brand_new_setting": "on"},
    ],
    ids=lambda settings: json.dumps(settings)[:60],
)
def test_settings_are_plain_names_and_numbers_within_bounds(base, writable, settings):
    edit_config(writable, **settings)
    started = time.monotonic()
    with pytest.raises(LoadCheckFailed, match=next(iter(settings))):
        read_config(writable)
    with pytest.raises(LoadCheckFailed):
        attach(load_model(base, precision="fp32"), writable)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "text",
    ["NaN", "1e999", "9" * 5000, "[" * 100_000, '"' + "x" * 5_000_000 + '"'],
)
def test_a_non_finite_or_non_numeric_setting_is_refused(writable, text):
    file = writable / CONFIG
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "lora_alpha": "HERE"}).replace('"HERE"', text))
    with pytest.raises((TamperedAdapter, LoadCheckFailed)):
        read_config(writable)


def test_disabled_settings_are_ignored_under_any_name(base, writable):
    edit_config(writable, brand_new_setting=None, another=False, third={}, auto_mapping={"parent_library": "os"})
    attach(load_model(base, precision="fp32"), writable)


@pytest.mark.parametrize("modules", ["q_proj", ["q_proj|k_proj"]])
def test_a_recipe_lists_target_modules_by_plain_name(base, modules):
    with pytest.raises(RecipeError, match="target_modules"):
        new_adapter(load_model(base, precision="fp32"), recipe_for(base, target_modules=modules))


def write_header(folder, header, data=0):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    file = folder / WEIGHTS
    file.unlink(missing_ok=True)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + data)  # a sparse file: it occupies no disk space


def tensor(*shape, dtype="F32"):
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
        ("[" * 100_000, 0, "not safetensors"),
        ({A: {"dtype": "F32"}}, 0, "not safetensors"),
        ([], 0, "not safetensors"),
    ],
)
def test_size_rank_and_types_are_checked_before_weights_are_loaded(writable, monkeypatch, header, data, message):
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("weights were loaded"))
    write_header(writable, header, data)
    for check in (check_header, read_weights, check_delta):
        with pytest.raises(LoadCheckFailed, match=message):
            check(writable)


def test_a_header_longer_than_its_file_is_refused(writable):
    for length in (2**63, 10**9, 100):
        (writable / WEIGHTS).unlink()
        (writable / WEIGHTS).write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(TamperedAdapter, match="not safetensors"):
            read_weights(writable)


@pytest.mark.parametrize("value", [-1e38, 1e5, float("nan"), float("inf")])
def test_implausible_weights_are_not_stored(store, base, task, writable, value):
    def spoil(tensors):
        tensors[B][0, 0] = value
        return tensors

    edit_weights(writable, spoil)
    with pytest.raises(LoadCheckFailed, match=r"lora_B.weight holds"):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)
    assert store.list() == []


# Manifests


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created", "yesterday"),
        ("created", None),
        ("version", 10**9),
        ("version", "1 "),
        ("name", "../x"),
        ("task", LONG),
        ("task", "e\x1b[31mcho"),
        ("task_version", -1),
        ("metrics", {"loss": [1.0]}),
        ("metrics", {"l\x07ss": 1.0}),
        ("metrics", {f"m{n}": 1 for n in range(2000)}),
        ("parents", ["../../etc/passwd"]),
        ("parents", ["echo@production"]),
        ("parents", ["echo@1"] * 2000),
        ("files", {"a/b": "a" * 64}),
        ("files", {"x": "abc"}),
        ("versions", {"torch": "1\x1b[0m"}),
        ("prompt_hash", "no hash"),
        ("schema_version", "5"),
    ],
)
def test_fields_of_a_manifest_have_bounds(stored, store, field, value):
    edit_json(stored.path / MANIFEST, lambda values: values.update({field: value}))
    with pytest.raises(ManifestError, match=field):
        store.get("echo")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("base", "name"), "a\nb"),
        (("base", "name"), "\u202eevil"),
        (("base", "revision"), "\x00"),
        (("base", "fingerprint", "tensors"), "x" * 1000),
        (("golden", "tolerance"), 2.0),
        (("golden", "renders", 0, "token_ids"), [2**40]),
        (("golden", "renders", 0, "prompt_length"), 10**6),
        (("golden", "logits", 0, "ids"), [1]),
        (("golden", "logits"), []),
        (("recipe", "prompt"), {"template_kwargs": {"chat_template": "x"}}),
    ],
)
def test_inner_fields_of_a_manifest_have_bounds(stored, store, task, path, value):
    def change(values):
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    edit_json(stored.path / MANIFEST, change)
    with pytest.raises(LoadCheckFailed if path == ("golden", "logits") else ManifestError):
        verify(store.get("echo"), task)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"golden": {"tolerance": 1e999}}', '{"name": "\\ud800"}', "\0"])
def test_a_manifest_that_is_not_plain_json_is_refused(text):
    with pytest.raises(ManifestError):
        parse_manifest(text, "somewhere")


def with_golden(store, stored, **changes):
    golden = stored.manifest.golden.model_copy(update=changes)
    draft = stored.manifest.draft().model_copy(update={"golden": golden})
    return store.add("echo", stored.path, ManifestDraft.model_validate(draft.model_dump()))


def test_without_golden_records_nothing_is_verified(store, stored, task):
    for changes in ({"renders": [], "logits": []}, {"logits": []}):
        with pytest.raises(LoadCheckFailed, match="no golden records"):
            verify(with_golden(store, stored, **changes), task)


def test_a_task_without_examples_is_refused_before_storing(store, trained, base, task):
    (task.folder / "examples.jsonl").write_text("")
    with pytest.raises(LoadCheckFailed, match=r"no golden records.*examples\.jsonl"):
        store_adapter(store, "echo", trained, task=EchoTask(task.folder), recipe=recipe_for(base), base=base)
    assert store.list() == []


@pytest.mark.slow
def test_the_tolerance_comes_from_the_code_not_the_manifest(store, stored, task):
    first, *rest = stored.manifest.golden.logits
    off = first.model_copy(update={"logits": [value + 0.01 for value in first.logits]})
    with pytest.raises(GoldenMismatch, match=r"0\.01 off"):
        verify(with_golden(store, stored, logits=[off, *rest], tolerance=1.0), task)
    huge = first.model_copy(update={"logits": [1e30, *first.logits[1:]]})
    with pytest.raises(GoldenMismatch, match="off"):
        verify(with_golden(store, stored, logits=[huge, *rest], tolerance=1.0), task)


def test_a_lower_precision_does_not_widen_the_tolerance(store, stored, task):
    with pytest.raises(LoadCheckFailed, match="bf16, not in fp32"):
        verify(with_golden(store, stored, precision="bf16", tolerance=1 / 32), task)


def test_golden_token_ids_lie_in_the_vocabulary(store, stored, task):
    first, *rest = stored.manifest.golden.logits
    far = first.model_copy(update={"ids": [10**6, *first.ids[1:]]})
    with pytest.raises(GoldenMismatch, match="1000000 is not in the vocabulary"):
        verify(with_golden(store, stored, logits=[far, *rest]), task)
    render, *others = stored.manifest.golden.renders
    outside = render.model_copy(update={"token_ids": [10**6, *render.token_ids[1:]]})
    with pytest.raises(GoldenMismatch, match="'e0'"):
        verify(with_golden(store, stored, renders=[outside, *others]), task)


@pytest.mark.slow
def test_golden_records_do_not_make_the_check_take_for_ever(store, stored, task, base, trained, monkeypatch):
    golden = stored.manifest.golden
    renders = [golden.renders[0]] * 2000
    for changes in (
        {"renders": renders, "logits": [golden.logits[0]] * 2000},
        {"renders": [golden.renders[0].model_copy(update={"token_ids": [5] * 70_000})], "logits": golden.logits[:1]},
        {"renders": renders[:1000], "logits": [golden.logits[0]] * 1000},
    ):
        with pytest.raises(ValueError, match=r"at most|more than"):
            with_golden(store, stored, **changes)

    def with_example(characters):
        example = {"id": "e0", "group": "e0", "query": "x" * characters}
        (task.folder / "examples.jsonl").write_text(json.dumps(example))
        return EchoTask(task.folder)

    render = golden_renders(with_example(6000), Renderer(load_tokenizer(base)))
    hostile = with_golden(store, stored, renders=render, logits=golden.logits[:1])
    monkeypatch.setattr(golden_outputs, "last_logits", lambda *_: pytest.fail("was computed"))
    with pytest.raises(GoldenMismatch, match=r"tokens, more than the 4,096 that the base reads"):
        verify(hostile, task)
    with pytest.raises(LoadCheckFailed, match=r"examples have 14.* tokens.*examples\.jsonl"):
        store_adapter(store, "echo", trained, task=with_example(70_000), recipe=recipe_for(base), base=base)


@pytest.mark.parametrize(
    "changed",
    [
        {"precision": "fp8"},
        {"max_new_tokens": -1},
        {"max_new_tokens": 1.5},
        {"classifier": 3},
        {"sides": "left"},
        {"method": {}},
        {"lora": []},
    ],
)
def test_what_is_read_of_a_recipe_is_validated(store, trained, draft, changed):
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


def test_settings_that_the_task_cannot_use_fail_the_load_check(tiny_base, tmp_path):
    task = load_generation_task("intent").bound({"kind": "label", "labels": ["buy", "return"], "out_of_scope": None})
    stored = labelled_adapter(Store(tmp_path / "store"), "a", task, tiny_base, tmp_path / "made", seed=0)
    renderer = Renderer(load_tokenizer(tiny_base))
    check_renders(stored, task, renderer)
    for values in ({"settings": {"kind": "label", "labels": 5}}, {"settings": {"kind": "label"}}, {"settings": [7]}):
        manifest = stored.manifest.model_copy(update=values)
        with pytest.raises(LoadCheckFailed):
            check_renders(replace(stored, manifest=manifest), task, renderer)
