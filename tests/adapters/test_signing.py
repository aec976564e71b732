"""Signed versions: each way to pass off a version as one that a trusted key has signed."""

from __future__ import annotations

import json
import pickle
import shutil
import stat
import subprocess

import pytest

from searchlora.adapters.audit import check_audit
from searchlora.adapters.manifest import MANIFEST, write_manifest
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.adapters.signing import TrustedKeys, generate_key, read_private_key, sign
from searchlora.adapters.store import Store
from searchlora.adapters.stored import SIGNATURE, file_hashes
from searchlora.adapters.transfer import pull, push
from searchlora.errors import ManifestError, TamperedAdapter, UntrustedAdapter, UsageError
from tests.factories import edit_weights


@pytest.fixture
def key(tmp_path):
    generate_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def public(key):
    return key.with_name("key.pem.pub")


@pytest.fixture
def there(stored, store, key, tmp_path):  # noqa: ARG001  # `stored` is pushed
    """The folder to which `echo@1` was pushed with a signature; a test may change its files."""
    folder = tmp_path / "there"
    assert "signed by the key" in str(push("echo@1", str(folder), sign=key, store=store))
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


@pytest.fixture
def pulled(there, public, tmp_path):
    return lambda: pull(str(there), trusted=public, store=Store(tmp_path / "other"))


def test_a_signed_version_is_pulled_with_its_signature_and_can_be_pushed_on(pulled, there, public, tmp_path):
    other = pulled()
    assert (other.path / SIGNATURE).read_bytes() == (there / SIGNATURE).read_bytes()
    push("echo@1", f"memory://{tmp_path.name}/on", store=other.path.parents[1])
    third = pull(f"memory://{tmp_path.name}/on", trusted=public, store=Store(tmp_path / "third"))
    assert third.manifest == other.manifest
    entry = Store(tmp_path / "third").audit.lines()[0]
    assert b", signed by " in entry


@pytest.mark.parametrize("is_forged", [False, True], ids=["weights", "weights and manifest"])
def test_weights_that_were_altered_after_signing_are_refused(pulled, there, stored, is_forged):
    edit_weights(there, lambda found: {name: value * 1.01 for name, value in found.items()})
    if is_forged:  # the manifest is the one of the new weights
        write_manifest(stored.manifest.model_copy(update={"files": file_hashes(there)}), there)
    with pytest.raises(UntrustedAdapter if is_forged else TamperedAdapter, match=None if is_forged else WEIGHTS):
        pulled()


@pytest.mark.parametrize(("field", "value"), [("name", "echoes"), ("version", 2), ("metrics", {"loss": 0.0})])
def test_a_manifest_that_was_altered_after_signing_is_refused(pulled, there, field, value):
    content = json.loads((there / MANIFEST).read_text())
    (there / MANIFEST).write_text(json.dumps(content | {field: value}))
    with pytest.raises(UntrustedAdapter, match=r"changed after it was signed"):
        pulled()


def test_the_signature_of_another_version_is_refused(pulled, there, store, trained, draft, key, tmp_path):
    store.add("echo", trained, draft.model_copy(update={"metrics": {"loss": 9.0}}))
    push("echo@2", str(tmp_path / "second"), sign=key, store=store)
    shutil.copy(tmp_path / "second" / SIGNATURE, there / SIGNATURE)
    with pytest.raises(UntrustedAdapter, match="is not one of echo@1"):
        pulled()


def test_a_version_without_a_signature_is_refused_where_one_is_demanded(pulled, there, tmp_path):
    (there / SIGNATURE).unlink()
    with pytest.raises(UntrustedAdapter, match="echo@1 is not signed"):
        pulled()
    assert not (tmp_path / "other").exists()
    assert pull(str(there), store=Store(tmp_path / "other")).reference == "echo@1"


