"""Every code block of README.md and `docs/` is run, page by page, as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks.servers import is_ready
from tests.child_scripts import COMMAND, Script, run_script
from tests.docs.blocks import PAGES, ROOT, blocks
from tests.docs.conftest import write_block

#: Run by tests/journeys instead, which has the files that the page presupposes.
JOURNEY = ROOT / "docs" / "tutorials" / "production.md"

#: A module of Python, run in a child process that starts with the libraries imported.
MODULE = (
    "import runpy, sys; sys.argv[:] = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)

LANGUAGES = ("bash", "python", "yaml", "json")
RUN = [page for page in PAGES if page != JOURNEY and any(block.language in LANGUAGES for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_of_page_run(page, workplace, cli):
    namespace: dict[str, object] = {"__name__": "__main__"}
    with Servers() as servers:
        for block in blocks(page):
            if block.skipped is not None:
                continue
            if block.title:
                write_block(workplace, block.title, block.body)
            elif block.language == "python":
                exec(compile(block.body, block.where, "exec"), namespace)
            elif block.language == "bash":
                for words in block.commands():
                    code = run(words, cli, servers)
                    assert code == block.exit, (block.where, words, code)
            elif block.language in ("yaml", "json"):
                pytest.fail(f"{block.where}: a {block.language} block needs a title, or a reason why it is not run")


def run(words, cli, servers):
    """One command of a shell block: searchlora's in this process, servers in the background, curl for real."""
    if words[:2] == ["searchlora", "serve"] or words[:3] == ["searchlora", "grade", "serve"]:
        servers.start(words)
        return 0
    if words[0] == "searchlora":
        called = cli(*words[1:])
        if called.code:
            print(called.err, file=sys.stderr)
        return called.code
    if words[0] == "curl":
        return subprocess.run([*words, "--silent", "--fail-with-body"], timeout=60).returncode
    if words[0] == "export":
        name, _, value = words[1].partition("=")
        servers.environment[name] = value
        return 0
    if words[:2] == ["python", "-m"]:
        ran = run_script(MODULE, *words[2:])
        print(ran.stdout, ran.stderr, file=sys.stderr)
        return ran.returncode
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), words
        return 0
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

    def __exit__(self, *_):
        for each in self.running:
            each.terminate()
            each.wait(30)
