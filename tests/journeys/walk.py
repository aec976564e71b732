"""Execution of a documentation page as its reader would: every command in a process of its own, every file as shown."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.servers import is_ready
from searchlora.errors import BaseModelError
from searchlora.models.resolve import resolve
from tests.docs.blocks import ROOT, Block, blocks, check_output

PAGE = ROOT / "docs" / "tutorials" / "production.md"

#: Libraries with an environment of their own, whose Python SEARCHLORA_CLIENTS_PYTHON names.
CLIENTS = frozenset({"langchain_openai", "llama_index", "litellm"})

#: LiteLLM looks prices up when it is imported, unless it is told to use its own copy.
CLIENTS_ENVIRONMENT = {"PYTHONPATH": "", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

#: Executes `searchlora` with these arguments in the working folder; returns exit code and output.
Execute = Callable[[Sequence[str]], tuple[int, str]]


class Walk:
    """A reader of a page, in a folder of their own.

    Attributes:
        outputs: Each command, without the program and added options -> its exit code and output.
        seconds: The same -> the seconds that it took, and those that the page shows.
        left_out: Blocks that could not be run, and why.

    Args:
        folder: The working folder, with the files that the page presupposes.
        added: First words of a command, as `train judgment` -> options that make it faster.
        execute: Executes a command; None: the installed script, in a process of its own.
        not_compared: First words of commands whose output is not that of the page here.
    """

    def __init__(
        self,
        folder: Path,
        *,
        added: Mapping[str, Sequence[str]] | None = None,
        execute: Execute | None = None,
        not_compared: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.outputs: dict[str, str] = {}
        self.seconds: dict[str, tuple[float, float | None]] = {}
        self.left_out: list[str] = []
        self._added = added or {}
        self._execute = execute or self._script
        self._not_compared = not_compared
        self._servers: list[subprocess.Popen[bytes]] = []
        self._port = str(_free_port())
        self._shown_port: str | None = None

    def page(self, page: Path) -> None:
        """Write and run every block of a page in order; the first command that fails ends the walk."""
        try:
            for block in blocks(page):
                if block.skipped is None:
                    self._block(block)
        finally:
            self.stop()
            for command, (seconds, shown) in self.seconds.items():
                print(f"{seconds:6.1f} s, the page shows {shown or 0:g} s  {command}")
            print("\n".join(f"left out  {reason}" for reason in self.left_out))

    def output(self, beginning: str) -> str:
        """The output of the one command that begins with these words."""
        (matching,) = (output for command, output in self.outputs.items() if command.startswith(beginning))
        return matching

    def stop(self) -> None:
        """End the servers that the page started."""
        while self._servers:
            server = self._servers.pop()
            server.terminate()
            server.wait(60)

    def _block(self, block: Block) -> None:
        if block.title is not None:
            (self.folder / block.title).write_text(block.body, encoding="utf-8")
        elif block.language == "python":
            self._python(block)
        elif block.language == "bash":
            for words in block.commands():
                self._command(block, words)

    def _command(self, block: Block, words: Sequence[str]) -> None:
        program, *arguments = words
        started = time.monotonic()
        if program == "searchlora" and arguments[0] == "serve":
            self._serve(block, arguments)
        elif program == "searchlora":
            options = [
                option
                for beginning, more in self._added.items()
                if " ".join(arguments).startswith(beginning)
                for option in more
            ]
            self._check(block, " ".join(arguments), *self._execute([*arguments, *options]))
        elif program == "python":
            file = self.folder / arguments[0]
            file.write_text(self._ported(file.read_text(encoding="utf-8")), encoding="utf-8")
            self._check(block, " ".join(words), *self._run([sys.executable, *arguments]))
        else:
            assert program == "curl", f"{block.where} needs a program of one's own: {program}"
            code, output = self._run(["curl", "--silent", "--fail-with-body", *map(self._ported, arguments)])
            self._check(block, f"curl {arguments[0].partition('/v1')[2]}", code, output)
        self.seconds[" ".join(words)[:60]] = time.monotonic() - started, block.seconds

    def _python(self, block: Block) -> None:
        """Run a block with the Python of its library; blocks of clients that are not installed are left out."""
        imported = re.findall(r"^(?:from|import) (\w+)", block.body, re.M)
        client = next((module for module in imported if module in CLIENTS), None)
        python = sys.executable if client is None else os.environ.get("SEARCHLORA_CLIENTS_PYTHON")
        if python is None:
            self.left_out.append(f"{client}: SEARCHLORA_CLIENTS_PYTHON names no Python that has it")
            return
        command = [python, "-c", self._ported(block.body)]
        self._check(block, f"python {imported[0]}", *self._run(command, CLIENTS_ENVIRONMENT if client else {}))

    def _check(self, block: Block, command: str, code: int, output: str) -> None:
        assert code == block.exit, f"{block.where}: {command} ended with {code}\n{output}"
        assert "Traceback" not in output, output
        if not command.startswith(self._not_compared):
            check_output(block, output)
        self.outputs[command] = output

    def _serve(self, block: Block, arguments: Sequence[str]) -> None:
        """Start a server in place of the one before."""
        self.stop()
        self._shown_port = arguments[arguments.index("--port") + 1]
        command = [_script(), *map(self._ported, arguments), *self._added.get("serve", ())]
        printed = self.folder / "serve.out"
        with printed.open("w", encoding="utf-8") as out:
            self._servers.append(subprocess.Popen(command, cwd=self.folder, env=_environment(), stdout=out))
        assert is_ready(self._servers[-1], f"http://127.0.0.1:{self._port}/readyz"), "the server did not start"
        self._check(block, "serve", 0, printed.read_text(encoding="utf-8"))

    def _ported(self, text: str) -> str:
        """The text with a free port in place of the page's, which another process may use."""
        return text.replace(self._shown_port, self._port) if self._shown_port is not None else text

    def _script(self, arguments: Sequence[str]) -> tuple[int, str]:
        return self._run([_script(), *arguments])

    def _run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        variables = {**_environment(), **(environment or {})}
        ended = subprocess.run(
            command, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=900, check=False
        )
        return ended.returncode, ended.stdout + ended.stderr


def skip_without(folder: str, real_data: Path) -> None:
    """Skip a test without the weights of the small base, or without a folder of the real data."""
    try:
        resolve("smollm2-135m-instruct-q4_1", ask_hub=False)
    except BaseModelError as error:
        pytest.skip(f"without the weights of the small base: {error}")
    if not (real_data / folder).is_dir():
        pytest.skip(f"no folder '{folder}' in {real_data}")


def _script() -> str:
    return str(Path(sys.executable).with_name("searchlora"))


def _environment() -> dict[str, str]:
    """A wide terminal, and the code of this checkout."""
    return {**os.environ, "COLUMNS": "150", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
