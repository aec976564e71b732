"""A folder as a reader of the documentation has it, in which the commands of a page run on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchlora.eval.policy import read_policy
from searchlora.models.resolve import BaseModel
from searchlora.recipe_reading import read_recipe
from searchlora.task import Task

#: Laid over each task's own recipe, so that a training run takes a second.
SMALL: dict[str, Any] = {
    "optim": {"max_steps": 3, "batch_size": 4},
    "validation": {"every_steps": 3, "rows": 4},
}
LLM: dict[str, Any] = {
    "method": "lora",
    "max_length": 4000,
    "max_new_tokens": 8,
    "validation": {"generate_rows": 2},
}


@pytest.fixture
def small_recipes(monkeypatch: pytest.MonkeyPatch, tiny_base: BaseModel) -> None:
    """Tiny LLM bases and few training steps. The encoder stays: it is small enough, and pipelines name it."""

    def small(task: Task) -> dict[str, Any]:
        recipe = dict(read_recipe(task.folder / "recipe.yaml"))
        is_encoder = recipe.get("base") == "all-minilm-l6-v2"
        for change in [SMALL] if is_encoder else [SMALL, LLM, {"base": str(tiny_base.path)}]:
            for key, value in change.items():
                recipe[key] = {**recipe.get(key, {}), **value} if isinstance(value, dict) else value
        return recipe

    monkeypatch.setattr(Task, "default_recipe", property(small))
    monkeypatch.setenv("COLUMNS", "150")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_recipes: None) -> Path:
    """A separate working folder with the files that the pages presuppose."""
    del small_recipes
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder that the tests of a module share, so that sample adapters are trained once."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def shared_workplace(module_folder: Path, monkeypatch: pytest.MonkeyPatch, small_recipes: None) -> Path:
    """The module's folder as the working folder."""
    del small_recipes
    monkeypatch.chdir(module_folder)
    return module_folder


def write_files(folder: Path) -> None:
    """Queries, products and judgments in the formats that the pages name."""
    things = ["tent", "stove", "jacket", "lamp", "rope", "boots"]
    (folder / "queries.tsv").write_text(
        "id\tquery\n" + "".join(f"{number}\t{thing} for a trip\n" for number, thing in enumerate(things)),
        encoding="utf-8",
    )
    (folder / "products.jsonl").write_text(
        "".join(
            json.dumps({"id": f"d{number}", "title": thing, "text": f"A sturdy {thing} for every trip."}) + "\n"
            for number, thing in enumerate(things)
        ),
        encoding="utf-8",
    )
    (folder / "human.txt").write_text(
        "".join(
            f"{topic} 0 d{document} {3 if topic == document else (topic + document) % 3}\n"
            for topic in range(6)
            for document in range(6)
        ),
        encoding="utf-8",
    )


def write_block(folder: Path, title: str, body: str) -> None:
    """A block with a title is a file; YAML and JSON must be valid."""
    if title.endswith((".yaml", ".yml")):
        yaml.safe_load(body)
    if title.endswith(".json"):
        json.loads(body)
    file = folder / title
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(body, encoding="utf-8")
    if title.startswith("policy"):
        read_policy(file)
