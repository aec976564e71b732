"""Reading of recipes: YAML files over a task's defaults, overrides over both, and errors that name the key."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from searchlora.errors import DataError, RecipeError
from searchlora.files import read_bytes
from searchlora.files.yaml_text import parse_yaml

#: Which weights are trained.
Method = Literal["full", "lora", "qlora"]

#: Parts of a key in `--set` at most; recipes have sections of one level.
_MAX_DEPTH = 8

#: Shortens refused values: with aliases, a few lines of YAML can hold a value of any size.
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2


class Section(BaseModel):
    """A section of a recipe: unknown keys, and numbers that are not finite, are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WithMethod(Section):
    """What every recipe has: the weights that are trained, and how the base is held meanwhile."""

    method: Method = Field(
        "lora",
        description="full: all weights, the result is a model; lora: A and B on the frozen base; qlora: A and B on the "
        "base in 4 bits (nf4 with double quantisation, arXiv:2305.14314)",
    )

    @property
    def quantization(self) -> Literal["nf4", "none"]:
        """Quantisation of the base in training."""
        return "nf4" if self.method == "qlora" else "none"

    @property
    def is_full(self) -> bool:
        """Whether all weights are trained, so that the result is a model."""
        return self.method == "full"

    @classmethod
    def load(cls, default: Mapping[str, Any], file: str | Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """A task's default recipe, updated by a recipe file and then by `key.key=value` overrides.

        Args:
            default: The task's own recipe as a mapping.
            file: A YAML file with some of the keys.
            overrides: For example `("lora.r=8", "optim.epochs=2")`; values are read as YAML.

        Raises:
            RecipeError: for a file that is missing or not YAML, an unknown key, a value out of range, or an override of
                the learning rate for LoRA where all weights are trained.

        Examples:
            >>> from searchlora.recipe import load_recipe
            >>> load_recipe({"lora": {"r": 4}}, overrides=["optim.epochs=2", "prompt.date=2025-01-31"]).prompt.date
            '2025-01-31'
        """
        where = "recipe"
        values: Mapping[str, Any] = default
        if file is not None:
            where = str(file)
            own = read_recipe(Path(file))
            values = _merged(values, own)
        else:
            own = {}
        given: dict[str, Any] = {}
        for override in overrides:
            given = _merged(given, _override(override))
        recipe = cls._validated(_merged(values, given), where, given)
        # A file for LoRA may be used with --set method=full; one that says full itself means its rate for it.
        of_file = own if own.get("method") == "full" else {}
        for layer, place in ((of_file, f"{where}, optim.learning_rate"), (given, "--set optim.learning_rate")):
            rates = layer.get("optim") or {}
            if recipe.is_full and "learning_rate" in rates and "full_learning_rate" not in rates:
                raise RecipeError("has no effect on method = full", where=place, fix="Set optim.full_learning_rate.")
        return recipe

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "recipe") -> Self:
        """Validate a mapping as a recipe. Raises `RecipeError`."""
        return cls._validated(values, where)

    @classmethod
    def _validated(cls, values: Mapping[str, Any], where: str, given: Mapping[str, Any] = {}) -> Self:
        """Validate values; those in `given` come from `--set`, the others from `where`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = _override_of(first["loc"], given) or where
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                known = ", ".join(_known(cls, first["loc"][:-1]))
                raise RecipeError(f"unknown key '{key}'", where=where, fix=f"Known keys there: {known}.") from None
            if not key:  # a rule over several keys
                raise RecipeError(first["msg"].removeprefix("Value error, "), where=where) from None
            value = _SHORT.repr(first["input"])[:200]
            raise RecipeError(f"'{key}' = {value} is refused: {first['msg'].lower()}", where=where) from None


def _override(override: str) -> dict[str, Any]:
    """The keys that an override `key.key=value` sets. Raises `RecipeError`."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"'{override}' is not of the form key=value", where="--set")
    try:
        nested: Any = parse_yaml(value)
    except ValueError:
        raise RecipeError(f"'{value[:100]}' is not a YAML value", where=f"--set {key[:100]}") from None
    parts = key.split(".")
    if len(parts) > _MAX_DEPTH:
        raise RecipeError(f"a key of {len(parts)} parts", where="--set", fix="Write section.key=value.")
    for part in reversed(parts[1:]):
        nested = {part: nested}
    return {parts[0]: nested}


def _override_of(location: Sequence[int | str], given: Mapping[str, Any]) -> str | None:
    """The `--set KEY` that a refused value comes from; None if it comes from elsewhere."""
    at: Any = given
    for depth, part in enumerate(location, 1):
        if part not in at:
            return None
        at = at[part]
        if not isinstance(at, dict):
            return f"--set {'.'.join(map(str, location[:depth]))[:100]}"
    return None


def _known(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    model: Any = kind
    for part in path:
        model = model.model_fields[part].annotation
    return sorted(model.model_fields)


def read_recipe(file: Path) -> Mapping[str, Any]:
    """The keys and values of a recipe file, unchecked. Raises `RecipeError` where it is missing or no YAML mapping."""
    try:
        values = parse_yaml(read_bytes(file))
    except DataError as error:
        raise RecipeError(f"cannot be read: {error.what}", where=str(file), fix=error.fix) from None
    except ValueError as error:
        raise RecipeError(str(error), where=str(file), fix="Write the recipe as plain YAML in UTF-8.") from None
    if not isinstance(values, dict):
        raise RecipeError("is not a mapping of keys to values", where=str(file))
    return values


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
