"""Push and pull: copy a version to and from a folder, an object store (`s3://...`) or the hub (`hf://OWNER/REPO`).

The target holds one version as a plain PEFT folder. The manifest is written last, so a copy without one is incomplete.
Transport is fsspec's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchlora.adapters.full_model import check_weights
from searchlora.adapters.manifest import MANIFEST, MAX_BYTES, manifest_json, parse_manifest
from searchlora.adapters.store import Store
from searchlora.adapters.stored import (
    MAX_OTHER_BYTES,
    StoredAdapter,
    check_file_name,
    check_hashes,
    weight_limit,
    without_paths,
)
from searchlora.errors import (
    BaseModelError,
    ManifestError,
    NameTaken,
    NotInStore,
    SearchloraError,
    StoreError,
    TamperedAdapter,
    UsageError,
)
from searchlora.files.json_text import text_fault
from searchlora.models.resolve import resolve
from searchlora.server_url import server_url

_BLOCK_BYTES = 2**22

#: Schemes of URLs that a version is copied to and from; a URL without a scheme is a folder.
SCHEMES = ("file", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf")

#: Schemes of servers, which a version is only copied from.
_SERVERS = ("http", "https")


@dataclass(frozen=True)
class PushResult:
    """Result of a push; `already` if the same version was at the URL before, so nothing was sent."""

    reference: str
    url: str
    already: bool

    def __str__(self) -> str:
        return f"{self.reference} {'was already' if self.already else 'is now'} at {self.url}"


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
        NameTaken: if the target holds another version or other files.
        UsageError: for a URL whose scheme is none of `SCHEMES`, or that no installed package serves.
        StoreError: if the target cannot be written.
    """
    stored = Store.of(store).get(reference)
    check_hashes(stored)
    manifest = without_paths(stored.manifest)
    system, root = _open(url)
    with _transport(url, "written"):
        content = _manifest_at(system, root, url)
        if content is not None:
            remote = parse_manifest(content.decode("utf-8", errors="replace"), f"{url}/{MANIFEST}")
            if remote != manifest:
                raise NameTaken(f"{remote.reference} already exists", where=url, fix="Push to another URL.")
            return PushResult(stored.reference, url, already=True)
        names = [*sorted(stored.manifest.files), MANIFEST]
        if others := sorted(_names_at(system, root) - set(names)):
            raise NameTaken(f"there are other files, such as {others[0]}", where=url, fix="Push to an empty folder.")
        _prepare(system, root)
        for name in names[:-1]:
            system.put_file(str(stored.path / name), f"{root}/{name}")
        if manifest == stored.manifest:
            system.put_file(str(stored.path / MANIFEST), f"{root}/{MANIFEST}")
        else:
            system.pipe_file(f"{root}/{MANIFEST}", manifest_json(manifest).encode())
    return PushResult(stored.reference, url, already=False)


