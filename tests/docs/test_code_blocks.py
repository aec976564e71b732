"""Every code block of README.md and `docs/` is run, page by page, as a reader would."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.servers import is_ready
from tests.child_scripts import COMMAND, Script, run_script
from tests.docs.blocks import PAGES, ROOT, blocks, check_output
from tests.docs.conftest import write_block

#: Run by tests/journeys instead, which have the files that the pages presuppose.
JOURNEYS = [ROOT / "docs" / "tutorials" / name for name in ("production.md", "round.md")]

#: A module of Python, run in a child process that starts with the libraries imported.
MODULE = (
    "import runpy, sys; sys.argv[:] = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)

LANGUAGES = ("bash", "python", "yaml", "json")
RUN = [page for page in PAGES if page not in JOURNEYS and any(block.language in LANGUAGES for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_of_page_run(page, workplace, cli, capsys):
    namespace: dict[str, object] = {"__name__": "__main__"}
    with Servers() as servers:
        for block in blocks(page):
            if block.skipped is not None:
                continue
            printed = ""
            if block.title:
                write_block(workplace, block.title, block.body)
            elif block.language == "python":
                capsys.readouterr()
                exec(compile(block.body, block.where, "exec"), namespace)
                printed = capsys.readouterr().out
            elif block.language == "bash":
                for words in block.commands():
                    code, printed = run(words, cli, servers)
                    assert code == block.exit, (block.where, words, code, printed)
            elif block.language in ("yaml", "json"):
                pytest.fail(f"{block.where}: a {block.language} block needs a title, or a reason why it is not run")
            if not block.body.startswith("make "):  # tests/experiments/test_demo.py compares the demo's
                check_output(block, printed)


def test_shown_outputs_are_each_of_one_command():
    shown = [block for page in PAGES for block in blocks(page) if block.output is not None]
    assert [block.where for block in shown if block.language == "bash" and len(list(block.commands())) != 1] == []


def run(words, cli, servers):
    """Exit code and output of a command: searchlora's in this process, servers in the background, curl for real."""
    if words[:2] == ["searchlora", "serve"] or words[:3] == ["searchlora", "grade", "serve"]:
        return 0, servers.start(words)
    if words[0] == "searchlora":
        called = cli(*words[1:])
        return called.code, called.out + called.err
    if words[0] == "curl":
        ended = subprocess.run([*words, "--silent", "--fail-with-body"], timeout=60, capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr
    if words[0] == "export":
        name, _, value = words[1].partition("=")
        servers.environment[name] = value
        return 0, ""
    if words[:2] == ["python", "-m"]:
        ran = run_script(MODULE, *words[2:])
        return ran.returncode, ran.stdout + ran.stderr
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), words
        return 0, ""
    pytest.fail(f"a page shows a command that no test runs: {words}")


class Servers:
    """Servers that a page starts, on the ports that it names; they end with the page."""

    def __init__(self):
        self.environment = {}
        self.running = []

    def __enter__(self):
        return self

    def start(self, words):
        port = words[words.index("--port") + 1] if "--port" in words else "8000"
        self.running.append(Script(COMMAND, *words[1:], environment=self.environment))
        assert is_ready(self.running[-1], f"http://127.0.0.1:{port}/readyz"), f"did not start: {words}"
        return self.running[-1].stdout

    def __exit__(self, *_):
        for server in self.running:
            server.terminate()
            server.wait(30)


# Every `>>>` example in a docstring of the package is run

PACKAGE = Path(__file__).parents[2] / "searchlora"


def modules_with_examples() -> list[str]:
    """Dotted names of the modules that hold an example."""
    files = [file for folder in _folders(PACKAGE) for file in sorted(folder.glob("*.py"))]
    named = [file for file in files if ">>> " in file.read_text(encoding="utf-8")]
    return [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for file in named
    ]


def _folders(folder: Path) -> list[Path]:
    """A package and its subpackages; `rglob` would not follow the links to tasks, pipelines and eval."""
    return [folder, *(inner for each in sorted(folder.iterdir()) if each.is_dir() for inner in _folders(each))]


@pytest.mark.slow
@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_module(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.attempted
    assert result.failed == 0
