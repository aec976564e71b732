from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from searchlora.adapters import operations
from searchlora.adapters.load_check import check_files, check_renders, verify
from searchlora.adapters.manifest import MANIFEST, ManifestDraft
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.adapters.store import Store, StoredAdapter
from searchlora.errors import (
    BaseMismatch,
    BaseModelError,
    GoldenLogitsMismatch,
    GoldenRenderMismatch,
    LoadCheckFailed,
    ManifestError,
    MissingKey,
    TamperedAdapter,
    TokenizerMismatch,
    UnexpectedKey,
    ZeroDelta,
)
from searchlora.models.load import load_tokenizer
from searchlora.models.resolve import BaseModel
from searchlora.prompts import Renderer
from searchlora.retrieval.encoder import encoder_base
from tests.factories import PROMPT, EchoTask, copy_of, echo_task, edit_weights, recipe_for, trained_adapter_folder


@pytest.mark.slow
def test_a_stored_adapter_passes(store: Store, trained: Path, task: EchoTask, base: BaseModel) -> None:
    stored = store_adapter(store, "echo", trained, task=task, recipe=recipe_for(base), base=base)
    check_files(store.get("echo"), base)
    verify(store.get("echo"), task)
    golden = stored.manifest.golden
    assert [render.record["id"] for render in golden.renders] == ["e0", "e1"]
    assert all(len(row.ids) == len(row.logits) == 16 and row.base_difference > 0 for row in golden.logits)


def test_changed_missing_and_extra_files_fail_the_check(stored: StoredAdapter, base: BaseModel) -> None:
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


def test_a_base_that_was_a_folder_is_not_looked_up_on_the_hub(
    store: Store,
    trained: Path,
    draft: ManifestDraft,
    task: EchoTask,
    base: BaseModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of the folder is also that of a repository, which would be a stranger's."""
    asked = []

    def snapshot(repo: str, *, local_files_only: bool, **_: object) -> str:
        asked.append(local_files_only)
        raise FileNotFoundError(repo)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    relative = draft.base.model_copy(update={"name": "models/my-base"})
    stored = store.add("echo", trained, draft.model_copy(update={"base": relative}))
    for use in (
        lambda: verify(stored, task),
        lambda: operations.export("echo", tmp_path / "out", store=store),
        lambda: operations.merge(["echo", "echo"], "both", store=store),
        lambda: encoder_base("models/my-base", stored),
    ):
        with pytest.raises(BaseModelError, match="not a folder here"):
            use()
    assert all(asked)
    monkeypatch.chdir(tmp_path)
    copy_of(base, tmp_path / "models" / "my-base")
    check_files(stored, encoder_base("models/my-base", stored))


def test_an_adapter_of_another_base_fails_the_check(stored: StoredAdapter, other_base: BaseModel) -> None:
    with pytest.raises(BaseMismatch, match="echo@1"):
        check_files(stored, other_base)


def test_the_same_weights_with_another_configuration_fail_the_check(
    stored: StoredAdapter, base: BaseModel, tmp_path: Path
) -> None:
    moved = copy_of(base, tmp_path / "moved")
    file = moved.path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(BaseMismatch, match=r"echo@1.*configuration"):
        check_files(stored, moved)
    file.write_text(json.dumps({**config, "use_cache": False}))
    check_files(stored, moved)


def test_a_manifest_of_schema_1_has_no_configuration_hash(stored: StoredAdapter, store: Store, base: BaseModel) -> None:
    file = stored.path / MANIFEST
    values = json.loads(file.read_text())
    del values["base"]["fingerprint"]["config"]
    file.chmod(0o644)
    file.write_text(json.dumps(values))
    with pytest.raises(ManifestError, match="config is missing"):
        store.get("echo")
    file.write_text(json.dumps({**values, "schema_version": 1}))
    check_files(store.get("echo"), base)


def test_the_same_base_in_another_folder_passes(stored: StoredAdapter, base: BaseModel, tmp_path: Path) -> None:
    check_files(stored, copy_of(base, tmp_path / "moved"))


def test_a_changed_tokenizer_or_chat_template_fails_the_check(
    stored: StoredAdapter, base: BaseModel, tmp_path: Path
) -> None:
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


def test_a_task_template_changed_since_training_fails_the_check(stored: StoredAdapter, tmp_path: Path) -> None:
    changed = echo_task(tmp_path / "changed", PROMPT.replace("Echo the query.", "Repeat the query."))
    with pytest.raises(GoldenRenderMismatch, match=r"'e0'.*prompt template of 'echo' .* changed"):
        verify(stored, changed)


def test_task_code_changed_since_training_fails_the_check(
    stored: StoredAdapter, task: EchoTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EchoTask, "target", lambda _, record: record["query"].upper())
    with pytest.raises(GoldenRenderMismatch, match="the code of 'echo'"):
        verify(stored, task)


def test_changed_history_truncation_or_template_fields_fail_the_check(
    stored: StoredAdapter, task: EchoTask, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer(load_tokenizer(base))
    check_renders(stored, task, renderer)
    wants_more = echo_task(tmp_path / "more", PROMPT.replace("{{ query }}", "{{ query }} {{ place }}"))
    with pytest.raises(GoldenRenderMismatch, match=r"echo@1.*'e0' no longer renders.*place.*\(prompt\.jinja\) changed"):
        check_renders(stored, wants_more, renderer)
    monkeypatch.setattr(EchoTask, "fields", lambda _, record: {"query": record["query"][:3]})
    with pytest.raises(GoldenRenderMismatch, match=r"'e0'.*prompt\.jinja is the same.*code.*cuts a conversation"):
        check_renders(stored, task, renderer)
    monkeypatch.setattr(EchoTask, "fields", lambda _, record: {"query": record["place"]})
    with pytest.raises(GoldenRenderMismatch, match=r"no longer renders.*place.*code"):
        check_renders(stored, task, renderer)


def test_a_template_comment_that_renders_the_same_passes(stored: StoredAdapter, tmp_path: Path) -> None:
    verify(stored, echo_task(tmp_path / "changed", "{# a remark #}" + PROMPT))


def test_an_untrained_adapter_fails_the_check(store: Store, base: BaseModel, task: EchoTask, tmp_path: Path) -> None:
    folder = trained_adapter_folder(base, tmp_path / "zero", steps=0)
    with pytest.raises(ZeroDelta, match=r"A or B is zero"):
        store_adapter(store, "echo", folder, task=task, recipe=recipe_for(base), base=base)
    assert store.list() == []


def test_nan_weights_fail_the_check(store: Store, base: BaseModel, task: EchoTask, writable: Path) -> None:
    edit_weights(writable, lambda tensors: {name: value * float("nan") for name, value in tensors.items()})
    with pytest.raises(LoadCheckFailed, match="NaN"):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)


def test_keys_are_checked_when_storing(store: Store, base: BaseModel, task: EchoTask, writable: Path) -> None:
    edit_weights(writable, lambda tensors: dict(list(tensors.items())[1:]))
    with pytest.raises(MissingKey):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)
    edit_weights(writable, lambda tensors: {f"other.{name}": value for name, value in tensors.items()})
    with pytest.raises((MissingKey, UnexpectedKey)):
        store_adapter(store, "echo", writable, task=task, recipe=recipe_for(base), base=base)
    assert store.list() == []


