from __future__ import annotations

import json
import weakref

import pytest

from searchlora.adapters import golden, operations
from searchlora.adapters.load_check import check_files, check_renders, verify
from searchlora.adapters.manifest import MANIFEST
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.errors import (
    BaseMismatch,
    BaseModelError,
    GoldenMismatch,
    MissingKey,
    TamperedAdapter,
    TokenizerMismatch,
    UnexpectedKey,
    ZeroDelta,
)
from searchlora.models.load import load_tokenizer
from searchlora.prompts import Renderer
from searchlora.retrieval.encoder import encoder_base
from tests.factories import (
    PROMPT,
    EchoTask,
    copy_of,
    echo_task,
    edit_weights,
    recipe_for,
    trained_adapter_folder,
)


@pytest.mark.slow
def test_a_stored_adapter_passes(store, trained, task, base):
    stored = store_adapter(store, "echo", trained, task=task, recipe=recipe_for(base), base=base)
    check_files(store.get("echo"), base)
    verify(store.get("echo"), task)
    golden = stored.manifest.golden
    assert [render.record["id"] for render in golden.renders] == ["e0", "e1"]
    assert all(len(row.ids) == len(row.logits) == 16 and row.base_difference > 0 for row in golden.logits)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "loads"), [("lora", 1), ("full", 3)])
def test_storing_loads_one_model_at_a_time(monkeypatch, store, trained, task, base, tmp_path, method, loads):
    """An adapter needs its base once; a whole model is loaded twice, as it was trained and as it is stored."""
    load, loaded = golden.load_model, []
    alive_before = []

    def counted(*arguments, **options):
        alive_before.append(sum(model() is not None for model in loaded))
        model = load(*arguments, **options)
        loaded.append(weakref.ref(model))
        return model

    folder = trained
    if method == "full":
        folder = tmp_path / "whole"
        model = load(base, precision="fp32")
        model.get_input_embeddings().weight.mul_(1.5)
        model.save_pretrained(folder)
        load_tokenizer(base).save_pretrained(folder)
    monkeypatch.setattr(golden, "load_model", counted)
    recipe = recipe_for(base).model_copy(update={"method": method})
    store_adapter(store, "echo", folder, task=task, recipe=recipe, base=base)
    assert alive_before == [0] * loads
    verify(store.get("echo"), task)
    assert not any(alive_before)


def test_changed_missing_and_extra_files_fail_the_check(stored, base):
    (stored.path / "extra.txt").write_text("x")
    with pytest.raises(TamperedAdapter, match=r"extra\.txt.*does not belong"):
        check_files(stored, base)
    (stored.path / "extra.txt").unlink()
    edit_weights(stored.path, lambda tensors: {name: value + 1 for name, value in tensors.items()})
    with pytest.raises(TamperedAdapter, match=f"{WEIGHTS}.*was changed"):
        check_files(stored, base)
    (stored.path / WEIGHTS).unlink()
    with pytest.raises(TamperedAdapter, match=f"{WEIGHTS}.*is missing"):
        check_files(stored, base)
    (stored.path / WEIGHTS).symlink_to("/etc/hostname")
    with pytest.raises(TamperedAdapter, match="link"):
        check_files(stored, base)


def test_a_base_that_was_a_folder_is_not_looked_up_on_the_hub(store, trained, draft, task, base, tmp_path, monkeypatch):
    """The name of the folder is also that of a repository, which would be a stranger's."""
    asked = []

    def snapshot(repo, *, local_files_only, **_):
        asked.append(local_files_only)
        raise FileNotFoundError(repo)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    relative = draft.base.model_copy(update={"name": "models/my-base"})
    stored = store.add("echo", trained, draft.model_copy(update={"base": relative}))
    for use in (
        lambda: verify(stored, task),
        lambda: operations.export("echo", tmp_path / "out", store=store),
        lambda: encoder_base("models/my-base", stored),
    ):
        with pytest.raises(BaseModelError, match="not a folder here"):
            use()
    assert all(asked)
    monkeypatch.chdir(tmp_path)
    copy_of(base, tmp_path / "models" / "my-base")
    check_files(stored, encoder_base("models/my-base", stored))


def test_an_adapter_of_another_base_fails_the_check(stored, other_base):
    with pytest.raises(BaseMismatch, match="echo@1"):
        check_files(stored, other_base)