def test_a_signature_by_another_key_is_refused(there, tmp_path):
    generate_key(tmp_path / "mallory.pem")
    with pytest.raises(UntrustedAdapter, match="which is not trusted"):
        pull(str(there), trusted=tmp_path / "mallory.pem.pub", store=Store(tmp_path / "other"))


def test_a_signature_by_another_key_under_the_id_of_a_trusted_one_is_refused(pulled, there, store, tmp_path):
    trusted_id = json.loads((there / SIGNATURE).read_text())["key"]
    generate_key(tmp_path / "mallory.pem")
    push("echo@1", str(there), sign=tmp_path / "mallory.pem", store=store)
    forged = json.loads((there / SIGNATURE).read_text())
    (there / SIGNATURE).write_text(json.dumps(forged | {"key": trusted_id}))
    with pytest.raises(UntrustedAdapter, match="the signature is not one of"):
        pulled()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"[" * 100_000])
def test_a_signature_that_cannot_be_read_is_refused(pulled, there, content):
    (there / SIGNATURE).write_bytes(content)
    with pytest.raises(UntrustedAdapter, match="cannot be read"):
        pulled()


def test_a_path_in_a_signed_manifest_leaves_no_folder(pulled, there, key, stored, tmp_path):
    """A trusted key does not make a path harmless."""
    from searchlora.adapters.signing import read_private_key, sign

    for name in ("../escaped", "/tmp/escaped", "a/b"):
        values = json.loads((there / MANIFEST).read_text())
        content = json.dumps(values | {"files": {name: "a" * 64}}).encode()
        (there / MANIFEST).write_bytes(content)
        (there / SIGNATURE).write_bytes(sign(content, stored.reference, read_private_key(key)))
        with pytest.raises(ManifestError):
            pulled()
    assert not (tmp_path / "other").exists() and not (tmp_path / "escaped").exists()


def test_a_version_that_was_pushed_before_can_be_signed(stored, store, key, public, tmp_path):
    push(stored.reference, str(tmp_path / "there"), store=store)
    assert push(stored.reference, str(tmp_path / "there"), sign=key, store=store).already
    assert pull(str(tmp_path / "there"), trusted=public, store=Store(tmp_path / "other")).reference == "echo@1"


def test_the_signature_of_an_interrupted_push_is_not_left_to_another_version(stored, store, there):
    (there / MANIFEST).unlink()
    push(stored.reference, str(there), store=store)
    assert not (there / SIGNATURE).exists()


def test_a_copy_under_another_name_has_no_signature(there, public, tmp_path):
    renamed = pull(str(there), name="copy", trusted=public, store=Store(tmp_path / "other"))
    assert not (renamed.path / SIGNATURE).exists()


def test_several_keys_are_trusted_and_a_private_one_or_another_text_is_no_trusted_key(pulled, public, tmp_path):
    generate_key(tmp_path / "second.pem")
    own = public.read_text()
    public.write_text((tmp_path / "second.pem.pub").read_text() + own)
    assert pulled().reference == "echo@1" and len(TrustedKeys.read(public).keys) == 2
    for text in ("", "key", (tmp_path / "key.pem").read_text(), own.replace("MCow", "AAAA"), f"# mine\n{own}"):
        public.write_text(text)
        with pytest.raises(UsageError, match="something else than public"):
            TrustedKeys.read(public)


def test_a_key_of_openssl_signs_and_an_rsa_key_does_not(stored, store, tmp_path):
    for kind in ("ed25519", "rsa"):
        subprocess.run(["openssl", "genpkey", "-algorithm", kind, "-out", tmp_path / kind], check=True)
    shown = subprocess.run(["openssl", "pkey", "-in", tmp_path / "ed25519", "-pubout"], check=True, capture_output=True)
    (tmp_path / "pub").write_bytes(shown.stdout)
    push(stored.reference, str(tmp_path / "there"), sign=tmp_path / "ed25519", store=store)
    pull(str(tmp_path / "there"), trusted=tmp_path / "pub", store=Store(tmp_path / "other"))
    with pytest.raises(UsageError, match="not a private Ed25519 key"):
        push(stored.reference, str(tmp_path / "elsewhere"), sign=tmp_path / "rsa", store=store)
    assert not (tmp_path / "elsewhere").exists()


