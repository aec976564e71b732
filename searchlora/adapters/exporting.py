"""An adapter merged into its base: one model that costs nothing more at inference and can no longer be swapped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from searchlora.adapters import files
from searchlora.adapters.attach import attach
from searchlora.adapters.golden import last_logits, precision_for
from searchlora.adapters.golden_vectors import encoded
from searchlora.adapters.load_check import check_files
from searchlora.adapters.manifest import Manifest
from searchlora.adapters.stored import StoredAdapter
from searchlora.errors import NameTaken
from searchlora.models.encoder import load_encoder
from searchlora.models.libraries import quiet
from searchlora.models.load import load_model, load_tokenizer
from searchlora.models.resolve import BaseModel, resolve

REPORT = "merged.json"


@dataclass(frozen=True)
class MergeReport:
    """What merging changed: on the logits behind the golden prompts, or on the vectors of an encoder's golden texts.

    Attributes:
        path: The folder of the merged model.
        relative_error: ‖merged - adapter‖ / ‖adapter‖; None where nothing is golden.
        effect_error: ‖merged - adapter‖ / ‖adapter - base‖: what share of the adapter's effect was disturbed.
        prompts: How many golden prompts or texts that is from.
        precision: Of the arithmetic of the comparison; the merged weights of an LLM are bf16, an encoder's float32.
    """

    path: Path
    adapter: str
    relative_error: float | None
    effect_error: float | None
    prompts: int
    precision: Literal["bf16", "fp32"]

    def __str__(self) -> str:
        if self.relative_error is None:
            return f"Merged {self.adapter} into {self.path}; there is nothing golden to compare on."
        return (
            f"Merged {self.adapter} into {self.path}. On {self.prompts} golden prompts or texts merging changed what "
            f"comes out by {self.relative_error:.2e} of its size, {self.effect_error:.2e} of the adapter's effect."
        )


def export_merged(stored: StoredAdapter, out: Path, *, base: BaseModel | None = None) -> MergeReport:
    """Write bf16 safetensors and the tokenizer to `out`, all of it or nothing, with the report as `merged.json`.

    An encoder is written whole, in float32.

    The weights are merged into a copy of the base loaded for it in bf16 that has run no forward pass: merging into a
    4-bit base, or into one whose first forward pass repacked its weights, gives garbage. The comparison runs on
    other copies, the merged one as it was written.

    Args:
        base: None resolves the name in the manifest.

    Raises:
        NameTaken: when `out` exists and is not an empty folder.
        StoreError: when it cannot be written.
        LoadCheckFailed: what `check_files` and `attach` raise.
    """
    base = base or resolve(stored.manifest.base.name, stored.manifest.base.revision)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise NameTaken("there is something already", where=str(out), fix="Give a folder that does not exist.")
    check_files(stored, base)
    with files.whole_folder(out.absolute().parent) as new:
        merge = _merge_encoder if stored.manifest.golden.vectors else _merge
        report = merge(stored, base, new, out)
        (new / REPORT).write_text(_json(report, stored.manifest), encoding="utf-8")
        files.publish(new, out)
    return report


def _merge(stored: StoredAdapter, base: BaseModel, new: Path, out: Path) -> MergeReport:
    model = attach(load_model(base, quantization="none", precision="bf16"), stored)
    with quiet():
        model.merge_and_unload(safe_merge=True).save_pretrained(new)
        _save_tokenizer(load_tokenizer(base), new)
    return _compare(stored, base, BaseModel("merged", new), out)


def _merge_encoder(stored: StoredAdapter, base: BaseModel, new: Path, out: Path) -> MergeReport:
    from numpy.linalg import norm

    texts = [each.text for each in stored.manifest.golden.vectors]
    encoder = load_encoder(base, device="cpu")
    plain = encoded(encoder, texts)
    adapted = attach(encoder, stored)
    wanted = encoded(encoder, texts)
    with quiet():
        adapted.merge_and_unload(safe_merge=True)  # in place, so that the encoder around it is merged, too
        encoder.save_pretrained(str(new), create_model_card=False, safe_serialization=True)
    error = norm(encoded(load_encoder(BaseModel("merged", new), device="cpu"), texts) - wanted)
    return MergeReport(
        path=out,
        adapter=stored.reference,
        relative_error=float(error / norm(wanted)),
        effect_error=float(error / norm(wanted - plain)),
        prompts=len(texts),
        precision="fp32",
    )


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is Exception:  # what tokenizers raises where it cannot write, so that `whole_folder` knows it
            raise OSError(str(error)) from error
        raise


def _compare(stored: StoredAdapter, base: BaseModel, merged: BaseModel, out: Path) -> MergeReport:
    golden = stored.manifest.golden
    prompts = [render.token_ids[: render.prompt_length] for render in golden.renders]
    precision = precision_for(base)
    if not prompts:
        return MergeReport(out, stored.reference, None, None, 0, precision)
    adapted = attach(load_model(base, quantization="none", precision=precision), stored)
    wanted = last_logits(adapted, prompts)
    with adapted.disable_adapter():
        plain = last_logits(adapted, prompts)
    del adapted
    found = last_logits(load_model(merged, quantization="none", precision=precision), prompts)
    error = (found - wanted).norm()
    return MergeReport(
        path=out,
        adapter=stored.reference,
        relative_error=float(error / wanted.norm()),
        effect_error=float(error / (wanted - plain).norm()),
        prompts=len(prompts),
        precision=precision,
    )


def _json(report: MergeReport, manifest: Manifest) -> str:
    """With the settings and tuned values by which whoever serves the merged model asks it and reads its answers."""
    values: dict[str, Any] = {**asdict(report), "settings": manifest.settings, "tuned": manifest.tuned}
    del values["path"]
    return json.dumps(values, indent=2) + "\n"
