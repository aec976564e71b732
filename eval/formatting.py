"""Formatting of figures, Markdown tables and JSON for screens, reports and result files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchlora.files import atomic_text

#: Control characters except tab and line breaks, bidirectional overrides and isolates, non-characters, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)

#: What would start an HTML tag or a link target in Markdown. `<0.001` is neither.
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])\((?=[^)])")


def number(value: float | None, form: str = ".3f") -> str:
    """A single figure in the given format; a dash for None, nan and infinity."""
    return "–" if value is None or not math.isfinite(value) else f"{value:{form}}"


def figure(value: float, low: float, high: float, sign: str = "") -> str:
    """A figure with its interval; a dash for nan. With sign "+", the way differences are written.

    Examples:
        >>> figure(0.02, -0.01, 0.05, "+")
        '+0.020 (-0.010 to +0.050)'
    """
    return "–" if math.isnan(value) else f"{value:{sign}.3f} {interval(low, high, sign)}"


def interval(low: float, high: float, sign: str = "") -> str:
    """An interval in brackets such as `(0.290 to 0.330)`; `(no interval)` for nan."""
    if math.isnan(low):
        return "(no interval)"
    return f"({low:{sign}.3f} to {high:{sign}.3f})"


def p_value(p: float) -> str:
    """A p value with three digits, or `<0.001`; a dash for nan."""
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A Markdown table. Pipes and line breaks in cells are escaped.

    Args:
        words: Number of leading columns with text, aligned left; the other columns hold figures, aligned right.

    Examples:
        >>> print(markdown_table(["system", "MRR"], [["bm25", "0.31"]]))
        | system | MRR |
        | --- | ---: |
        | bm25 | 0.31 |
    """
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def markdown_text(text: str) -> str:
    """A line of Markdown text: without line breaks and unprintable characters, HTML tags and links shown as text."""
    line = " ".join(printable(text).splitlines())
    return _MARKUP.sub(lambda match: "&lt;" if match[0] == "<" else "\\(", line)


def printable(text: str) -> str:
    """Text with unprintable characters replaced by U+FFFD, so that it can neither end a file nor reorder a line.

    Replaced are control characters (except tab and line breaks), bidirectional overrides and isolates, non-characters
    and lone surrogates.
    """
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _cell(text: str) -> str:
    return markdown_text(text).replace("|", "\\|")


def to_plain(value: Any) -> Any:
    """Mappings, sequences and scalars as JSON represents them; a number that is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a value converted by `to_plain`, atomically. Raises `DataError` when it cannot be written."""
    with atomic_text(path) as out:
        json.dump(to_plain(value), out, indent=1, ensure_ascii=False, allow_nan=False)
        out.write("\n")
