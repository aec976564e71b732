"""Strict YAML: plain data of bounded depth and size, or an error that says why not."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from searchlora.files.json_text import MAX_INTEGER, text_fault

#: Nested mappings and lists of a value.
MAX_DEPTH = 100

#: Mappings, lists and scalars of a value with its aliases expanded: ten aliases of ten aliases each multiply.
MAX_NODES = 1_000_000


def parse_yaml(source: str | bytes) -> Any:
    """The value of a YAML text; bytes are UTF-8.

    Raises:
        ValueError: if the text is not YAML in UTF-8, or nested too deeply, or expands too far. The message is a
            predicate ("is not YAML (...)"), to be put after the name of the file.

    Examples:
        >>> parse_yaml("lora: {r: 8}")
        {'lora': {'r': 8}}
        >>> parse_yaml(b"name: \\xff")
        Traceback (most recent call last):
            ...
        ValueError: is not UTF-8 text (invalid start byte), line 1
    """
    import yaml

    if isinstance(source, bytes):
        source = _decoded(source)
    try:
        value = yaml.load(source, Loader=_loader())
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # ValueError: a date such as 2024-13-01
        raise ValueError(f"is not YAML ({error})") from None
    if _nodes(value, {}, 0) > MAX_NODES:
        raise ValueError(f"expands to more than {MAX_NODES:,} values")
    return value


@cache
def _loader() -> Any:
    """A safe loader that refuses a key that occurs twice, which YAML forbids and PyYAML takes from the last one."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            if isinstance(node, yaml.MappingNode):
                keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                counts = Counter(key for key in keys if key[0] != "tag:yaml.org,2002:merge")
                if repeated := next((value for (_, value), count in counts.items() if count > 1), None):
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{repeated[:40]}' occurs twice", node.start_mark
                    )
            return super().construct_mapping(node, deep=deep)

    return Loader


_TOO_DEEP = f"is nested too deeply (more than {MAX_DEPTH} levels)"


def _decoded(source: bytes) -> str:
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text ({error.reason}), line {line}") from None


def _nodes(value: Any, known: dict[int, int], depth: int) -> int:
    """The number of nodes with aliases expanded. Raises `ValueError` for too much depth, which a cycle has too."""
    if not isinstance(value, dict | list | set | tuple):
        if isinstance(value, str) and (fault := text_fault(value)):
            raise ValueError(f"is not plain YAML ({fault})")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise ValueError("is not plain YAML (an integer does not fit in 64 bits)")
        return 1
    if depth > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
    if id(value) not in known:
        members = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_nodes(member, known, depth + 1) for member in members)
    return known[id(value)]
