"""What training needs besides data: a small YAML file; an unknown key or a value out of range is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from searchlora.errors import RecipeError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(_Section):
    """The adapter: ΔW = (alpha / r) · B · A (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = Field(16, ge=1, description="rank of the update")
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1, description="0 is the fast default: no mask is drawn, no copy is made")
    target_modules: str | list[str] = Field("all-linear", description="'all-linear', or a list of module names")
    variant: Literal["lora", "rslora", "dora", "pissa"] = Field(
        "lora", description="rslora arXiv:2312.03732, dora arXiv:2402.09353, pissa arXiv:2404.02948"
    )
    plus_ratio: float | None = Field(
        None, ge=1, description="LoRA+ (arXiv:2402.12354): learning rate of B over that of A"
    )


class Optim(_Section):
    """The optimiser and its schedule."""

    learning_rate: float = Field(5e-4, gt=0, description="for LoRA; about ten times that of full fine-tuning")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(16, ge=1, description="rows per step and device")
    gradient_accumulation: int = Field(1, ge=1)
    gradient_checkpointing: bool = Field(False, description="saves memory on large models, costs a forward pass")
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="ends training earlier than `epochs` would")


class Validation(_Section):
    """Measuring during training, always on another copy of the model than the one being trained."""

    every_steps: int | None = Field(None, ge=1, description="None: four times a run")
    rows: int = Field(64, ge=1, description="validation rows for the loss")
    generate_rows: int = Field(32, ge=0, description="of these, rows that are also generated and measured by the task")
    metric: str = Field("loss", description="what picks the best step: 'loss', or a measure of the task")
    patience: int | None = Field(None, ge=1, description="stop after so many validations without a better value")


class Checkpoints(_Section):
    """Checkpoints with optimiser state, from which `--resume` continues."""

    every_steps: int = Field(50, ge=1)
    keep: int = Field(2, ge=1)


class Recipe(_Section):
    """Base, quantisation, LoRA, optimiser."""

    base: str = "smollm2-135m-instruct-q4_1"
    quantization: Literal["nf4", "none"] = Field(
        "nf4", description="nf4 with double quantisation: QLoRA, arXiv:2305.14314"
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the base's computation; adapters train in fp32")
    lora: Lora = Lora()
    optim: Optim = Optim()
    validation: Validation = Validation()
    checkpoints: Checkpoints = Checkpoints()
    max_length: int = Field(1024, ge=8, description="tokens of prompt and completion together")
    too_long: Literal["error", "drop"] = Field("error", description="a row above max_length: refuse, or drop and count")
    max_new_tokens: int = Field(64, ge=1, description="at inference")
    seed: int = 13
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = []


def load_recipe(default: Mapping[str, Any], file: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Lay a recipe file over a task's default, and `key.key=value` overrides over both.

    Args:
        default: The task's own recipe as a mapping.
        file: A YAML file with some of the keys.
        overrides: For example `("lora.r=8", "optim.epochs=2")`; values are read as YAML.

    Raises:
        RecipeError: for a file that is missing or not YAML, an unknown key, or a value out of range.
    """
    values = dict(default)
    where = "recipe"
    if file is not None:
        where = str(file)
        values = _merged(values, _read(Path(file)))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"'{override}' is not of the form key=value", where="--set")
        try:
            nested: Any = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"'{value}' is not a YAML value", where=f"--set {key}") from None
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = _merged(values, nested)
    return parse_recipe(values, where)


def parse_recipe(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Validate a mapping as a recipe. Raises `RecipeError` naming the key."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RecipeError(
                f"unknown key '{key}'", where=where, fix=f"Known keys there: {', '.join(_known(first['loc'][:-1]))}."
            ) from None
        raise RecipeError(f"'{key}' = {first['input']!r} is refused: {first['msg'].lower()}", where=where) from None


def _known(path: tuple[int | str, ...]) -> list[str]:
    model: Any = Recipe
    for part in path:
        model = model.model_fields[part].annotation
    return sorted(model.model_fields)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror})", where=str(file)) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"is not YAML ({error})", where=str(file)) from None
    if not isinstance(values, dict):
        raise RecipeError("is not a mapping of keys to values", where=str(file))
    return values


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
