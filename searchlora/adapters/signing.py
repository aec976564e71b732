"""Signatures of versions (Ed25519, RFC 8032): who has published a version, and that nothing of it was changed since.

The signed text holds the reference of the version and the sha256 of its manifest, which holds the sha256 of every other
file. So a signature fits one version under one name only. It is a small file beside the manifest, `searchlora.sig`.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from searchlora.adapters.manifest import MANIFEST, parse_manifest
from searchlora.adapters.stored import StoredAdapter, read_signature
from searchlora.errors import UntrustedAdapter, UsageError
from searchlora.files import read_text
from searchlora.files.atomic import writing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_BEGIN = "-----BEGIN PUBLIC KEY-----"


class _Signature(BaseModel):
    """Content of a signature file: the id of the key, and the 64 bytes in base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
    signature: Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9+/]{86}==\z")]


def generate_key(file: Path) -> str:
    """Write a new private key to a file that only its owner can read, and its public key beside it as `FILE.pub`.

    Returns:
        The id of the key.

    Raises:
        UsageError: if one of the files exists.
        DataError: if they cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    files = (file, private, 0o600), (file.with_name(f"{file.name}.pub"), public, 0o644)
    for path, _, _ in files:
        if path.exists():
            raise UsageError("already exists", where=str(path), fix="Give another file.")
    for path, content, mode in files:
        with writing(path), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            out.write(content)
    return key_id(key.public_key())


def key_id(key: Ed25519PublicKey) -> str:
    """sha256 of the 32 bytes of a public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def read_private_key(file: str | Path) -> Ed25519PrivateKey:
    """A private key in PEM, as `generate_key` or `openssl genpkey -algorithm ed25519` writes it.

    Raises:
        UsageError: if the file holds no such key, or one with a password.
        DataError: if it cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(read_text(Path(file)).encode(), password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    fix = "Generate one: searchlora keys generate FILE."
    raise UsageError("is not a private Ed25519 key in PEM without a password", where=str(file), fix=fix)


def sign(manifest: bytes, reference: str, key: Ed25519PrivateKey) -> bytes:
    """The content of the signature file of a version, from the bytes of its manifest."""
    signature = b64encode(key.sign(_signed_text(manifest, reference))).decode()
    return _Signature(key=key_id(key.public_key()), signature=signature).model_dump_json(indent=2).encode() + b"\n"


def _signed_text(manifest: bytes, reference: str) -> bytes:
    return f"searchlora adapter, signature 1\n{reference}\n{hashlib.sha256(manifest).hexdigest()}\n".encode()


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys whose signatures are accepted.

    Attributes:
        keys: Id -> the 32 bytes of the key.
        where: The file that they are from.
    """

    keys: Mapping[str, bytes]
    where: str

    @classmethod
    def read(cls, file: str | Path) -> TrustedKeys:
        """The public keys in a file: one or several in PEM, one after the other.

        Raises:
            UsageError: if it holds anything else than public Ed25519 keys, or none.
            DataError: if it cannot be read.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        first, *blocks = read_text(Path(file)).split(_BEGIN)
        keys: dict[str, bytes] = {}
        for block in blocks:
            with suppress(ValueError, TypeError, UnsupportedAlgorithm):
                key = load_pem_public_key(f"{_BEGIN}{block}".encode())
                if isinstance(key, Ed25519PublicKey):
                    keys[key_id(key)] = key.public_bytes_raw()
        if first.strip() or not blocks or len(keys) < len(set(blocks)):
            fix = "Give the files FILE.pub of `searchlora keys generate`, one after the other."
            raise UsageError("holds something else than public Ed25519 keys in PEM", where=str(file), fix=fix)
        return cls(keys, str(file))

    def check(self, manifest: bytes, reference: str, signature: bytes | None, where: str) -> str:
        """Check the signature of a version.

        Args:
            manifest: The bytes of its manifest.
            signature: The content of its signature file; None: there is none.
            where: Its place, for the error.

        Returns:
            The id of the key.

        Raises:
            UntrustedAdapter: if there is no signature, or it is not one of a trusted key for this version.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        fix = f"Ask its publisher to push it with --sign, or trust another key in {self.where}."
        if signature is None:
            raise UntrustedAdapter(f"{reference} is not signed", where=where, fix=fix)
        try:
            parsed = _Signature.model_validate_json(signature)
        except ValidationError:
            raise UntrustedAdapter(f"the signature of {reference} cannot be read", where=where, fix=fix) from None
        key = self.keys.get(parsed.key)
        if key is None:
            problem = f"{reference} is signed by the key {parsed.key[:16]}, which is not trusted"
            raise UntrustedAdapter(problem, where=where, fix=fix)
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(
                b64decode(parsed.signature), _signed_text(manifest, reference)
            )
        except InvalidSignature:
            raise UntrustedAdapter(
                f"the signature is not one of {reference} with this manifest",
                where=where,
                fix="Its manifest, name or version was changed after it was signed. Do not use it; fetch it again.",
            ) from None
        return parsed.key

    def check_stored(self, stored: StoredAdapter) -> None:
        """Check the signature of a version in a store; its files are checked against the manifest at each load.

        Raises:
            UntrustedAdapter: as `check`.
        """
        manifest = (stored.path / MANIFEST).read_bytes()
        self.check(manifest, stored.reference, read_signature(stored.path), str(stored.path))
        if parse_manifest(manifest.decode(), str(stored.path)) != stored.manifest:
            raise UntrustedAdapter("the manifest was changed while it was read", where=str(stored.path))
