"""Fenced code blocks of Markdown pages, and how each kind is run.

A page's blocks are run in order in one folder. Blocks with a `title` are files. A comment before a block changes how it
is run: `<!-- exit: 1 -->` for a command that must fail, `<!-- not run: REASON -->` for one that cannot run in a test.

A block whose title begins with `Output` shows what the command before it prints, and in how many seconds. A line `...`
stands for any lines, `...` in a line for any text, and a number for any number.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)?(?P<rest>[^\n]*)\n(?P<body>.*?)^(?P=indent)```\s*$", re.M | re.S
)
_TITLE = re.compile(r'title="([^"]+)"')
_OUTPUT = re.compile(r"Output(?:, (?P<count>[\d.]+) (?P<unit>s|min))?")
_NUMBER = re.compile(r"[<+−-]?\d(?:[\d.,:]*\d)?")
_COMMENT = re.compile(r"<!-- *(exit|not run): *((?:(?!-->).)+?) *-->\s*\Z", re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        title: The file that the block is.
        exit: Exit code of its commands.
        skipped: Why it is not run.
        output: What its command prints, shortened.
        seconds: How long that takes on two idle CPU cores, about.
    """

    page: Path
    line: int
    language: str
    body: str
    title: str | None = None
    exit: int = 0
    skipped: str | None = None
    output: str | None = None
    seconds: float | None = None

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
    """Every fenced block of a page that names its language; a block of output belongs to the one before it."""
    text = page.read_text(encoding="utf-8")
    parsed: list[Block] = []
    for match in _FENCE.finditer(text):
        if match["language"] is None:
            continue
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.M)
        title = _TITLE.search(match["rest"])
        if title and (shown := _OUTPUT.fullmatch(title[1])):
            seconds = float(shown["count"]) * {"s": 1, "min": 60}[shown["unit"]] if shown["count"] else None
            parsed[-1] = replace(parsed[-1], output=body, seconds=seconds)
            continue
        comment = _COMMENT.search(text[: match.start()])
        kind, value = (comment[1], comment[2]) if comment else ("", "")
        parsed.append(
            Block(
                page,
                line,
                match["language"],
                body,
                title[1] if title else None,
                int(value) if kind == "exit" else 0,
                value if kind == "not run" else None,
            )
        )
    return parsed


def check_output(block: Block, printed: str) -> None:
    """Fail if the output that a page shows after a block is not like what was printed."""
    line = None if block.output is None else unlike(block.output, printed)
    assert line is None, f"{block.where} shows {line!r}; printed was\n{printed}"


def unlike(shown: str, printed: str) -> str | None:
    """The first line of a shown output that was not printed where it should be; None if all were.

    Examples:
        >>> unlike("a 1.5  b\\n...\\nlast ... word", "a 22 b\\nc\\nd\\nlast and final word\\n")
        >>> unlike("a\\nc", "a\\nb\\nc")
        'c'
    """
    rest = [line for line in printed.splitlines() if line.strip()]
    skips = True  # what is printed before the first shown line is left out
    for line in filter(str.strip, shown.splitlines()):
        if line.strip() == "...":
            skips = True
            continue
        pattern = _pattern(line)
        places = [place for place, other in enumerate(rest if skips else rest[:1]) if pattern.fullmatch(other)]
        if not places:
            return line
        rest, skips = rest[places[0] + 1 :], False
    return None


def _pattern(line: str) -> re.Pattern[str]:
    """Matches a printed line: `...` is any text, a number any number, and blanks any blanks."""
    texts = []
    for text in line.split("..."):
        words = [_NUMBER.sub("\0", word) for word in text.split()]
        escaped = r"\s+".join(_escaped(word) for word in words)
        before, after = (r"\s*" if text[:1].isspace() else ""), (r"\s*" if text[-1:].isspace() else "")
        texts.append(f"{before}{escaped}{after}")
    return re.compile(r"\s*" + ".*".join(texts) + r"\s*")


def _escaped(word: str) -> str:
    return _NUMBER.pattern.join(map(re.escape, word.split("\0")))