def test_the_same_weights_with_another_configuration_fail_the_check(stored, base, tmp_path):
    moved = copy_of(base, tmp_path / "moved")
    file = moved.path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(BaseMismatch, match=r"echo@1.*configuration"):
        check_files(stored, moved)
    file.write_text(json.dumps({**config, "use_cache": False}))
    check_files(stored, moved)


def test_a_changed_tokenizer_or_chat_template_fails_the_check(stored, base, tmp_path):
    moved = copy_of(base, tmp_path / "moved")
    file = moved.path / "chat_template.jinja"
    file.write_text(file.read_text() + " ")
    with pytest.raises(TokenizerMismatch, match="chat template"):
        check_files(stored, moved)
    file.write_text(file.read_text()[:-1])
    tokenizer = moved.path / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    tokenizer.write_text(json.dumps(content))
    with pytest.raises(TokenizerMismatch, match="tokenizer"):
        check_files(stored, moved)


def test_a_task_template_changed_since_training_fails_the_check(stored, tmp_path):
    changed = echo_task(tmp_path / "changed", PROMPT.replace("Echo the query.", "Repeat the query."))
    with pytest.raises(GoldenMismatch, match=r"'e0'.*prompt template of 'echo' .* changed"):
        verify(stored, changed)


def test_task_code_changed_since_training_fails_the_check(stored, task, monkeypatch):
    monkeypatch.setattr(EchoTask, "target", lambda _, record: record["query"].upper())
    with pytest.raises(GoldenMismatch, match="the code of 'echo'"):
        verify(stored, task)


def test_changed_history_truncation_or_template_fields_fail_the_check(stored, task, base, tmp_path, monkeypatch):
    renderer = Renderer(load_tokenizer(base))
    check_renders(stored, task, renderer)
    wants_more = echo_task(tmp_path / "more", PROMPT.replace("{{ query }}", "{{ query }} {{ place }}"))
    with pytest.raises(GoldenMismatch, match=r"echo@1.*'e0' no longer renders.*place.*\(prompt\.jinja\) changed"):
        check_renders(stored, wants_more, renderer)
    monkeypatch.setattr(EchoTask, "fields", lambda _, record: {"query": record["query"][:3]})
    with pytest.raises(GoldenMismatch, match=r"'e0'.*prompt\.jinja is the same.*code.*cuts a conversation"):
        check_renders(stored, task, renderer)
    monkeypatch.setattr(EchoTask, "fields", lambda _, record: {"query": record["place"]})
    with pytest.raises(GoldenMismatch, match=r"no longer renders.*place.*code"):
        check_renders(stored, task, renderer)


def test_a_template_comment_that_renders_the_same_passes(stored, tmp_path):
    verify(stored, echo_task(tmp_path / "changed", "{# a remark #}" + PROMPT))


def test_an_untrained_adapter_fails_the_check(store, base, task, tmp_path):
    folder = trained_adapter_folder(base, tmp_path / "zero", steps=0)
    with pytest.raises(ZeroDelta, match=r"A or B is zero"):
        store_adapter(store, "echo", folder, task=task, recipe=recipe_for(base), base=base)
    assert store.list() == []


def test_keys_are_checked_when_storing(store, base, task, writable):
    edit_weights(writable, lambda tensors: dict(list(tensors.items())[1:]))
    with pytest.raises(MissingKey):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)
    edit_weights(writable, lambda tensors: {f"other.{name}": value for name, value in tensors.items()})
    with pytest.raises((MissingKey, UnexpectedKey)):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)
    assert store.list() == []


def test_logits_equal_to_those_of_the_base_fail_the_check(store, base, task, stored, writable):
    def faint(tensors):
        return {name: value * 1e-30 for name, value in tensors.items()}

    edit_weights(writable, faint)
    draft = stored.manifest.draft()
    other = store.add("faint", writable, draft)
    with pytest.raises(GoldenMismatch, match="equal the base's"):
        verify(other, task, base)


def test_a_failed_check_stores_nothing(store, stored, task, other_base):
    with pytest.raises(BaseMismatch):
        store.add("echo", stored.path, stored.manifest.draft(), check=lambda new: verify(new, task, other_base))
    assert store.versions("echo") == (1,)
    assert not list(store.root.rglob(".*.partial"))
    assert json.loads((stored.path / MANIFEST).read_text())["version"] == 1
