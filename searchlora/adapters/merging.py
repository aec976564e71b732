"""Merging: an adapter into its base model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from searchlora.adapters.attach import attach
from searchlora.adapters.full_model import unpack
from searchlora.adapters.golden import encode_texts, last_logits, precision_for
from searchlora.adapters.load_check import check_files
from searchlora.adapters.manifest import Manifest
from searchlora.adapters.staging import whole_folder
from searchlora.adapters.stored import StoredAdapter, check_hashes
from searchlora.errors import NameTaken
from searchlora.models.libraries import quiet
from searchlora.models.load import load_encoder, load_model, load_tokenizer
from searchlora.models.resolve import BaseModel

#: Report of `export_merged`, in the folder of the merged model.
REPORT = "merged.json"


@dataclass(frozen=True)
class MergeReport:
    """Error that merging introduced, measured on the golden prompts (of an encoder, on the golden texts).

    Attributes:
        path: Folder of the merged model.
        relative_error: ‖merged - adapter‖ / ‖adapter‖ of the logits or vectors; None without golden records.
        effect_error: ‖merged - adapter‖ / ‖adapter - base‖: the share of the adapter's effect that changed.
        prompts: Number of golden prompts or texts; 0 for a whole model, of which nothing was merged.
        precision: Precision of the comparison; the merged weights of an LLM are bf16, those of an encoder float32.
    """

    path: Path
    adapter: str
    relative_error: float | None
    effect_error: float | None
    prompts: int
    precision: Literal["bf16", "fp32"]

    def __str__(self) -> str:
        if self.relative_error is None:
            return f"Merged {self.adapter} into {self.path}; there are no golden records to compare on."
        if not self.prompts:
            return f"Wrote {self.adapter}, a whole model, to {self.path}."
        return (
            f"Merged {self.adapter} into {self.path}. On {self.prompts} golden prompts or texts, the output changed by "
            f"{self.relative_error:.2e} of its norm, which is {self.effect_error:.2e} of the adapter's effect."
        )


def export_merged(stored: StoredAdapter, out: Path, *, base: BaseModel | None = None) -> MergeReport:
    """Write the merged model to `out`, completely or not at all, with the report as `merged.json`.

    A version that is a whole model is copied; its base is not needed.

    An LLM is written as bf16 safetensors with its tokenizer, an encoder whole in float32. The weights are merged into a
    fresh bf16 copy of the base that has run no forward pass: merging into a 4-bit base, or into one whose first
    forward pass repacked its weights, gives wrong weights. The comparison runs on other copies.

    Args:
        base: None resolves the name in the manifest.

    Raises:
        NameTaken: if `out` exists and is not an empty folder.
        StoreError: if it cannot be written.
        LoadCheckFailed: what `check_files` and `attach` raise.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise NameTaken("the folder is not empty", where=str(out), fix="Give a folder that does not exist.")
    model = None if stored.is_full else base or stored.manifest.base.resolve()
    if model is None:
        check_hashes(stored)
    else:
        check_files(stored, model)
    with whole_folder(out) as new:
        if model is None:
            unpack(stored, new, copy=True)
            report = MergeReport(out, stored.reference, 0.0, 0.0, 0, stored.manifest.golden.precision)
        else:
            merge = _merge_encoder if stored.manifest.golden.vectors else _merge_llm
            report = merge(stored, model, new, out)
        (new / REPORT).write_text(_report_json(report, stored.manifest), encoding="utf-8")
    return report


def _merge_llm(stored: StoredAdapter, base: BaseModel, new: Path, out: Path) -> MergeReport:
    model = attach(load_model(base, quantization="none", precision="bf16", to_write=True), stored)
    with quiet():
        model.merge_and_unload(safe_merge=True).save_pretrained(new)
        _save_tokenizer(load_tokenizer(base), new)
    return _compare_logits(stored, base, BaseModel("merged", new), out)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is Exception:  # raised by tokenizers if it cannot write; `whole_folder` expects an OSError
            raise OSError(str(error)) from error
        raise


def _compare_logits(stored: StoredAdapter, base: BaseModel, merged: BaseModel, out: Path) -> MergeReport:
    prompts = [render.token_ids[: render.prompt_length] for render in stored.manifest.golden.renders]
    precision = precision_for(base)
    if not prompts:
        return MergeReport(out, stored.reference, None, None, 0, precision)
    model = attach(load_model(base, quantization="none", precision=precision), stored)
    adapted = last_logits(model, prompts).numpy()
    with model.disable_adapter():
        plain = last_logits(model, prompts).numpy()
    del model
    after = last_logits(load_model(merged, quantization="none", precision=precision), prompts).numpy()
    return _report(stored, out, plain, adapted, after, precision)


def _merge_encoder(stored: StoredAdapter, base: BaseModel, new: Path, out: Path) -> MergeReport:
    texts = [vector.text for vector in stored.manifest.golden.vectors]
    encoder = load_encoder(base, device="cpu")
    plain = encode_texts(encoder, texts)
    model = attach(encoder, stored)
    adapted = encode_texts(encoder, texts)
    with quiet():
        model.merge_and_unload(safe_merge=True)  # in place, so the encoder around it is merged too
        encoder.save_pretrained(str(new), create_model_card=False, safe_serialization=True)
    after = encode_texts(load_encoder(BaseModel("merged", new), device="cpu"), texts)
    return _report(stored, out, plain, adapted, after, "fp32")


def _report(
    stored: StoredAdapter, out: Path, plain: Any, adapted: Any, merged: Any, precision: Literal["bf16", "fp32"]
) -> MergeReport:
    """The report on outputs of the base, the adapter on it, and the merged model; each of shape (records, size)."""
    from numpy.linalg import norm

    error = norm(merged - adapted)
    return MergeReport(
        path=out,
        adapter=stored.reference,
        relative_error=float(error / norm(adapted)),
        effect_error=float(error / norm(adapted - plain)),
        prompts=len(adapted),
        precision=precision,
    )


def _report_json(report: MergeReport, manifest: Manifest) -> str:
    """The report, with the settings and tuned values needed to prompt the merged model and read its answers."""
    values: dict[str, Any] = {**asdict(report), "settings": manifest.settings, "tuned": manifest.tuned}
    del values["path"]
    return json.dumps(values, indent=2) + "\n"
