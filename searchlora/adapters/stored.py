"""A stored version: its folder and manifest, how it is finished, and whether its files are still those."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from searchlora.adapters import files
from searchlora.adapters.card import card
from searchlora.adapters.manifest import MANIFEST, Manifest, ManifestDraft, write_manifest
from searchlora.errors import TamperedAdapter

CARD = "README.md"


@dataclass(frozen=True)
class StoredAdapter:
    """One version of an adapter: its folder (a plain PEFT folder) and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def reference(self) -> str:
        """`name@3`."""
        return self.manifest.reference


def check_hashes(stored: StoredAdapter) -> None:
    """Compare every file with its sha256 in the manifest.

    Raises:
        TamperedAdapter: naming the file that is missing, changed or extra.
    """
    files_now = files.hashes(stored.path, skip=MANIFEST)
    for problem, names in (
        ("is missing", stored.manifest.files.keys() - files_now.keys()),
        ("does not belong to the adapter", files_now.keys() - stored.manifest.files.keys()),
        ("was changed", {name for name, found in files_now.items() if stored.manifest.files.get(name) != found}),
    ):
        if names:
            raise TamperedAdapter(
                f"{problem} (against the sha256 in the manifest)",
                where=str(stored.path / min(names)),
                fix="Restore the version's folder from a copy, or store the adapter again as a new version.",
            )


def new_manifest(draft: ManifestDraft, name: str, version: int) -> Manifest:
    """The manifest of a version made here and now; `files` are still to come."""
    return Manifest(
        **dict(draft),
        name=name,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
    )


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Write card and manifest into a version's folder, and return the manifest with the hashes of its files."""
    (folder / CARD).write_text(card(manifest), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": files.hashes(folder, skip=MANIFEST)})
    write_manifest(manifest, folder)
    files.make_read_only(folder)
    return manifest


def _versions() -> dict[str, str]:
    found = {}
    for package in ("searchlora", "torch", "transformers", "peft"):
        try:
            found[package] = installed_version(package)
        except PackageNotFoundError:
            continue
    return found