def pull(
    url: str,
    *,
    name: str | None = None,
    base: str | None = None,
    tasks: str | Path | None = None,
    store: Store | str | Path | None = None,
) -> PullResult:
    """Copy a version into the store; it is checked before it becomes visible.

    Hashes show only that the files match their manifest, so the delta is checked too and, if task and base are on this
    machine, everything that `load_check.verify` checks. The base is never downloaded. The version keeps its name and
    number, or becomes the next version of `name`.

    Args:
        base: Name or folder of the base; None looks on this machine for the one in the manifest.
        tasks: A folder of further task plugins.

    Raises:
        NotInStore: if there is no adapter at the URL.
        ManifestError, TamperedAdapter: if it is incomplete or does not match its manifest.
        ZeroDelta, LoadCheckFailed: what `check_weights` and, if task and base are known, `verify` raise.
        InvalidName, NameTaken: see `Store.adopt`.
        EngineError: for a malformed address of a server; http and https are read, too.
        UsageError, StoreError: see `push`.
    """
    system, root = _open(url, (*SCHEMES, *_SERVERS))
    with _transport(url, "read"):
        content = _manifest_at(system, root, url)
    if content is None:
        raise NotInStore("there is no adapter with a searchlora manifest", where=url)
    manifest = parse_manifest(content.decode("utf-8", errors="replace"), f"{url}/{MANIFEST}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / MANIFEST).write_bytes(content)  # not fetched again: it could be another one then
        room = MAX_OTHER_BYTES
        for file in manifest.files:
            limit = weight_limit(file)
            size = _fetch(system, f"{root}/{check_file_name(file, url)}", folder / file, limit or min(MAX_BYTES, room))
            room -= size if limit is None else 0
        check_hashes(StoredAdapter(folder, manifest))
        check_weights(StoredAdapter(folder, manifest))
        unverified = _verify(StoredAdapter(folder, manifest), base, tasks)
        landed = Store.of(store).adopt(folder, manifest, name)
        return PullResult(landed.path, landed.manifest, unverified)


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


def _open(url: str, schemes: Sequence[str] = SCHEMES) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises `UsageError`, and `EngineError` for a malformed address."""
    import fsspec

    scheme = _scheme(url)
    if scheme not in (None, *schemes):
        listed = ", ".join(f"{allowed}://" for allowed in schemes)
        raise UsageError(
            f"URLs of the scheme '{scheme}' cannot be used here",
            where=url,
            fix=f"Give a folder, or a URL that begins with {listed}.",
        )
    if scheme in _SERVERS:
        server_url(url, example="https://example.org/adapters/shop-rewriter")
    try:
        if fault := text_fault(url):
            raise ValueError(fault)
        system, root = fsspec.core.url_to_fs(url)
    except Exception as error:  # a missing package, or what a package makes of a malformed URL
        raise UsageError(f"is not a URL that can be opened ({error})", where=url) from error
    return system, str(root).rstrip("/")


def _scheme(url: str) -> str | None:
    """The scheme of a URL as fsspec reads it, which joins several by `::`; None for a path.

    Examples:
        >>> _scheme("s3://bucket/a"), _scheme("data:,x"), _scheme("zip://a::file://b"), _scheme("C:/adapters")
        ('s3', 'data', 'zip::file', None)
    """
    if url.startswith("data:"):
        return "data"
    links = url.split("::")
    if len(links) > 1:
        return "::".join(link.partition("://")[0] for link in links)
    scheme, colon, _ = url.partition("://")
    return scheme if colon else None


@contextmanager
def _transport(where: str, done: str) -> Iterator[None]:
    """Turn what a transport raises into `StoreError`: each has exceptions of its own, and few are an `OSError`."""
    try:
        yield
    except SearchloraError:
        raise
    except Exception as error:
        why = str(error) or type(error).__name__
        raise StoreError(f"cannot be {done} ({why})", where=where, fix="Check the URL and your rights.") from error


def _prepare(system: Any, root: str) -> None:
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if "hf" in protocols:
        from huggingface_hub import HfApi

        HfApi().create_repo("/".join(root.split("/")[:2]), private=True, exist_ok=True)
    elif protocols & {"file", "memory"}:  # an object store has no folders
        system.makedirs(root, exist_ok=True)


def _manifest_at(system: Any, root: str, url: str) -> bytes | None:
    """The manifest's content; None if there is no such file. Raises `ManifestError` if it is too long."""
    try:
        if system.info(f"{root}/{MANIFEST}").get("type") != "file":
            return None
        with system.open(f"{root}/{MANIFEST}", "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    if len(content) > MAX_BYTES:
        raise ManifestError(f"has more than {MAX_BYTES:,} bytes", where=f"{url}/{MANIFEST}")
    return bytes(content)


def _names_at(system: Any, root: str) -> set[str]:
    try:
        paths = system.ls(root, detail=False)
    except FileNotFoundError:
        return set()
    names = {str(path).rstrip("/").rpartition("/")[2] for path in paths}
    return {name for name in names if not name.startswith(".")}  # a new repository on the hub holds .gitattributes


def _fetch(system: Any, source: str, target: Path, limit: int) -> int:
    """Copy a file and return its size in bytes. A server may say another size than it sends, or none.

    Raises:
        TamperedAdapter: if it is missing, has more than `limit` bytes, or is a pipe, a device or a folder.
        StoreError: if it cannot be read or written.
    """
    size = 0
    with _transport(source, "fetched"):
        try:
            if system.info(source).get("type") != "file":
                raise TamperedAdapter("is not a regular file", where=source)
            with system.open(source, "rb") as stream, target.open("wb") as out:
                while block := stream.read(_BLOCK_BYTES):
                    size += len(block)
                    if size > limit:
                        raise TamperedAdapter(f"has more than {limit:,} bytes, the limit", where=source)
                    out.write(block)
        except FileNotFoundError:
            raise TamperedAdapter("is missing", where=source, fix="Push the adapter again.") from None
    return size
