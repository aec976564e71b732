"""Folders of links in the cache of this machine, from which other libraries load a stored version.

`AutoPeftModel` reads the base from `adapter_config.json`: a hub id or a path. A stored version names a hub id there if
its base has one, and then its own folder is loaded. A base that is a folder, a GGUF file or an installed package has no
name that PEFT knows, and its path does not belong into a version, which never changes and is copied to other machines.
Such a version gets a *view*: its own files as links, and a configuration with the path.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from searchlora.adapters.peft_folder import CONFIG, WEIGHTS, read_config
from searchlora.adapters.staging import whole_folder
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import StoreError
from searchlora.models.resolve import BaseModel, cache_dir


def peft_folder(stored: StoredAdapter, base: BaseModel) -> Path:
    """The absolute path of a folder that `AutoPeftModel.from_pretrained` loads: the version's own, or a view of it.

    Args:
        stored: A version whose files have been checked.
        base: Its base on this machine.

    Raises:
        TamperedAdapter, LoadCheckFailed: for a configuration that cannot be read, or is not plain LoRA.
        StoreError: if the view cannot be written.
    """
    config = read_config(stored.path)
    own = stored.path.resolve()
    if base.revision is not None and config.get("revision") == base.revision:
        return own
    named = {**config, "base_model_name_or_path": str(base.path.resolve()), "revision": None}
    text = json.dumps(named, indent=2, sort_keys=True) + "\n"

    def fill(new: Path) -> None:
        (new / CONFIG).write_text(text, encoding="utf-8")
        link_file(own / WEIGHTS, new / WEIGHTS)

    return make_view("peft", own, text, WEIGHTS, fill)


def make_view(kind: str, own: Path, content: str, file: str, fill: Callable[[Path], None]) -> Path:
    """A folder of links to the files of a version in the cache of this machine, filled if it is missing.

    Args:
        kind: Folder of the cache.
        own: The version's own folder, absolute.
        content: What else the view depends on.
        file: A file of the view; if it leads nowhere, the view is made again.

    Raises:
        StoreError: if it cannot be written, and what `fill` raises.
    """
    key = hashlib.sha256(f"{own}\n{content}".encode()).hexdigest()[:16]
    view = cache_dir().resolve() / kind / f"{own.parent.name}-{own.name}-{key}"
    if not (view / file).exists():
        shutil.rmtree(view, ignore_errors=True)  # an older view, whose links lead nowhere
        try:
            with whole_folder(view) as new:
                fill(new)
        except StoreError:
            if not (view / file).exists():  # else another process made the same view
                raise
    return view


def link_file(source: Path, target: Path) -> None:
    """A symbolic link, or a copy where the system refuses links, as Windows does without Developer Mode."""
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