def _with_golden(store: Store, stored: StoredAdapter, **changes: object) -> StoredAdapter:
    golden = stored.manifest.golden.model_copy(update=changes)
    draft = stored.manifest.draft().model_copy(update={"golden": golden})
    return store.add("echo", stored.path, ManifestDraft.model_validate(draft.model_dump()))


def test_logits_that_differ_from_the_golden_ones_fail_the_check(
    store: Store, stored: StoredAdapter, task: EchoTask
) -> None:
    first, *rest = stored.manifest.golden.logits
    off = first.model_copy(update={"logits": [value + 0.01 for value in first.logits]})
    other = _with_golden(store, stored, logits=[off, *rest])
    with pytest.raises(GoldenLogitsMismatch, match=r"'e0' is 0\.01"):
        verify(other, task)


def test_logits_equal_to_those_of_the_base_fail_the_check(
    store: Store, base: BaseModel, task: EchoTask, stored: StoredAdapter, writable: Path
) -> None:
    def faint(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value * 1e-30 for name, value in tensors.items()}

    edit_weights(writable, faint)
    draft = stored.manifest.draft()
    other = store.add("faint", writable, draft)
    with pytest.raises(GoldenLogitsMismatch, match="equal the base's"):
        verify(other, task, base)


def test_a_failed_check_stores_nothing(
    store: Store, stored: StoredAdapter, task: EchoTask, other_base: BaseModel
) -> None:
    with pytest.raises(BaseMismatch):
        store.add("echo", stored.path, stored.manifest.draft(), check=lambda new: verify(new, task, other_base))
    assert store.versions("echo") == (1,)
    assert not list(store.root.glob(".tmp-*"))
    assert json.loads((stored.path / MANIFEST).read_text())["version"] == 1
