"""Conditions: tests of a document's field by values that earlier stages wrote into a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeAlias, get_args

from pydantic import BeforeValidator, Field

from searchlora.outputs import Label
from searchlora.pipelines.stages.stage import Settings
from searchlora.records import Document, SearchContext
from searchlora.retrieval.field_filter import FieldFilter, FieldTest, Operator, case_folded


class Condition(Settings):
    """`{max: intent.max_price}`: how a field is compared with the values at a path; all that are given must hold.

    A comparison whose path has no value in the search, or for `min` and `max` no number, is left out.

    Examples:
        >>> cheap = Condition(max="intent.price")
        >>> test = cheap.bound({"intent": {"price": 50}})
        >>> test("49.9"), test("50.5"), test("on request")
        (True, False, False)
        >>> cheap.bound({"intent": {}}) is None
        True
    """

    equals: str | None = Field(None, description="the field is one of the values")
    contains: str | None = Field(None, description="the words of a value stand together in the field")
    prefix: str | None = Field(None, description="the field begins with a value")
    min: str | None = Field(None, description="the field is a number, and this or more")
    max: str | None = Field(None, description="the field is a number, and this or less")

    @property
    def paths(self) -> dict[Operator, str]:
        """Operator -> path of its values in the search."""
        paths = {operator: getattr(self, operator) for operator in get_args(Operator)}
        return {operator: path for operator, path in paths.items() if path is not None}

    def bound(self, search: SearchContext) -> FieldTest | None:
        """The test with the values of a search; None where nothing was written, so that there is nothing to test."""
        values = ((operator, values_at(search, path)) for operator, path in self.paths.items())
        return FieldTest(tuple((operator, value) for operator, value in values if value)) or None


def _conditions(value: Any) -> Any:
    """Each path as a comparison; the message of a wrong one names the field."""
    if not isinstance(value, Mapping):
        return value
    known = tuple(Condition.model_fields)
    compared = {name: {"equals": path} if isinstance(path, str) else path for name, path in value.items()}
    for name, condition in compared.items():
        if isinstance(condition, Condition):
            continue
        if not isinstance(condition, Mapping) or not condition or not condition.keys() <= set(known):
            raise ValueError(f"the field '{name}' needs a path, or one of {', '.join(known)} with a path")
    return compared


#: Field of the documents -> its condition; a path alone stands for `{equals: PATH}`.
Conditions: TypeAlias = Annotated[dict[str, Condition], BeforeValidator(_conditions)]


def bound(conditions: Mapping[str, Condition], search: SearchContext) -> FieldFilter:
    """The tests of fields with the values of a search; those without a value are left out."""
    tests = ((name, condition.bound(search)) for name, condition in conditions.items())
    return {name: test for name, test in tests if test is not None}


def described(conditions: Mapping[str, Condition]) -> list[str]:
    """Conditions in labels of stages, one phrase for each comparison.

    Examples:
        >>> described({"brand": Condition(equals="brand"), "price": Condition(max="intent.price")})
        ['brand:brand', 'price.max:intent.price']
    """
    return [
        f"{name}:{path}" if operator == "equals" else f"{name}.{operator}:{path}"
        for name, condition in conditions.items()
        for operator, path in condition.paths.items()
    ]


def values_read(search: SearchContext, *conditions: Mapping[str, Condition]) -> dict[str, list[str]]:
    """Path -> its values in a search, for all paths that conditions read."""
    of_fields = (condition for of_field in conditions for condition in of_field.values())
    paths = dict.fromkeys(path for condition in of_fields for path in condition.paths.values())
    return {path: sorted(values_at(search, path)) for path in paths}


def unmet(conditions: Mapping[str, Condition], search: SearchContext, content: Document | None) -> str:
    """What a document does not fulfil of conditions; empty if it fulfils all, or is not known."""
    if content is None:
        return ""
    return "; ".join(
        f"its {name} does not fulfil "
        + " and ".join(f"{operator} {' or '.join(sorted(values))}" for operator, values in test.values)
        for name, test in bound(conditions, search).items()
        if not test(content.field(name))
    )


def _names(value: Any) -> set[str]:
    return {field.name for field in fields(value)}


def values_at(search: SearchContext, path: str) -> frozenset[str]:
    """The values at a path of a search, case-folded: a label, an attribute, or each of a list of them.

    Examples:
        >>> values_at({"intent": {"brand": "Acme", "colours": ["Red", "Blue"]}}, "intent.brand")
        frozenset({'acme'})
        >>> values_at({"intent": {"brand": "Acme"}}, "intent.size")
        frozenset()
    """
    value: Any = search
    for name in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(name)
        else:  # only the fields of an output: a text has methods such as `title`
            value = getattr(value, name, None) if is_dataclass(value) and name in _names(value) else None
    values = value if isinstance(value, list | tuple) else [value]
    texts = [item.value if isinstance(item, Label) else item for item in values]
    return frozenset(case_folded(str(text)) for text in texts if text is not None and str(text).strip())
