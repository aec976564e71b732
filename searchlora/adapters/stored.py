"""A stored version: its folder (a plain PEFT folder), manifest, model card and file hashes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from searchlora.adapters.manifest import MANIFEST, Manifest, ManifestDraft, read_manifest, write_manifest
from searchlora.adapters.peft_folder import MAX_WEIGHT_BYTES, WEIGHTS
from searchlora.adapters.references import Version
from searchlora.errors import ManifestError, StoreError, TamperedAdapter
from searchlora.files import file_sha256
from searchlora.models.resolve import public_name

MODEL_CARD = "README.md"

#: Weights of a whole model, in a version that is one, and their size at most.
MODEL_WEIGHTS = "model.safetensors"
MAX_MODEL_BYTES = 2**40

#: Bytes of a version's files together, without its weights.
MAX_OTHER_BYTES = 2**30

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True)
class StoredAdapter:
    """One version of an adapter: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def reference(self) -> str:
        """`name@3`."""
        return self.manifest.reference

    @property
    def is_full(self) -> bool:
        """Whether the version is a whole model, the result of full fine-tuning, not an adapter."""
        return self.manifest.method == "full"

    @property
    def weight_bytes(self) -> int:
        """Size of the weights on disk in bytes."""
        return sum(file.stat().st_size for file in self.path.glob("*.safetensors"))


def read_version(root: Path, version: Version) -> StoredAdapter:
    """A version that exists in the store at `root`. Raises `ManifestError`."""
    folder = root / version.name / str(version.number)
    manifest = read_manifest(folder)
    if manifest.reference != str(version):
        raise ManifestError(
            f"is the manifest of {manifest.reference}, but is in the folder of {version}",
            where=str(folder / MANIFEST),
            fix="Do not rename folders in a store; restore it, or store the adapter again.",
        )
    return StoredAdapter(folder, manifest)


