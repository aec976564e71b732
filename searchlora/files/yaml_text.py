"""Strict YAML: plain values, or an error that names the line."""

from __future__ import annotations

import datetime
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from searchlora.errors import UsageError
from searchlora.files.json_text import text_fault, value_fault
from searchlora.files.text import read_bytes

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")

#: Characters of a text. The files that people write have a few thousand.
MAX_TEXT = 1 << 18


def read_settings(path: str | Path, model: type[Model]) -> Model:
    """The settings in a YAML file, as a pydantic model reads them; an empty file has the defaults."""
    from pydantic import ValidationError

    try:
        content = parse_yaml(read_bytes(Path(path)))
        return model.model_validate({} if content is None else content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"'{key}': {first['msg'][0].lower()}{first['msg'][1:]}", where=str(path)) from None
    except ValueError as error:
        raise UsageError(str(error), where=str(path)) from None


def parse_yaml(source: str | bytes) -> Any:
    """The value of a YAML text; bytes are UTF-8. Dates are `datetime.date`; keys are text or integers.

    Examples:
        >>> parse_yaml("lora: {r: 8}")
        {'lora': {'r': 8}}
        >>> parse_yaml(b"name: \\xff")
        Traceback (most recent call last):
            ...
        ValueError: is not UTF-8 text (invalid start byte), line 1
        >>> parse_yaml("name: a\\nname: b")
        Traceback (most recent call last):
            ...
        ValueError: is not YAML (the key 'name' occurs twice), line 1
    """
    import yaml

    text = _decoded(source) if isinstance(source, bytes) else source
    if len(text) > MAX_TEXT:
        raise ValueError(f"has more than {MAX_TEXT:,} characters of YAML")
    if fault := text_fault(text, allow_nul=True):
        raise ValueError(f"is not YAML ({fault})")
    try:
        value = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise _not_yaml(error) from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if fault := value_fault(value, also=(float, datetime.date)):
        raise ValueError(f"is not plain YAML ({fault})")
    return value


@cache
def _loader() -> Any:
    """A loader that refuses keys that occur twice, of which PyYAML takes the last, and keys that are not text."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it takes a twentieth of the time

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
            if repeated := next((key for key, count in Counter(keys).items() if count > 1), None):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{repeated[:40]}' occurs twice", node.start_mark
                )
            mapping = super().construct_mapping(node, deep=deep)
            if wrong := [str(key)[:40] for key in mapping if not isinstance(key, str) and type(key) is not int]:
                problem = f"the key {wrong[0]} is not text; write it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            return mapping

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
                problem = f"'{str(node.value)[:40]}' is not of the type {node.tag.rpartition(':')[2]}"  # 2024-13-01
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    return Loader


def _not_yaml(error: Any) -> ValueError:
    """The error of the parser in one line; its own message has an excerpt of the text and the name of a variable."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    problem = ", ".join(filter(None, parts)) or getattr(error, "reason", None) or str(error)
    return ValueError(f"is not YAML ({problem})" + (f", line {mark.line + 1}" if mark is not None else ""))


def _decoded(source: bytes) -> str:
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text ({error.reason}), line {line}") from None
