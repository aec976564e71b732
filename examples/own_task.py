"""A task of one's own, used through the same functions as the built-in ones: is a query a question?"""

from __future__ import annotations

import json
from pathlib import Path

import searchlora
from searchlora.task import load_task

FILES = {
    "__init__.py": """
from pathlib import Path

from searchlora.files import read_rows
from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import OneLabel
from searchlora.records import Format
from searchlora.task import GenerationTask


class Question(GenerationTask):
    name, reads, writes = "question", {"query": "query"}, "is_question"
    formats = {"native": Format("native", "records as JSON lines", lambda path, options: read_rows(path))}

    def target(self, record):
        return record["label"]

    def output(self, record):
        return OneLabel(("yes", "no"))

    def evaluate(self, inputs):
        pairs = zip(inputs.records, inputs.outputs)
        right = {record["id"]: float(getattr(output, "value", None) == record["label"]) for record, output in pairs}
        return Evaluation("accuracy", {"accuracy": right}, inputs.clusters, invalid=inputs.invalid)


task = Question(Path(__file__).parent)
""",
    "prompt.jinja": "{% block system %}Is it a question?{% endblock %}{% block user %}{{ query }}{% endblock %}",
    "recipe.yaml": "max_length: 256\nmax_new_tokens: 4\noptim: {max_steps: 20, batch_size: 8}\n",
    "record.schema.json": json.dumps({"type": "object", "required": ["id", "group", "query", "label"]}),
    "examples.jsonl": json.dumps({"id": "e", "group": "e", "query": "how big is it", "label": "yes"}) + "\n",
}
folder = Path("tasks", "question")
folder.mkdir(parents=True, exist_ok=True)
for name, text in FILES.items():
    (folder / name).write_text(text, encoding="utf-8")
rows = [(f"how big is tent {n}", "yes") if n % 2 else (f"tent number {n}", "no") for n in range(60)]
records = [{"id": f"r{n}", "group": f"g{n}", "query": query, "label": label} for n, (query, label) in enumerate(rows)]
Path("questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")

searchlora.data.build(load_task("question", "tasks"), "questions.jsonl", format="native", out="question-data")
stored = searchlora.train("question", "question-data", "is-question", store="store", tasks="tasks")
result = searchlora.evaluate(stored.reference, "question-data", store="store", tasks="tasks")
print(stored.reference, result.comparison.row(stored.reference, "accuracy").value)
