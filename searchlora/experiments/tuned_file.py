"""The pipeline file that `tune` writes: fitted values of one stage, and pinned adapters."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.files import atomic_text, read_bytes
from searchlora.files.yaml_text import parse_yaml
from searchlora.pipelines.config import PipelineConfig, is_empty_slot, pipeline_path
from searchlora.pipelines.stages.stage import StageSettings


def write_tuned(
    out: Path,
    config: PipelineConfig,
    stages: Sequence[StageSettings],
    place: int,
    values: Mapping[str, Any],
    origin: str,
) -> None:
    """Write the pipeline's file with pinned adapters and new values of one stage; the parameters keep their names."""
    import yaml

    source = pipeline_path(config.source)
    content = parse_yaml(read_bytes(source))
    filled = [stage for stage in content["stages"] if not is_empty_slot(stage, config.parameters)]
    written = [_with_pins(stage, settings) for stage, settings in zip(filled, stages, strict=True)]
    ((kind, own),) = written[place].items()
    written[place] = {kind: _without_unused_parts({**own, **values}) if "weights" in values else {**own, **values}}
    rest = {key: value for key, value in content.items() if key not in ("name", "parameters")} | {"stages": written}
    if "corpus" in rest:
        rest["corpus"] = _moved(rest["corpus"], config.parameters, source.parent, out.parent)
    used = {key: value for key, value in config.parameters.items() if f"${key}" in str(rest)}
    with atomic_text(out) as file:
        file.write(f"# Written by `searchlora tune`; {origin}\n")
        whole = {"name": content["name"], **({"parameters": used} if used else {}), **rest}
        yaml.safe_dump(whole, file, sort_keys=False, width=120, allow_unicode=True)


def _with_pins(stage: Mapping[str, Any], settings: StageSettings) -> dict[str, Any]:
    """A stage of the file with pinned adapters, also in the parts of a fusion."""
    ((kind, values),) = stage.items()
    if settings.parts:
        return {kind: {**values, "of": [_with_pins(*part) for part in zip(values["of"], settings.parts, strict=True)]}}
    adapter = getattr(settings, settings.adapter_key) if settings.adapter_key is not None else None
    return {kind: values if adapter is None else {**values, settings.adapter_key: adapter}}


def _without_unused_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a fusion without the parts of weight 0, which a pipeline file cannot have."""
    parts = [(part, weight) for part, weight in zip(values["of"], values["weights"], strict=True) if weight > 0]
    return {**values, "of": [part for part, _ in parts], "weights": [weight for _, weight in parts]}


def _moved(corpus: Any, parameters: Mapping[str, Any], source: Path, out: Path) -> Any:
    """The corpus of a pipeline file for a file in another folder: its path, also a parameter's, is relative to it."""
    if isinstance(corpus, Mapping):
        return {**corpus, "file": _moved(corpus.get("file"), parameters, source, out)}
    place = parameters.get(corpus[1:]) if str(corpus).startswith("$") else corpus
    return corpus if place is None else os.path.relpath(source / str(place), out)
