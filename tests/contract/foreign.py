"""A third-party task plugin: a small distribution, written into a folder as an installer would do."""

from __future__ import annotations

import json
from pathlib import Path

_TASK = '''
from pathlib import Path

from searchlora.files import read_rows
from searchlora.eval.evaluation import Evaluation
from searchlora.outputs import InvalidOutput, Label, OneLabel
from searchlora.records import Format
from searchlora.task import GenerationTask


class Written:
    """A form of one's own, without choices and without grammar: what the model writes is all there is."""

    choices = grammar = None

    def __init__(self, colours):
        self.colours = colours

    def parse(self, text):
        return Label(text) if text in self.colours else InvalidOutput(text, "no colour")


class Colour(GenerationTask):
    name = "colour"
    version = 3
    reads = {"query": "query"}
    writes = "colour"
    default_settings = {"colours": ["red", "green"]}

    def __init__(self):
        super().__init__(Path(__file__).parent)

    @property
    def formats(self):
        return {"native": Format("native", "records as JSON lines", lambda path, options: read_rows(path))}

    def target(self, record):
        return record["colour"]

    def fields(self, record):
        return {**record, **self.settings}

    def output(self, record):
        return OneLabel(tuple(self.settings["colours"]))

    def settings_of(self, options, records):
        return {"colours": sorted({record["colour"] for record in records})}

    def tune(self, records, outputs):
        return {"rows": len(records), "before": self.tuned}

    def apply_tuning(self, output, record):
        return Label(output.value, (0.5, 0.5)) if self.tuned else output

    def evaluate(self, inputs):
        predicted = [getattr(output, "value", None) for output in inputs.outputs]
        right = {r["id"]: float(p == r["colour"]) for r, p in zip(inputs.records, predicted, strict=True)}
        slices = inputs.slices("colour")
        return Evaluation("accuracy", {"accuracy": right}, inputs.clusters, slices=slices, invalid=inputs.invalid)

    def baselines(self, records, dataset):
        return {"always red": [Label("red")] * len(records)}

    def learned_baselines(self, records):
        return frozenset()


task = Colour()
'''

_PROMPT = """\
{% block system %}
{{ colours | join(" or ") }}?
{% endblock %}
{% block user %}
Colour? {{ query }}
{% endblock %}
"""

_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "group": {"type": "string"},
        "query": {"type": "string", "minLength": 1},
        "colour": {"enum": ["red", "green"]},
    },
    "required": ["id", "group", "query", "colour"],
    "additionalProperties": False,
}


def build_distribution(folder: Path, *, closed: bool = True) -> Path:
    """Write package and metadata of the distribution `colour-task`; `folder` is then added to the Python path.

    Args:
        closed: The task's output has choices, so even an untrained base always names a colour; else it has none.
    """
    package = folder / "colour"
    package.mkdir(parents=True)
    source = _TASK if closed else _TASK.replace("return OneLabel(", "return Written(")
    (package / "__init__.py").write_text(source, encoding="utf-8")
    (package / "record.schema.json").write_text(json.dumps(_SCHEMA), encoding="utf-8")
    (package / "prompt.jinja").write_text(_PROMPT, encoding="utf-8")
    (package / "recipe.yaml").write_text("max_length: 256\nmax_new_tokens: 8\n", encoding="utf-8")
    example = {"id": "e1", "group": "e1", "query": "a grass tent", "colour": "green"}
    (package / "examples.jsonl").write_text(json.dumps(example) + "\n", encoding="utf-8")
    metadata = folder / "colour_task-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: colour-task\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[searchlora.tasks]\ncolour = colour:task\n", encoding="utf-8")
    return folder


def write_records(path: Path, groups: int = 40) -> Path:
    """Records that a tiny model can learn: one letter decides."""
    words = {"red": ("r", "fire", "rose"), "green": ("g", "grass", "leaf")}
    lines = []
    for number in range(groups):
        colour = ("red", "green")[number % 2]
        word = words[colour][number // 2 % 3]
        record = {"id": f"r{number}", "group": f"g{number}", "query": f"{word} tent {number}", "colour": colour}
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
