"""A third-party task whose output is a grade, and a small collection to judge."""

from __future__ import annotations

from pathlib import Path

from tests.factories import write_jsonl

_TASK = """
from pathlib import Path

from searchlora.files import read_rows
from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import Graded
from searchlora.records import Format
from searchlora.task import GenerationTask


class Fit(GenerationTask):
    name = "fit"
    reads = {"need": "query", "text": "passage", "title": "title"}
    writes = "fit"

    def __init__(self):
        super().__init__(Path(__file__).parent)

    @property
    def formats(self):
        return {"native": Format("native", "records as JSON lines", lambda path, options: read_rows(path))}

    def target(self, record):
        return record["answer"]

    def output(self, record):
        return Graded({"bad": 0, "poor": 0, "fair": 1, "good": 2})

    def evaluate(self, inputs):
        scale = self.output(None).scale
        rows = zip(inputs.records, inputs.outputs, strict=True)
        right = {r["id"]: float(getattr(o, "value", None) == scale[r["answer"]]) for r, o in rows}
        return Evaluation("accuracy", {"accuracy": right}, inputs.clusters)


task = Fit()
"""


_PROMPT = """
{% block system %}bad, poor, fair or good?{% endblock %}
{% block user %}{{ need }}: {{ title }} {{ text }}{% endblock %}
"""


def build_task(folder: Path) -> Path:
    """A folder of tasks with the one task `fit` in it; its scale has two labels of one grade."""
    package = folder / "fit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_TASK, encoding="utf-8")
    (package / "record.schema.json").write_text('{"type": "object"}', encoding="utf-8")
    (package / "prompt.jinja").write_text(_PROMPT, encoding="utf-8")
    (package / "recipe.yaml").write_text("max_length: 256\nmax_new_tokens: 4\nprecision: fp32\n", encoding="utf-8")
    example = {"id": "e1", "group": "e1", "need": "a tent", "title": "Tent", "text": "It sleeps 1.", "answer": "good"}
    write_jsonl(package / "examples.jsonl", [example])
    return folder


def write_records(path: Path, needs: int = 30) -> Path:
    """Records to train on; need and text say which answer is right."""
    answers = ("bad", "poor", "fair", "good")
    rows = []
    for n in range(needs):
        texts = {"need": f"a stove of kind {n}", "title": f"Stove {n}", "text": f"It burns {answers[n % 4]}."}
        rows.append({"id": f"r{n}", "group": f"g{n}", **texts, "answer": answers[n % 4]})
    return write_jsonl(path, rows)


def write_collection(folder: Path, topics: int = 3, documents: int = 30) -> dict[str, Path]:
    """Files `topics`, `corpus`, and two runs `a` and `b` whose tops differ."""
    files = {name: folder / name for name in ("topics.jsonl", "corpus.jsonl", "a.trec", "b.trec")}
    asked = [{"id": f"t{n}", "query": f"a tent of kind {n}"} for n in range(topics)]
    found = [{"id": f"d{n:02}", "title": f"Tent {n}", "text": f"It sleeps {n}."} for n in range(documents)]
    write_jsonl(files["topics.jsonl"], asked)
    write_jsonl(files["corpus.jsonl"], found)
    for name, sign in (("a", 1), ("b", -1)):
        lines = [f"t{t} Q0 d{d:02} 0 {sign * d} {name}\n" for t in range(topics) for d in range(documents)]
        files[f"{name}.trec"].write_text("".join(lines), encoding="utf-8")
    return files
