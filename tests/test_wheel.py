"""The wheel holds every file of the package, and works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Three folders stand at the top level; in the wheel they are packages of searchlora.
LINKED = ("tasks", "pipelines", "eval")

#: Without the checkout.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

pytestmark = pytest.mark.slow


def packaged() -> set[str]:
    """The tracked files of the package, by their path in the wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "searchlora", *LINKED], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    files = {file for file in listed if not (ROOT / file).is_symlink()}
    return {file if file.startswith("searchlora/") else f"searchlora/{file}" for file in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, offline: a folder `build` of the checkout may hold modules that are gone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("searchlora", *LINKED):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *arguments, "--no-index", "--quiet"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program(wheel: Path) -> Path:
    """`searchlora` in an environment with the wheel and the libraries of this one, but not its checkout."""
    environment = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    installed = pip("--python", str(environment / "bin" / "python"), "install", "--no-deps", str(wheel))
    assert installed.returncode == 0, installed.stderr
    # A plain path: `.pth` files of that folder, such as those of editable installs, are not read.
    own = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (own / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return environment / "bin" / "searchlora"


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == packaged()


def test_commands_work_without_the_checkout(program: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("query,rewrite\nred telly,red television\nsofa,couch\n", encoding="utf-8")
    (tmp_path / "products.jsonl").write_text('{"id": "p1", "title": "Green tent", "text": "New."}\n', encoding="utf-8")
    for words, printed in (
        (["demo", "--help"], "--all"),
        (["search", "bm25", "tent", "--corpus", "products.jsonl"], "Green tent"),
        (["data", "build", "rewriting", "pairs.csv", "--format", "pairs", "--out", "data"], "Wrote data"),
        (["tasks", "new", "greeting", "--kind", "text", "--out", "mine"], "greeting"),
    ):
        ended = subprocess.run(
            [program, *words], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (words, ended.stderr)
        assert printed in ended.stdout, words
    where = "import searchlora; print(searchlora.__file__)"
    python = program.with_name("python")
    found = subprocess.run([python, "-c", where], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert found.stdout.startswith(str(program.parents[1]))
