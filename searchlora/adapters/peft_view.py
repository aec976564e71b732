"""Folders from which PEFT loads a stored adapter together with its base, as `AutoPeftModel` does.

`AutoPeftModel` reads the base from `adapter_config.json`: a hub id or a path. A stored version names a hub id there if
its base has one, and then its own folder is loaded. A base that is a folder, a GGUF file or an installed package has no
name that PEFT knows, and its path does not belong into a version, which never changes and is copied to other machines.
Such a version gets a *view* in the cache of this machine: its own files as links, and a configuration with the path.
"""

from __future__ import annotations

import json
from pathlib import Path

from searchlora.adapters.peft_folder import CONFIG, WEIGHTS, read_config
from searchlora.adapters.staging import link_file, make_view
from searchlora.adapters.stored import StoredAdapter
from searchlora.models.resolve import BaseModel


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
