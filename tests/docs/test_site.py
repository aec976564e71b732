"""The documentation builds strictly, and generated pages are up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

sys.path.insert(0, str(ROOT / "docs"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class References(HTMLParser):
    """Addresses that a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.loaded = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in ("script", "img", "iframe") or (tag == "link" and values.get("rel") in ("stylesheet", "preload")):
            self.loaded.append(values.get("src") or values.get("href") or "")


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = References()
        parser.feed(page.read_text(encoding="utf-8"))
        assert [each for each in parser.loaded if each.startswith(("http", "//"))] == [], page


@pytest.mark.slow
def test_public_functions_are_on_the_python_page(site):
    text = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in (
        "experiments.train.train",
        "experiments.promote.promote",
        "task.GenerationTask",
        "adapters.store.Store",
    ):
        assert f'id="searchlora.{name}"' in text, name


def test_reference_pages_are_up_to_date():
    import generate_reference

    assert generate_reference.main(check=True) == 0


def test_diagrams_are_up_to_date():
    import diagrams

    drawn = {name: diagram.svg() for name, diagram in diagrams.DIAGRAMS.items()}
    kept = {file.stem: file.read_text(encoding="utf-8") for file in Path(diagrams.FOLDER).glob("*.svg")}
    assert drawn == kept


def test_files_of_the_reading_order_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Reading order")[2].partition("## ")[0]
    files = re.findall(r"`([a-z_/]+\.py)`", section)
    assert len(files) > 15
    assert [file for file in files if not (ROOT / "searchlora" / file).is_file()] == []


def test_every_command_stage_and_pipeline_is_on_the_overview_page():
    import typer.main

    from searchlora.cli.app import app
    from searchlora.pipelines.config import ready_pipelines
    from searchlora.pipelines.stages.kinds import stage_classes

    text = (ROOT / "docs" / "reference" / "overview.md").read_text(encoding="utf-8")
    commands, stages, pipelines = text.split("\n## ")[1:]
    named: set[str] = set()
    for row in commands.splitlines():
        if names := re.findall(r"`([^`]+)`", row.split("|")[1]) if row.startswith("| `") else []:
            named |= {*names, *(f"{names[0].split()[0]} {name}" for name in names)}  # `index build`, `show`
    wanted = {
        f"{name} {verb}".strip()
        for name, command in typer.main.get_command(app).commands.items()
        for verb in getattr(command, "commands", ("",))
    }
    assert sorted(wanted - named) == []
    assert [kind for kind in stage_classes() if f"`{kind}`" not in stages] == []
    assert [name for name in ready_pipelines() if f"`{name}`" not in pipelines] == []


def test_every_page_is_in_the_navigation():
    named = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in named, page
