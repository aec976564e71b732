"""Optional dependencies: `searchlora.extras` agrees with `pyproject.toml`."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import searchlora
import searchlora.cli
from searchlora.errors import MissingExtra
from searchlora.extras import EXTRAS, extra_for, importing, missing_extra, missing_modules, require

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {
    "sentence-transformers": "sentence_transformers",
    "faiss-cpu": "faiss",
    "prometheus-client": "prometheus_client",
    "langchain-core": "langchain_core",
    "llama-index-core": "llama_index",
    "milvus-lite": "milvus_lite",
    "grpcio": "grpc",
    "opensearch-py": "opensearchpy",
}


def modules_of(requirements: list[str]) -> set[str]:
    """Modules of a list of requirements, those of nested `searchlora[...]` included."""
    found: set[str] = set()
    for requirement in requirements:
        name = re.split(r"[<>=!\[]", requirement)[0]
        if name == "searchlora":
            for extra in requirement.partition("[")[2].rstrip("]").split(","):
                found |= modules_of(PROJECT["optional-dependencies"][extra])
        else:
            found.add(MODULES.get(name, name))
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_module_of_an_extra_is_installed_by_it(extra):
    installed = modules_of(PROJECT["optional-dependencies"][extra])
    assert set(EXTRAS[extra]) - {"starlette"} <= installed  # fastapi brings starlette
    assert not set(EXTRAS[extra]) & modules_of(PROJECT["dependencies"])


def test_every_optional_module_is_assigned_to_an_extra():
    of_extras = modules_of(PROJECT["optional-dependencies"]["all"])
    assert {module for module in of_extras if extra_for(module) is None} == set()


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        *[("torch", "local"), ("matplotlib", "report"), ("trl", "train"), ("fastapi", "serve"), ("faiss", "encoders")],
        ("pyterrier.io", "pyterrier"),
        ("psycopg", "postgres"),
    ],
)
def test_the_smallest_extra_is_named(module, extra):
    assert f"searchlora[{extra}]" in str(missing_extra(ModuleNotFoundError(f"No module named '{module}'", name=module)))


def test_all_extras_are_installed_in_the_test_environment():
    # LangChain and LlamaIndex are in an environment of their own, and so is Ray, which is large.
    extras = EXTRAS.keys() - {"langchain", "llamaindex", "ray"}
    assert {extra: missing_modules(extra) for extra in extras} == dict.fromkeys(extras, ())


def test_the_command_line_names_the_extra(monkeypatch, capsys):
    def fail(**_):
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")

    monkeypatch.setattr("searchlora.cli.app.app", fail)
    monkeypatch.setattr("sys.argv", ["searchlora", "run"])
    with pytest.raises(SystemExit) as ended:
        searchlora.cli.main()
    assert ended.value.code == 1
    assert "pip install 'searchlora[encoders]'" in capsys.readouterr().err


def test_a_module_that_a_user_imports_names_its_extra():
    with pytest.raises(MissingExtra, match=r"searchlora\[langchain\]"), importing():
        raise ModuleNotFoundError("No module named 'langchain_core'", name="langchain_core")
    assert missing_extra(ModuleNotFoundError("No module named 'nonsense'", name="nonsense")) is None
    with pytest.raises(ModuleNotFoundError, match="nonsense"), importing():
        raise ModuleNotFoundError("No module named 'nonsense'", name="nonsense")


def test_a_module_that_is_missing_is_told_before_it_is_imported(monkeypatch):
    require("torch")
    monkeypatch.setattr("searchlora.extras.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"'sentence_transformers', which is not installed.*searchlora\[encoders\]"):
        require("sentence_transformers")


# Start-up time: `import searchlora` imports nothing heavy, and `--help` is fast


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("", {"torch", "transformers", "peft", "trl", "datasets", "numpy", "pydantic", "matplotlib", "bm25s"}),
        ("searchlora.adapters.list()", {"torch", "transformers", "peft", "fsspec"}),
    ],
)
def test_the_package_and_commands_of_the_store_import_nothing_heavy(code, heavy):
    assert run("-c", f"import sys, searchlora; {code}\nprint({heavy} & set(sys.modules))").strip() == "set()"


@pytest.mark.slow
def test_help_takes_less_than_half_a_second():
    script = Path(sys.executable).with_name("searchlora")
    took = []
    for _ in range(5):
        started = time.monotonic()
        subprocess.run([script, "--help"], capture_output=True, check=True)
        took.append(time.monotonic() - started)
    assert min(took) < 0.5  # the least of five: other processes on the machine only ever add


def test_the_verbs_are_functions_of_the_same_names():
    assert all(callable(getattr(searchlora, verb)) for verb in ("train", "evaluate", "run", "demo"))
    assert {"train", "adapters", "data"} <= set(dir(searchlora))
    assert callable(searchlora.data.build)
    assert callable(searchlora.adapters.verify)
