"""A small task for tests of training and inference: the answer is the first word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import FreeText
from searchlora.task import GenerationTask


class FirstWord(GenerationTask):
    name = "first-word"
    reads: ClassVar = {"text": "query"}
    writes = "word"
    formats: ClassVar = {}

    def target(self, record):
        return record["text"].split()[0]

    def output(self, record):
        del record
        return FreeText()

    def evaluate(self, inputs):
        right = {r["id"]: float(o == self.target(r)) for r, o in zip(inputs.records, inputs.outputs, strict=True)}
        return Evaluation("accuracy", {"accuracy": right}, inputs.clusters)


def first_word(folder: Path) -> FirstWord:
    """The task, its files written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.jinja").write_text("{% block user %}\n{{ text }}\n{% endblock %}\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text("{}\n", encoding="utf-8")
    (folder / "examples.jsonl").write_text(
        json.dumps({"id": "e", "group": "e", "text": "tent boot"}) + "\n", encoding="utf-8"
    )
    (folder / "record.schema.json").write_text('{"type": "object"}', encoding="utf-8")
    return FirstWord(folder)


def word_records(count: int) -> list[dict[str, str]]:
    words = ("tent", "boot", "stove", "rope", "lamp")
    return [
        {"id": f"r{n}", "group": f"g{n}", "text": f"{words[n % 5]} {words[n // 5 % 5]} {'x' * (n % 7)}".strip()}
        for n in range(count)
    ]
