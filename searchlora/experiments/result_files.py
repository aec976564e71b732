"""Result files (JSON, Markdown, per-query JSONL) and their provenance: command, date, machine, versions."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import write_json
from searchlora.eval.tables import Header, to_json, to_markdown
from searchlora.files import atomic_text
from searchlora.machine import machine, versions


def header(name: str) -> Header:
    """The header of results computed now, on this machine, by this command line."""
    return Header(
        benchmark=name,
        command=shlex.join(["searchlora", *sys.argv[1:]]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions(),
    )


def write_figures(
    folder: Path, stem: str, comparison: Comparison, about: Header, more: Mapping[str, Any], *, head: str = ""
) -> None:
    """Write `stem.json`, `stem.md` and `per_query.jsonl` into a folder, each atomically."""
    write_json(folder / f"{stem}.json", {**to_json(comparison, about), **more})
    with atomic_text(folder / f"{stem}.md") as out:
        out.write(f"{head}\n\n{to_markdown(comparison)}" if head else to_markdown(comparison))
    with atomic_text(folder / "per_query.jsonl") as out:
        for measure, systems in comparison.values.items():
            for system, rows in systems.items():
                for row, value in rows.items():
                    line = {"id": row, "system": system, "measure": measure, "value": value}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")


def provenance(about: Header) -> dict[str, str]:
    """The header as labelled lines, for reports."""
    return {
        "Command": about.command,
        "Date": about.date,
        "Machine": about.machine,
        "Versions": ", ".join(f"{name} {version}" for name, version in about.versions.items()),
    }
