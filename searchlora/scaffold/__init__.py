"""Templates of task plugins: `new_task` writes a complete plugin folder for one kind of output.

A kind is a folder of this package with `task.py.txt`, `record.schema.json`, `examples.jsonl` and, for a prompted task,
`prompt.jinja`; the folder `common` has the files that all kinds share. In `.txt`, `.md` and `.yaml` files, `$name` and
other fields are substituted.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from searchlora.errors import UsageError
from searchlora.files.yaml_text import parse_yaml
from searchlora.task import task_names

_FOLDER = Path(__file__).parent
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")


#: Name of a kind, as given to `--kind` -> its summary, record fields, measures and maximum number of new tokens.
KINDS: Mapping[str, Mapping[str, Any]] = parse_yaml((_FOLDER / "kinds.yaml").read_text(encoding="utf-8"))


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
    values = {
        **KINDS[kind],
        "name": name,
        "slug": name.replace("_", "-"),
        "class_name": "".join(part.capitalize() for part in name.split("_")) + "Task",
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