def test_a_private_key_is_for_its_owner_and_is_never_overwritten(key):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="already exists"):
        generate_key(key)


@pytest.mark.parametrize("place", ["{folder}/other", "memory://signed/{folder}"])
def test_a_store_that_demands_signatures_gives_no_other_version(
    there, public, trained, draft, tmp_path, place, monkeypatch
):
    store = Store(place.format(folder=tmp_path))
    store.trusted = TrustedKeys.read(public)
    pull(str(there), store=store)
    store.add("unsigned", trained, draft)
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "another machine"))
    for each in (store, pickle.loads(pickle.dumps(store))):
        assert each.get("echo").reference == "echo@1"
        with pytest.raises(UntrustedAdapter, match="unsigned@1 is not signed"):
            each.get("unsigned")
        with pytest.raises(UntrustedAdapter):
            each.prompt_options("unsigned")


def test_a_server_that_was_first_at_a_url_goes_on_demanding_signatures(public, trained, draft, tmp_path, monkeypatch):
    place = f"memory://first/{tmp_path}"
    server = Store(place)
    server.trusted = TrustedKeys.read(public)
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "another machine"))
    Store(place).add("unsigned", trained, draft)
    server.check_writable()  # it finds that the store has another id than it thought
    assert server.names() == ("unsigned",)
    for each in (server, server.copied_to(tmp_path / "copy")):
        with pytest.raises(UntrustedAdapter):
            each.get("unsigned")


def test_a_version_that_is_signed_by_another_key_later_is_read_again(there, public, tmp_path):
    store = Store(f"memory://rotated/{tmp_path}")
    pull(str(there), trusted=public, store=store)
    generate_key(tmp_path / "new.pem")
    new = tmp_path / "new.pem.pub"
    manifest = (there / MANIFEST).read_bytes()
    signature = sign(manifest, "echo@1", read_private_key(tmp_path / "new.pem"))
    Store(store.place).copied_to(tmp_path / "copy").keep_signature(store.get("echo@1"), manifest, signature)
    store.trusted = TrustedKeys.read(new)
    assert store.get("echo@1").reference == "echo@1"


@pytest.mark.parametrize("place", ["{folder}/other", "memory://signed-later/{folder}"])
def test_a_version_that_is_in_the_store_gets_the_signature_of_an_equal_one(there, public, tmp_path, place, monkeypatch):
    store, signature = Store(place.format(folder=tmp_path)), (there / SIGNATURE).read_bytes()
    (there / SIGNATURE).unlink()
    pull(str(there), store=store)
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "another machine"))
    other = Store(store.place)
    assert other.get("echo@1").reference == "echo@1"
    (there / SIGNATURE).write_bytes(b"not checked")
    assert not (pull(str(there), store=store).path / SIGNATURE).exists()
    (there / SIGNATURE).write_bytes(signature)
    assert (pull(str(there), trusted=public, store=store).path / SIGNATURE).read_bytes() == signature
    monkeypatch.setattr("searchlora.adapters.object_store.POLL_S", 0.0)
    other.versions("echo")
    for each in (store, other):
        each.trusted = TrustedKeys.read(public)
        assert each.get("echo@1").reference == "echo@1"
    assert check_audit(store).problems == [] and check_audit(store).entries[-1].what == "sign"


def test_a_version_that_was_altered_in_a_store_that_demands_signatures_is_refused(pulled, public):
    stored = pulled()
    store = Store(stored.path.parents[1])
    store.trusted = TrustedKeys.read(public)
    manifest = stored.path / MANIFEST
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"task_version": 1', '"task_version": 2'))
    with pytest.raises(UntrustedAdapter, match="changed after it was signed"):
        store.get("echo@1")
