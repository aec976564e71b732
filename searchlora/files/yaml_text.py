"""Strict YAML: plain values of bounded size and depth, or an error that names the line.

An alias or a merge key (`<<`) of a few characters can stand for a value of any size, and aliases of aliases multiply.
The events of a text are therefore counted before anything is built from it.
"""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import dataclass
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

#: Nested mappings and lists of a value.
MAX_DEPTH = 100

#: Mappings, lists and scalars of a value with its aliases expanded: ten aliases of ten aliases each multiply.
MAX_NODES = 100_000

#: Characters of a number. Longer ones fit no type, and converting one takes quadratic time.
MAX_NUMBER = 400

#: Tags that may stand before a value; others build objects that no setting has.
_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))


def read_settings(path: str | Path, model: type[Model]) -> Model:
    """The settings in a YAML file, as a pydantic model reads them; an empty file has the defaults.

    Raises:
        DataError: if the file cannot be read.
        UsageError: for what is not YAML, an unknown key or an invalid value, naming the file and the key.
    """
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

    Raises:
        ValueError: if the text is not one YAML document in UTF-8, or is too long, nested too deeply, or expands too
            far. The message is a predicate ("is not YAML (...), line 3"), to be put after the name of the file.

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
        _check_events(text)
        value = yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise _not_yaml(error) from None
    if fault := value_fault(value, also=(float, datetime.date)):
        raise ValueError(f"is not plain YAML ({fault})")
    return value


@dataclass
class _Open:
    """A mapping or list of which the end is not read yet.

    Attributes:
        nodes: Values in it so far and itself, with aliases expanded.
        levels: Levels of mappings and lists in it so far.
    """

    anchor: str | None
    nodes: int = 1
    levels: int = 0


def _check_events(text: str) -> None:
    """Raise `ValueError` for a text that expands too far, is nested too deeply, or has a tag that is not plain.

    Raises:
        yaml.YAMLError: if the text is not YAML.
    """
    import yaml

    anchored: dict[str, tuple[int, int]] = {}  # anchor -> nodes and levels of its value
    stack = [_Open(None)]
    total = 0
    event: Any  # the types of the events lack what each kind has
    for event in yaml.parse(text, Loader=_base_loader()):
        nodes, levels, line = 1, 0, event.start_mark.line + 1
        if isinstance(event, yaml.CollectionStartEvent):
            _check_tag(event)
            stack.append(_Open(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            nodes, levels = closed.nodes, closed.levels + 1
            anchored[closed.anchor or ""] = nodes, levels
        elif isinstance(event, yaml.AliasEvent):
            if any(open_.anchor == event.anchor for open_ in stack):  # a value in itself
                raise ValueError(f"{_TOO_DEEP}, line {line}")
            nodes, levels = anchored.get(str(event.anchor), (1, 0))
        elif isinstance(event, yaml.ScalarEvent):
            _check_tag(event)
        else:  # the begin or end of the text or a document
            continue
        if not isinstance(event, yaml.CollectionStartEvent):
            stack[-1].nodes += nodes
            stack[-1].levels = max(stack[-1].levels, levels)
        total += 0 if isinstance(event, yaml.CollectionEndEvent) else nodes
        if len(stack) - 1 + levels > MAX_DEPTH:
            raise ValueError(f"{_TOO_DEEP}, line {line}")
        if total > MAX_NODES:
            raise ValueError(f"expands to more than {MAX_NODES:,} values, line {line}")


def _check_tag(event: Any) -> None:
    if event.tag not in (None, "!") and event.tag not in _TAGS:
        line = event.start_mark.line + 1
        raise ValueError(f"is not YAML of plain values (the tag '{event.tag[:100]}'), line {line}")


def _base_loader() -> Any:
    """The parser in C, where PyYAML has it: it takes a twentieth of the time."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _loader() -> Any:
    """A loader that refuses keys that occur twice, which YAML forbids and PyYAML takes from the last one, keys
    that are neither text nor integers, and numbers of very many digits."""
    import yaml

    def refusal(problem: str, node: Any) -> yaml.YAMLError:
        return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    class Loader(_base_loader()):  # type: ignore[misc]
        def flatten_mapping(self, node: Any) -> None:
            # Merging adds the keys of another mapping to the node, which may have some of them itself.
            if not hasattr(node, "checked"):
                node.checked = True
                keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                counts = Counter(key for key in keys if key[0] != "tag:yaml.org,2002:merge")
                if repeated := next((value for (_, value), count in counts.items() if count > 1), None):
                    raise refusal(f"the key '{repeated[:40]}' occurs twice", node)
            super().flatten_mapping(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            mapping = super().construct_mapping(node, deep=deep)
            if wrong := [str(key)[:40] for key in mapping if not isinstance(key, str) and type(key) is not int]:
                raise refusal(f"the key {wrong[0]} is not text; write it in quotes", node)
            return mapping

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
                kind = node.tag.rpartition(":")[2]  # a date such as 2024-13-01, or `!!bool maybe`
                raise refusal(f"'{str(node.value)[:40]}' is not of the type {kind}", node) from None

        def construct_number(self, node: Any) -> Any:
            if len(node.value) > MAX_NUMBER:
                raise refusal(f"a number of {len(node.value):,} characters", node)
            kind = "int" if node.tag.endswith(":int") else "float"
            return getattr(self, f"construct_yaml_{kind}")(node)

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_number)
    return Loader


_TOO_DEEP = f"is nested too deeply (more than {MAX_DEPTH} levels)"


def _not_yaml(error: Any) -> ValueError:
    """The error of the parser in one line; its own message has an excerpt of the text and the name of a variable."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    problem = ", ".join(filter(None, parts)) or getattr(error, "reason", None) or str(error)
    if "nesting depth" in problem:
        return ValueError(_TOO_DEEP)
    return ValueError(f"is not YAML ({problem})" + (f", line {mark.line + 1}" if mark is not None else ""))


def _decoded(source: bytes) -> str:
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text ({error.reason}), line {line}") from None
