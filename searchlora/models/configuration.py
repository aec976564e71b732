"""The configuration of a base, also of one whose weights are not on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from searchlora.errors import BaseModelError
from searchlora.models.libraries import quiet
from searchlora.models.resolve import resolve


def read_configuration(name: str) -> Any:
    """The transformers configuration of a base: a folder with `config.json`, a GGUF file, or any base on this machine.

    No weights are read: of a GGUF file, only the header is.

    Raises:
        BaseModelError: for a base that is not on this machine, or a configuration that transformers cannot read.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _read(path.parent, gguf_file=path.name)
    if (path / "config.json").is_file():
        return _read(path)
    try:
        folder = resolve(name, ask_hub=False).path
    except BaseModelError as error:
        fix = f"Download its configuration, `hf download {name} config.json --local-dir FOLDER`, and give the folder."
        raise BaseModelError(error.what, where=error.where, fix=fix if "/" in name else error.fix) from None
    return _read(folder)


def _read(folder: Path, **more: Any) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **more)
    except Exception as error:  # a damaged file makes the parsers raise any type
        raise BaseModelError(f"the configuration cannot be read ({error})", where=str(folder)) from None
