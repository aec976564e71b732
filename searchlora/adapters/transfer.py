"""Adapters to and from elsewhere, through fsspec: a folder, an object store (`s3://...`), the hub (`hf://OWNER/REPO`).

The place holds one version, as a plain PEFT folder. The manifest is written last, so what has no manifest is not whole.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.adapters.files import check_file_name
from searchlora.adapters.manifest import MANIFEST, Manifest, parse_manifest
from searchlora.adapters.peft_folder import read_config
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter, check_hashes
from searchlora.adapters.weights import check_delta
from searchlora.errors import BaseModelError, NameTaken, NotInStore, StoreError, TamperedAdapter, UsageError

if TYPE_CHECKING:
    from searchlora.models.resolve import BaseModel


@dataclass(frozen=True)
class Pushed:
    """Where a version lies now; `already` when the same version lay there before and nothing was sent."""

    reference: str
    url: str
    already: bool

    def __str__(self) -> str:
        return f"{self.reference} {'was already' if self.already else 'is now'} at {self.url}"


@dataclass(frozen=True)
class Pulled(StoredAdapter):
    """The version in the store; `unverified` says why it could not be verified in full, None where it was."""

    unverified: str | None = None

    def __str__(self) -> str:
        if self.unverified is None:
            return f"{self.reference} is in the store and was verified in full"
        return (
            f"{self.reference} is in the store; its files are whole and its delta is not zero, but it was NOT verified "
            f"in full: {self.unverified} Run: searchlora adapters verify {self.reference}"
        )


def push(stored: StoredAdapter, url: str) -> Pushed:
    """Send a version somewhere. A new repository on the hub is made private.

    Raises:
        TamperedAdapter: when the version is not what it was when stored.
        NameTaken: when something else lies there.
        UsageError: for a kind of URL that no installed package serves.
        StoreError: when it cannot be written there.
    """
    check_hashes(stored)
    system, root = _open(url)
    try:
        theirs = _manifest_at(system, root, url)
        if theirs is not None:
            if theirs != stored.manifest:
                raise NameTaken(f"{theirs.reference} lies there already", where=url, fix="Push to another place.")
            return Pushed(stored.reference, url, already=True)
        names = [*sorted(stored.manifest.files), MANIFEST]
        if others := sorted(_names_at(system, root) - set(names)):
            raise NameTaken(f"other files lie there, such as {others[0]}", where=url, fix="Push to an empty place.")
        _prepare(system, root)
        for name in names:
            system.put_file(str(stored.path / name), f"{root}/{name}")
    except OSError as error:
        raise StoreError(f"cannot be written ({error})", where=url, fix="Check the URL and your rights.") from error
    return Pushed(stored.reference, url, already=False)


def pull(
    url: str,
    store: Store,
    name: str | None = None,
    *,
    base: BaseModel | None = None,
    tasks: str | Path | None = None,
) -> Pulled:
    """Fetch a version into the store, checked before anything lands there.

    Hashes say only that the files are those of their manifest, so the delta is checked too, and where task and base
    are on this machine all that `load_check.verify` checks. The hub is not asked for the base. It keeps its name and
    number, or becomes the next version of `name`.

    Args:
        base: The base; None looks for the one in the manifest on this machine.
        tasks: A folder of task plugins of one's own.

    Raises:
        NotInStore: when there is no adapter at the URL.
        ManifestError, TamperedAdapter: when it is not whole, or not what its manifest says.
        ZeroDelta, LoadCheckFailed: what `check_delta` and, where it is called, `verify` raise.
        InvalidName, NameTaken: see `Store.adopt`.
        UsageError, StoreError: see `push`.
    """
    system, root = _open(url)
    try:
        manifest = _manifest_at(system, root, url)
    except OSError as error:
        raise StoreError(f"cannot be read ({error})", where=url, fix="Check the URL and your rights.") from error
    if manifest is None:
        raise NotInStore("there is no adapter with a searchlora manifest", where=url)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file in [*manifest.files, MANIFEST]:
            _fetch(system, f"{root}/{check_file_name(file, url)}", folder / file)
        check_hashes(StoredAdapter(folder, manifest))
        read_config(folder)
        check_delta(folder)
        unverified = _verify(StoredAdapter(folder, manifest), base, tasks)
        landed = store.adopt(folder, manifest, name)
        return Pulled(landed.path, landed.manifest, unverified)


def _verify(stored: StoredAdapter, base: BaseModel | None, tasks: str | Path | None) -> str | None:
    """Verify in full, or say why that cannot be done here."""
    from searchlora.adapters.load_check import verify
    from searchlora.models.resolve import resolve
    from searchlora.task import load_task

    manifest = stored.manifest
    try:
        task = load_task(manifest.task, tasks)
        base = base or resolve(manifest.base.name, manifest.base.revision, ask_hub=False)
    except (UsageError, BaseModelError) as error:
        return str(error)
    verify(stored, task, base)
    return None


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(f"is not a place that can be reached ({error})", where=url) from error
    return system, str(root).rstrip("/")


def _prepare(system: Any, root: str) -> None:
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    if "hf" in protocols:
        from huggingface_hub import HfApi

        HfApi().create_repo("/".join(root.split("/")[:2]), private=True, exist_ok=True)
    elif protocols & {"file", "memory"}:  # an object store has no folders
        system.makedirs(root, exist_ok=True)


def _manifest_at(system: Any, root: str, url: str) -> Manifest | None:
    try:
        text = system.cat_file(f"{root}/{MANIFEST}").decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_manifest(text, f"{url}/{MANIFEST}")


def _names_at(system: Any, root: str) -> set[str]:
    try:
        found = system.ls(root, detail=False)
    except FileNotFoundError:
        return set()
    names = {str(path).rstrip("/").rpartition("/")[2] for path in found}
    return {name for name in names if not name.startswith(".")}  # the hub begins a repository with .gitattributes


def _fetch(system: Any, source: str, target: Path) -> None:
    try:
        system.get_file(source, str(target))
    except FileNotFoundError:
        raise TamperedAdapter("is missing", where=source, fix="Push the adapter again.") from None
    except OSError as error:
        raise StoreError(f"cannot be fetched ({error})", where=source) from error
