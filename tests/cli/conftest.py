from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from searchlora.cli import main


@dataclass(frozen=True)
class Called:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """`cli("adapters", "list")` runs the command line in this process, as the installed script would."""

    def call(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["searchlora", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return Called(code, said.out, said.err)

    return call


@pytest.fixture
def refused(cli: Callable[..., Called]) -> Callable[..., str]:
    """The one paragraph with which a command refuses; fails if it succeeds, or shows a traceback."""

    def call(*arguments: object) -> str:
        called = cli(*arguments)
        assert called.code not in (0, 70), called
        assert "Traceback" not in called.err
        complaint = [line for line in called.err.splitlines() if line.startswith("searchlora: ")]
        assert len(complaint) == 1, called.err
        return complaint[0]

    return call
