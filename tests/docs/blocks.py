"""Fenced code blocks of Markdown pages, and how each kind is run.

A page's blocks are run in order in one folder. Blocks with a `title` are files. A comment before a block changes how it
is run: `<!-- exit: 1 -->` for a command that must fail, `<!-- not run: REASON -->` for one that cannot run in a test.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)?(?P<rest>[^\n]*)\n(?P<body>.*?)^(?P=indent)```\s*$", re.M | re.S
)
_TITLE = re.compile(r'title="([^"]+)"')
_COMMENT = re.compile(r"<!-- *(exit|not run): *(.+?) *-->\s*\Z", re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block: language, text, file name (`title`), expected exit code, and why it is not run, if so."""

    page: Path
    line: int
    language: str
    body: str
    title: str | None = None
    exit: int = 0
    skipped: str | None = None

    @property
    def where(self) -> str:
        """`docs/page.md:12`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The commands of a shell block, continuation lines joined and comments removed."""
        for line in self.body.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page that names its language."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] is None:
            continue
        comment = _COMMENT.search(text[: match.start()])
        kind, value = (comment[1], comment[2]) if comment else ("", "")
        title = _TITLE.search(match["rest"])
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.M)
        found.append(
            Block(
                page,
                text.count("\n", 0, match.start()) + 1,
                match["language"],
                body,
                title[1] if title else None,
                int(value) if kind == "exit" else 0,
                value if kind == "not run" else None,
            )
        )
    return found
