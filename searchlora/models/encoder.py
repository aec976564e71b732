"""Loading an encoder of texts (a sentence-transformers folder): safetensors only, no code of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from searchlora.errors import BaseModelError
from searchlora.models.libraries import off_the_hub, quiet
from searchlora.models.resolve import BaseModel

_OWN = "sentence_transformers."


def load_encoder(base: BaseModel, *, device: str | None = None) -> Any:
    """A fresh `SentenceTransformer` in float32, frozen, in evaluation mode.

    A folder without `modules.json` is a plain transformer: its token vectors are averaged.

    Args:
        device: "cpu", "cuda", ...; the GPU where there is one.

    Raises:
        BaseModelError: when the folder names a class that is not sentence-transformers' own, holds weights that are
            not safetensors, or cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError

    _check_modules(base.path)
    with quiet(), off_the_hub():
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                str(base.path),
                device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError, SafetensorError) as error:
            raise BaseModelError(f"cannot be loaded as an encoder ({error})", where=str(base.path)) from error
    model.requires_grad_(False)
    return model.eval()


def _check_modules(folder: Path) -> None:
    """Older releases of sentence-transformers run any class that a local folder names, and unpickle its layers."""
    file = folder / "modules.json"
    if not file.is_file():
        return
    try:
        modules = [(str(module["type"]), str(module["path"])) for module in json.loads(file.read_text("utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise BaseModelError(f"is not a list of modules ({error})", where=str(file)) from None
    for kind, path in modules:
        if not kind.startswith(_OWN):
            raise BaseModelError(
                f"the module '{kind}' is not sentence-transformers' own, and code of a model is never run",
                where=str(file),
                fix="Use an encoder made of sentence-transformers' own modules.",
            )
        place = (folder / path).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise BaseModelError(f"the path '{path}' leaves the folder", where=str(file))
        if (place / "pytorch_model.bin").is_file() and not list(place.glob("*.safetensors")):
            raise BaseModelError(
                "the weights are a pickle, which is never read", where=str(place), fix="Save them as safetensors."
            )
