"""A tiny prompted task, and tiny trained adapters, for the tests of the store and the load check."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.adapters.attach import new_adapter, save_adapter
from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.manifest import Base, Dataset, ManifestDraft, Precision
from searchlora.adapters.peft_folder import WEIGHTS
from searchlora.models.fingerprint import fingerprint
from searchlora.models.load import load_model
from searchlora.models.resolve import BaseModel, resolve
from searchlora.outputs import FreeText, OutputSpec
from searchlora.recipe import Recipe, parse_recipe
from searchlora.records import Record
from searchlora.task import GenerationTask

PROMPT = "{% block system %}Echo the query.{% endblock %}{% block user %}Query: {{ query }}{% endblock %}"


class EchoTask(GenerationTask):
    """Answers with the query itself."""

    name = "echo"
    reads: Mapping[str, str] = {"query": "query"}
    writes = "query"
    formats: Mapping[str, Any] = {}

    def target(self, record: Record) -> str:
        return str(record["query"])

    def output(self, record: Record) -> OutputSpec:
        del record
        return FreeText()

    def evaluate(self, inputs: Any) -> Any:
        raise NotImplementedError


def echo_task(folder: Path, prompt: str = PROMPT) -> EchoTask:
    """The task in a folder of its own, so that a test may change its template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.jinja").write_text(prompt, encoding="utf-8")
    records = [{"id": f"e{n}", "group": f"e{n}", "query": query} for n, query in enumerate(("red shoes", "tents"))]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return EchoTask(folder)


def recipe_for(base: BaseModel, **lora: Any) -> Recipe:
    """An unquantised fp32 recipe of rank 4; `lora` is laid over it."""
    values = {"r": 4, "alpha": 8, **lora}
    return parse_recipe({"base": base.name, "method": "lora", "precision": "fp32", "lora": values})


def train_a_little(model: Any, steps: int = 3) -> Any:
    """A few steps of AdamW on random tokens; returns the model in eval mode."""
    import torch

    torch.manual_seed(1)
    ids = torch.randint(3, 200, (2, 24))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def made_adapter(base: BaseModel, folder: Path, steps: int = 3, seed: int = 0, **lora: Any) -> Path:
    """A plain PEFT folder with an adapter trained for `steps` steps; 0 leaves its delta zero."""
    import torch

    recipe = recipe_for(base, **lora)
    torch.manual_seed(seed)
    model = new_adapter(load_model(base, precision="fp32"), recipe)
    save_adapter(train_a_little(model, steps), folder, recipe)
    return folder


def draft_for(base: BaseModel, task: GenerationTask, **values: Any) -> ManifestDraft:
    """A draft without golden logits, for tests of the store alone."""
    recipe = recipe_for(base)
    return ManifestDraft(
        task=task.name,
        task_version=task.version,
        base=Base(name=base.name, fingerprint=fingerprint(base.path)),
        recipe=recipe.model_dump(),
        trained=Precision(quantization="none", precision="fp32"),
        dataset=Dataset(fingerprint="d" * 64, card={"rows": 12}),
        prompt_hash=prompt_hash(task),
        metrics={"loss": 1.25},
        training={"seconds": 1.5, "parameters_trained": 1234},
        **values,
    )


def copy_of(base: BaseModel, folder: Path) -> BaseModel:
    """The same base in another folder, to be changed by a test."""
    shutil.copytree(base.path, folder)
    return resolve(str(folder))


def edit_weights(folder: Path, change: Any) -> None:
    """Rewrite an adapter's tensors with what `change` (a dictionary to a dictionary) makes of them."""
    from safetensors.torch import load_file, save_file

    file = folder / WEIGHTS
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file)
