"""The model card (README.md) of an adapter, written from its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from searchlora.adapters.manifest import Manifest
from searchlora.models.catalogue import public_name


def card(manifest: Manifest) -> str:
    """Markdown with the front matter that the hub reads."""
    base = public_name(manifest.base.name)
    parts = [
        _front_matter(manifest, base),
        f"# {manifest.reference}",
        f"A LoRA adapter for the task **{manifest.task}** (version {manifest.task_version}) on the base model "
        f"`{base}`, made with searchlora on {manifest.created}.",
        _use(manifest),
        "## Measured\n\n" + (_table(manifest.metrics) or "Nothing was measured."),
        "## Training\n\n" + _table(_training(manifest)),
        "## Recipe\n\n```json\n" + json.dumps(_recipe(manifest, base), indent=2) + "\n```",
        _origin(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(manifest: Manifest, base: str) -> str:
    # A hub id only: the hub refuses a card whose base_model is not one.
    lines = ["---", "library_name: peft", *([f"base_model: {base}"] if "/" in base else [])]
    return "\n".join([*lines, "tags:", "- lora", "- searchlora", f"- {manifest.task}", "---"])


def _use(manifest: Manifest) -> str:
    revision = f" at revision `{manifest.base.revision}`" if manifest.base.revision else ""
    prints = manifest.base.fingerprint
    return (
        f"Use it on exactly this base{revision}: {prints.architecture}, tensors `{prints.tensors[:16]}`, tokenizer "
        f"`{prints.tokenizer[:16]}`, chat template `{prints.template[:16]}`. The folder is a plain PEFT folder: "
        f"`PeftModel.from_pretrained(base, folder)` reads it. {_golden(manifest)}"
    )


def _golden(manifest: Manifest) -> str:
    if manifest.golden.vectors:
        return (
            "The base is the transformer inside the encoder, whose pooling stays as it is; the golden vectors in "
            "`searchlora.json` show what comes out."
        )
    return "Prompts must be rendered as in training; the golden renders in `searchlora.json` show the token ids."


def _training(manifest: Manifest) -> dict[str, Any]:
    about: dict[str, Any] = {
        "base held in": f"{manifest.trained.quantization}, {manifest.trained.precision}",
        **manifest.training,
    }
    if manifest.dataset is not None:
        about["dataset"] = manifest.dataset.fingerprint
        about.update({f"dataset {key}": value for key, value in manifest.dataset.card.items()})
    return {**about, **{f"version of {name}": version for name, version in manifest.versions.items()}}


def _recipe(manifest: Manifest, base: str) -> dict[str, Any]:
    return {**manifest.recipe, "base": base}


def _origin(manifest: Manifest) -> str:
    return f"## Made from\n\n{', '.join(f'`{parent}`' for parent in manifest.parents)}" if manifest.parents else ""


def _table(values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False).strip('"')
    return text.replace("|", "\\|")
