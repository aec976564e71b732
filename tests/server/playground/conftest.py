"""Fixtures: a server with tiny pipelines, and the page's scripts on a small DOM."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tests.server.api.serving import served
from tests.server.playground.tree import parsed

ASSETS = files("searchlora.server.playground").joinpath("assets")


@pytest.fixture(scope="module")
def url(search_service):
    with served(search_service) as url:
        yield url


@pytest.fixture
def own_steps(tmp_path):
    """Runs the page's script and the steps of a test; `before` gives the server's answers, see `run_page.mjs`."""
    return lambda before, code: run_page(tmp_path, "http://127.0.0.1:9", code, before)


def run_page(folder, url, code, before="", assets=ASSETS, page="playground.html", main="main.js"):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on the path")
    tree = parsed(assets.joinpath(page).read_text("utf-8"))
    (folder / "tree.json").write_text(json.dumps(tree), encoding="utf-8")
    (folder / "steps.js").write_text(code, encoding="utf-8")
    (folder / "before.js").write_text(before, encoding="utf-8")
    script = Path(str(assets.joinpath(main)))
    runner = Path(__file__).with_name("run_page.mjs")
    command = [node, runner, script, folder / "tree.json", url, folder / "steps.js", folder / "before.js"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