def new_manifest(draft: ManifestDraft, name: str, version: int) -> Manifest:
    """The manifest of a new version, without the hashes of its files."""
    return Manifest(
        **dict(draft),
        name=name,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions("searchlora", "torch", "transformers", "peft"),
    )


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """Write model card and manifest into a version's folder; returns the manifest with the hashes of its files."""
    (folder / MODEL_CARD).write_text(model_card(manifest), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": file_hashes(folder)})
    write_manifest(manifest, folder)
    make_read_only(folder)
    return manifest


def package_versions(*packages: str) -> dict[str, str]:
    """Package -> version, for those that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = installed_version(package)
        except PackageNotFoundError:
            continue
    return versions


# Files of a version


def check_hashes(stored: StoredAdapter) -> None:
    """Compare every file with its sha256 in the manifest.

    Raises:
        TamperedAdapter: naming a file that is missing, changed or extra, or if they are larger than a version may be.
    """
    _check_sizes(stored.path)
    expected, actual = stored.manifest.files, file_hashes(stored.path)
    for problem, names in (
        ("is missing", expected.keys() - actual.keys()),
        ("does not belong to the adapter", actual.keys() - expected.keys()),
        ("was changed", {name for name, digest in actual.items() if expected.get(name) != digest}),
    ):
        if names:
            raise TamperedAdapter(
                f"{problem} (against the sha256 in the manifest)",
                where=str(stored.path / min(names)),
                fix="Restore the version's folder from a copy, or store the adapter again as a new version. If the "
                "store is at a URL, delete the folder, and it is fetched again.",
            )


def _check_sizes(folder: Path) -> None:
    """Refuse files that would take minutes to hash. Raises `TamperedAdapter`."""
    total = 0
    for file in folder.iterdir():
        size = file.lstat().st_size
        limit = weight_limit(file.name)
        if limit is not None and size > limit:
            raise TamperedAdapter(f"has {size:,} bytes, more than {limit:,}", where=str(file))
        total += size if limit is None else 0
    if total > MAX_OTHER_BYTES:
        raise TamperedAdapter(
            f"the files beside the weights have {total:,} bytes, more than {MAX_OTHER_BYTES:,}", where=str(folder)
        )


def weight_limit(name: str) -> int | None:
    """Bytes that a weight file of a version has at most; None for a file of another kind."""
    return {WEIGHTS: MAX_WEIGHT_BYTES, MODEL_WEIGHTS: MAX_MODEL_BYTES}.get(name)


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of each file but the manifest. Raises `TamperedAdapter` for a link or a folder."""
    hashes = {}
    for file in sorted(folder.iterdir()):
        if file.is_symlink() or not file.is_file():
            raise TamperedAdapter("is a link or a folder, which no adapter holds", where=str(file))
        if file.name != MANIFEST:
            hashes[file.name] = file_sha256(file)
    return hashes


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a flat folder. Raises `StoreError` as `copy_file` does."""
    if not source.is_dir():
        raise StoreError("is not a folder", where=str(source))
    for file in sorted(source.iterdir()):
        copy_file(file, target)


def copy_file(file: Path, target: Path) -> None:
    """Copy a file into a folder. Raises `StoreError` for what is not stored: links, folders, pickles, odd names."""
    check_file_name(file.name, str(file.parent))
    if file.is_symlink() or not file.is_file():
        raise StoreError(
            "is not a plain file (links and folders are not stored)",
            where=str(file),
            fix="Put copies of the files themselves into one folder.",
        )
    shutil.copyfile(file, target / file.name)


def check_file_name(name: str, where: str) -> str:
    """Return the name. Raises `StoreError` if it is hidden, too long, a pickle's, or could leave its folder."""
    if Path(name).suffix.lower() in _PICKLES:
        raise StoreError(f"{name} is a pickle, which is never stored", where=where, fix="Save it as safetensors.")
    if not _FILE_NAME.fullmatch(name):
        raise StoreError(
            f"the file name {name!r} is not stored", where=where, fix="Use letters, digits, '.', '_', '-'."
        )
    return name


def make_read_only(folder: Path) -> None:
    """Remove write permission from the files, so that nobody edits them by accident."""
    for file in folder.iterdir():
        file.chmod(0o444)


# Model card


def model_card(manifest: Manifest) -> str:
    """README.md of an adapter: Markdown with the front matter that the hub reads."""
    from jinja2 import Environment, StrictUndefined

    base = public_name(manifest.base.name)
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(Path(__file__).with_name("model_card.md.jinja").read_text(encoding="utf-8"))
    return template.render(
        manifest=manifest,
        base=base,
        is_full=manifest.method == "full",
        training=_training(manifest),
        recipe=json.dumps({**shorten_paths(manifest.recipe), "base": base}, indent=2),
        table=_table,
    )


def _training(manifest: Manifest) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "base held in": f"{manifest.trained.quantization}, {manifest.trained.precision}",
        **shorten_paths(manifest.training),
    }
    if manifest.dataset is not None:
        rows["dataset"] = manifest.dataset.fingerprint
        rows.update({f"dataset {key}": shorten_paths(value) for key, value in manifest.dataset.card.items()})
    return {**rows, **{f"version of {name}": version for name, version in manifest.versions.items()}}


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False).strip('"')
    return text.replace("|", "\\|")


# Paths


def without_paths(manifest: Manifest) -> Manifest:
    """The manifest with the last part of each absolute path in its base, recipe, training summary and dataset card."""
    values = shorten_paths(manifest.model_dump(include={"recipe", "training", "dataset"}))
    return manifest.model_copy(
        update={
            "base": manifest.base.model_copy(update={"name": public_name(manifest.base.name)})
            if is_absolute_path(manifest.base.name)
            else manifest.base,
            **{field: values[field] for field in ("recipe", "training")},
            "dataset": manifest.dataset and manifest.dataset.model_copy(update={"card": values["dataset"]["card"]}),
        }
    )


def shorten_paths(value: Any) -> Any:
    """A JSON value with the last part of each absolute path, for files that leave the machine.

    Examples:
        >>> shorten_paths({"source": ["/home/me/rows.jsonl"], "rows": 12})
        {'source': ['rows.jsonl'], 'rows': 12}
    """
    if isinstance(value, dict):
        return {key: shorten_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shorten_paths(inner) for inner in value]
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if isinstance(value, str) and is_absolute_path(value) else value


def is_absolute_path(text: str) -> bool:
    """True for an absolute path of this or another system, and for one below a home directory."""
    return bool(re.match(r"(/|~|file:|[A-Za-z]:[\\/]|\\\\)[^\s]", text)) and "\n" not in text
