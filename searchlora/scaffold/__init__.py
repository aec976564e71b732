"""Templates of task plugins: `new_task` writes a complete plugin folder for one kind of output.

A kind is a folder of this package with `task.py.txt`, `record.schema.json`, `examples.jsonl` and, for a prompted task,
`prompt.jinja`; the folder `common` has the files that all kinds share. In `.txt`, `.md` and `.yaml` files, `$name` and
other fields are substituted.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from searchlora.errors import UsageError
from searchlora.task import task_names

_FOLDER = Path(__file__).parent
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")


@dataclass(frozen=True)
class Kind:
    """A kind of output.

    Attributes:
        summary: What a task of this kind does.
        fields: The record fields, for the task card.
        measures: The measures, for the task card; the headline first.
        max_new_tokens: For the recipe; 0 for an encoder.
    """

    summary: str
    fields: str
    measures: str
    max_new_tokens: int


#: Name of a kind, as given to `--kind` -> its description.
KINDS: dict[str, Kind] = {
    "text": Kind(
        "write a short text for a query",
        "`query`, `answer`",
        "* exact match (headline): 1 where the text is the answer.\n* ROUGE-L: F-measure against the answer.",
        64,
    ),
    "label": Kind(
        "classify a query by one label",
        "`query`, `label`",
        "* accuracy (headline): 1 where the label is right.\n* macro-F1: unweighted mean of the F1 of each label.",
        16,
    ),
    "labels": Kind(
        "classify a query by several labels",
        "`query`, `labels`",
        "* exact match (headline): 1 where all labels are right.\n* micro-F1: over all labels of all records.",
        48,
    ),
    "grade": Kind(
        "grade a passage for a query",
        "`query`, `passage`, `grade` (0 to 2)",
        "* kappa (headline): Cohen's kappa over all grades.\n* agreement: 1 where the grade is right.",
        4,
    ),
    "json": Kind(
        "extract a JSON object from a query",
        "`query`, `object`",
        "* exact match (headline): 1 where every field is right.\n* field: NAME: 1 where that field is right.",
        96,
    ),
    "cited": Kind(
        "answer a question from passages with citations, or abstain",
        "`query`, `passages`, and `answer` where there is one",
        "* right to answer (headline): 1 where an answerable question is answered, or an unanswerable one is not.\n"
        "* right citations: 1 where exactly the gold passages are cited.\n* abstention F1: of unanswerable questions.",
        128,
    ),
    "encoder": Kind(
        "train an encoder for dense retrieval",
        "`query`, `positive`",
        "* nDCG@10 (headline), MRR@10, Recall@10, Recall@100: of retrieving the positives of all records.",
        0,
    ),
}


def new_task(name: str, kind: str, out: str | Path) -> Path:
    """Write the plugin folder `out/name` with schema, prompt, recipe, examples, card, code and a passing test.

    Args:
        name: The name of the task: lower-case letters, digits and underscores.
        kind: A key of `KINDS`.
        out: A directory of plugin folders, created if necessary; pass it as `--tasks`.

    Returns:
        The plugin folder.

    Raises:
        UsageError: for an invalid or existing name, an unknown kind, or a folder that exists or cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind '{kind}'", where="--kind", fix=f"Known kinds: {', '.join(KINDS)}.")
    if not _NAME.match(name) or keyword.iskeyword(name):
        raise UsageError(
            f"'{name}' is not a task name",
            fix="Use at most 40 lower-case letters, digits and underscores, starting with a letter.",
        )
    if name in task_names():
        raise UsageError(f"there is a task '{name}' already", fix="Choose another name.")
    folder = Path(out) / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError("exists already", where=str(folder), fix="Choose another name or folder.") from None
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    for target, content in _rendered(name, kind).items():
        (folder / target).write_text(content, encoding="utf-8")
    return folder


def _rendered(name: str, kind: str) -> dict[str, str]:
    """File name -> content."""
    description = KINDS[kind]
    values = {
        "name": name,
        "slug": name.replace("_", "-"),
        "class_name": "".join(part.capitalize() for part in name.split("_")) + "Task",
        "summary": description.summary,
        "fields": description.fields,
        "measures": description.measures,
        "max_new_tokens": str(description.max_new_tokens),
    }
    encoder = kind == "encoder"
    sources = {
        "__init__.py": "common/__init__.py.txt",
        "README.md": "common/README.md",
        "recipe.yaml": "encoder/recipe.yaml" if encoder else "common/recipe.yaml",
        f"test_{name}.py": "common/test_encoder.py.txt" if encoder else "common/test_prompted.py.txt",
        "task.py": f"{kind}/task.py.txt",
        "record.schema.json": f"{kind}/record.schema.json",
        "examples.jsonl": f"{kind}/examples.jsonl",
        **({} if encoder else {"prompt.jinja": f"{kind}/prompt.jinja"}),
    }
    texts = {target: (_FOLDER / source).read_text(encoding="utf-8") for target, source in sources.items()}
    substituted = (".py", ".md", ".yaml")
    return {
        target: Template(text).substitute(values) if target.endswith(substituted) else text
        for target, text in texts.items()
    }
