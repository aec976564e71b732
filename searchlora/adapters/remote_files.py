"""Files at an fsspec URL: of a folder, an object store (`s3://...`), the hub (`hf://OWNER/REPO`) or a web server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from searchlora.adapters.manifest import MANIFEST, MAX_BYTES
from searchlora.adapters.stored import MAX_OTHER_BYTES, check_file_name, weight_limit
from searchlora.errors import ManifestError, SearchloraError, StoreError, TamperedAdapter, UsageError
from searchlora.files.json_text import text_fault
from searchlora.files.text import read_up_to
from searchlora.server_url import server_url

_BLOCK_BYTES = 2**22

#: The file system in memory looks for a file and writes it in two steps.
_CREATING = threading.Lock()

#: Schemes of URLs that a version is copied to and from; a URL without a scheme is a folder.
SCHEMES = ("file", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "hf")

#: Schemes of URLs at which a whole store may be.
STORE_SCHEMES = ("memory", "s3", "s3a", "gs", "gcs", "az", "abfs")

#: Names in a store at a URL: the claim to a number of a version, in its folder, and the id of the store.
CLAIM, STORE_ID = ".claim", ".store"

#: Schemes of servers, which a version is only copied from.
SERVERS = ("http", "https")


def store_url(root: str | Path) -> str | None:
    """The URL of a store in an object store; None for a folder. Raises `UsageError` for a URL that is none of a store.

    Examples:
        >>> store_url("s3://bucket/store/"), store_url(Path("s3://bucket/store")), store_url("store")
        ('s3://bucket/store', 's3://bucket/store', None)
    """
    scheme, colon, rest = str(root).partition(":/")  # a path has lost the second slash
    if colon and scheme in STORE_SCHEMES:
        return f"{scheme}://{rest.strip('/')}"
    if colon and scheme in (*SCHEMES, *SERVERS):
        listed = ", ".join(f"{allowed}://" for allowed in STORE_SCHEMES)
        raise UsageError(
            "a store cannot be at such a URL",
            where=str(root),
            fix=f"Give a folder, or a URL that begins with {listed}.",
        )
    return None


def open_url(url: str, schemes: Sequence[str] = SCHEMES) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises `UsageError`, and `EngineError` for a malformed address."""
    import fsspec

    scheme = scheme_of(url)
    if scheme not in (None, *schemes):
        listed = ", ".join(f"{allowed}://" for allowed in schemes)
        raise UsageError(
            f"URLs of the scheme '{scheme}' cannot be used here",
            where=url,
            fix=f"Give a folder, or a URL that begins with {listed}.",
        )
    if scheme in SERVERS:
        server_url(url, example="https://example.org/adapters/shop-rewriter")
    try:
        if fault := text_fault(url):
            raise ValueError(fault)
        system, root = fsspec.core.url_to_fs(url)
    except Exception as error:  # a missing package, or what a package makes of a malformed URL
        raise UsageError(f"is not a URL that can be opened ({error})", where=url) from error
    return system, str(root).rstrip("/")


def scheme_of(url: str) -> str | None:
    """The scheme of a URL as fsspec reads it, which joins several by `::`; None for a path.

    Examples:
        >>> scheme_of("s3://bucket/a"), scheme_of("data:,x"), scheme_of("zip://a::file://b"), scheme_of("C:/adapters")
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
def transport(where: str, done: str) -> Iterator[None]:
    """Turn what a transport raises into `StoreError`: each has exceptions of its own, and few are an `OSError`."""
    try:
        yield
    except (SearchloraError, AssertionError, AttributeError, LookupError, NameError, TypeError):
        raise  # of our own code
    except Exception as error:
        why = str(error) or type(error).__name__
        raise StoreError(f"cannot be {done} ({why})", where=where, fix="Check the URL and your rights.") from error


def manifest_at(system: Any, root: str, url: str) -> bytes | None:
    """The manifest's content; None if there is no such file. Raises `ManifestError` if it is too long."""
    path = f"{root}/{MANIFEST}"
    try:
        if system.info(path).get("type") != "file":
            return None
        with system.open(path, "rb") as stream:
            content = bytes(read_up_to(stream, MAX_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    if len(content) > MAX_BYTES:
        raise ManifestError(f"has more than {MAX_BYTES:,} bytes", where=f"{url}/{MANIFEST}")
    return content


def fetch(system: Any, source: str, target: Path, limit: int) -> int:
    """Copy a file and return its size in bytes. A server may say another size than it sends, or none.

    Raises:
        TamperedAdapter: if it is missing, has more than `limit` bytes, or is a pipe, a device or a folder.
        StoreError: if it cannot be read or written.
    """
    size = 0
    with transport(source, "fetched"):
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


def fetch_files(system: Any, source: str, names: Iterable[str], folder: Path) -> Iterator[Path]:
    """Copy files of a version into a folder, and yield the path of each.

    Raises:
        TamperedAdapter, StoreError: as `fetch`, and for a name that is not a file's of a version.
    """
    room = MAX_OTHER_BYTES
    for name in names:
        limit = weight_limit(name)
        size = fetch(system, f"{source}/{check_file_name(name, source)}", folder / name, limit or room)
        room -= size if limit is None else 0
        yield folder / name


def send_files(system: Any, folder: Path, names: Iterable[str], target: str, manifest: bytes) -> None:
    """Write the files of a version, and its manifest at last: a version without one is incomplete."""
    for name in names:
        system.put_file(str(folder / name), f"{target}/{name}")
    system.pipe_file(f"{target}/{MANIFEST}", manifest)


def create(system: Any, path: str, content: bytes) -> None:
    """Write a small file unless there is one of this name: of several writers at a time, one succeeds.

    Raises:
        FileExistsError: if there is one with other content.
    """
    try:
        with _CREATING:
            system.pipe_file(path, content, mode="create")
    except FileExistsError:
        if system.cat_file(path) != content:  # equal: this very write, repeated after a lost response
            raise


def check_creates(system: Any, path: str) -> None:
    """Write a small file twice. Raises `UsageError` unless the second write, of other content, is refused.

    Of those who ignore the condition, some packages and some services say so, and others overwrite.
    """
    try:
        create(system, path, b"written once")
        create(system, path, uuid.uuid4().hex.encode())
    except FileExistsError:
        return
    except TypeError:  # the package knows no such write
        pass
    raise UsageError(
        "the service, or the package for it, overwrites files that it must only create, so two writers could lose each "
        "other's changes",
        where=path,
        fix="Use AWS S3, or another service with conditional writes (`If-None-Match: *`).",
    )
