"""Push and pull: copy a version to and from a folder, an object store (`s3://...`) or the hub (`hf://OWNER/REPO`).

The target holds one version as a plain PEFT folder. The manifest is written last, so a copy without one is incomplete.
Transport is fsspec's.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.full_model import check_weights
from searchlora.adapters.manifest import MANIFEST, manifest_json, parse_manifest
from searchlora.adapters.remote_files import (
    CLAIM,
    SCHEMES,
    SERVERS,
    STORE_ID,
    STORE_SCHEMES,
    fetch_files,
    manifest_at,
    open_url,
    scheme_of,
    send_files,
    transport,
)
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter, check_hashes, without_paths
from searchlora.errors import (
    BaseModelError,
    NameTaken,
    NotInStore,
    TamperedAdapter,
    UsageError,
)
from searchlora.models.resolve import resolve


@dataclass(frozen=True)
class PushResult:
    """Result of a push; `already` if the same version was at the URL before, so no file was sent.

    Attributes:
        sha256: Hash of the manifest at the URL, and so of every file; what `pull` takes.
    """

    reference: str
    url: str
    already: bool
    sha256: str

    def __str__(self) -> str:
        return f"{self.reference} {'was already' if self.already else 'is now'} at {self.url}, sha256 {self.sha256}"


@dataclass(frozen=True)
class PullResult(StoredAdapter):
    """The version in the store; `unverified` is the reason why it was not verified in full, or None."""

    unverified: str | None = None

    def __str__(self) -> str:
        if self.unverified is None:
            return f"{self.reference} is in the store and was verified in full"
        return (
            f"{self.reference} is in the store; its files match their hashes and its delta is not zero, but it was NOT "
            f"verified in full: {self.unverified} Run: searchlora adapters verify {self.reference}"
        )


def push(reference: str, url: str, *, store: Store | str | Path | None = None) -> PushResult:
    """Copy a version to a folder, an object store or the hub. A new repository on the hub is private.

    Absolute paths in the manifest, such as that of the base, are sent as their last part.

    Raises:
        InvalidName, NotInStore, ManifestError: as `Store.get`.
        TamperedAdapter: if a file of the version changed since it was stored.
        NameTaken: if the target holds another version or other files, or is in a store at a URL.
        UsageError: for a URL whose scheme is none of `SCHEMES`, or that no installed package serves.
        StoreError: if the target cannot be written.
    """
    store = Store.of(store)
    stored = store.get(reference)
    check_hashes(stored)
    manifest = without_paths(stored.manifest)
    system, root = open_url(url)
    with transport(url, "written"):
        content = manifest_at(system, root, url)
        if content is not None:
            remote = parse_manifest(content.decode("utf-8", errors="replace"), f"{url}/{MANIFEST}")
            if remote != manifest:
                raise NameTaken(f"{remote.reference} already exists", where=url, fix="Push to another URL.")
            return PushResult(stored.reference, url, already=True, sha256=_sha256(content))
        if scheme_of(url) in STORE_SCHEMES and _is_in_store(system, root):
            raise NameTaken(
                "it is the place of a version in a store, whose numbers are claimed by those who write to it",
                where=url,
                fix="Pull the version into that store: searchlora adapters pull FOLDER --store URL.",
            )
        names = sorted(stored.manifest.files)
        if others := sorted(_names_at(system, root) - {*names, MANIFEST}):
            raise NameTaken(f"there are other files, such as {others[0]}", where=url, fix="Push to an empty folder.")
        _prepare(system, root)
        is_same = manifest == stored.manifest
        text = (stored.path / MANIFEST).read_bytes() if is_same else manifest_json(manifest).encode()
        send_files(system, stored.path, names, root, text)
    return PushResult(stored.reference, url, already=False, sha256=_sha256(text))


def pull(
    url: str,
    *,
    name: str | None = None,
    base: str | None = None,
    tasks: str | Path | None = None,
    sha256: str | None = None,
    store: Store | str | Path | None = None,
) -> PullResult:
    """Copy a version into the store; it is checked before it becomes visible.

    Hashes show only that the files match their manifest, so the delta is checked too and, if task and base are on this
    machine, everything that `load_check.verify` checks. The base is never downloaded. The version keeps its name and
    number, or becomes the next version of `name`.

    Args:
        base: Name or folder of the base; None looks on this machine for the one in the manifest.
        tasks: A folder of further task plugins.
        sha256: Hash of the manifest, which has the hash of every other file, as `push` prints it; None: any.

    Raises:
        NotInStore: if there is no adapter at the URL.
        ManifestError, TamperedAdapter: if it is incomplete or does not match its manifest.
        ZeroDelta, LoadCheckFailed: what `check_weights` and, if task and base are known, `verify` raise.
        InvalidName, NameTaken: see `Store.adopt`.
        EngineError: for a malformed address of a server; http and https are read, too.
        UsageError, StoreError: see `push`.
    """
    system, root = open_url(url, (*SCHEMES, *SERVERS))
    with transport(url, "read"):
        content = manifest_at(system, root, url)
    if content is None:
        raise NotInStore("there is no adapter with a searchlora manifest", where=url)
    if sha256 not in (None, found := _sha256(content)):
        raise TamperedAdapter(f"the manifest has the sha256 {found}, not {sha256}", where=url)
    manifest = parse_manifest(content.decode("utf-8", errors="replace"), f"{url}/{MANIFEST}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / MANIFEST).write_bytes(content)  # not fetched again: it could be another one then
        for _ in fetch_files(system, root, manifest.files, folder):
            pass
        check_hashes(StoredAdapter(folder, manifest))
        check_weights(StoredAdapter(folder, manifest))
        unverified = _verify(StoredAdapter(folder, manifest), base, tasks)
        landed = Store.of(store).adopt(folder, manifest, name)
        return PullResult(landed.path, landed.manifest, unverified)


def _sha256(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()


def _verify(stored: StoredAdapter, base: str | None, tasks: str | Path | None) -> str | None:
    """Verify in full; returns the reason if task or base are not on this machine."""
    from searchlora.adapters.load_check import verify
    from searchlora.task import load_task

    manifest = stored.manifest
    try:
        task = load_task(manifest.task, tasks)
        model = resolve(base) if base else manifest.base.resolve(ask_hub=False)
    except (UsageError, BaseModelError) as error:
        return str(error)
    verify(stored, task, model)
    return None


def _prepare(system: Any, root: str) -> None:
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if "hf" in protocols:
        from huggingface_hub import HfApi

        HfApi().create_repo("/".join(root.split("/")[:2]), private=True, exist_ok=True)
    elif protocols & {"file", "memory"}:  # an object store has no folders
        system.makedirs(root, exist_ok=True)


def _is_in_store(system: Any, root: str) -> bool:
    """Whether a place is that of a version in a store at a URL, see `object_store`."""
    store = root.rsplit("/", 2)[0]
    for path in (f"{root}/{CLAIM}", f"{store}/{STORE_ID}"):
        with suppress(PermissionError):  # the rights may end at the target
            if system.exists(path):
                return True
    return False


def _names_at(system: Any, root: str) -> set[str]:
    try:
        paths = system.ls(root, detail=False)
    except FileNotFoundError:
        return set()
    names = {str(path).rstrip("/").rpartition("/")[2] for path in paths}
    return {name for name in names if not name.startswith(".")}  # a new repository on the hub holds .gitattributes
