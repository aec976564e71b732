"""Figures as files: `NAME.json`, `NAME.md` and `per_query.jsonl`, each whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import write_json
from searchlora.eval.tables import Header, to_json, to_markdown
from searchlora.experiments.machine import machine, versions
from searchlora.files import atomic_text


def header(name: str) -> Header:
    """Made now, on this machine, by this command line."""
    return Header(
        benchmark=name,
        command=" ".join(["searchlora", *sys.argv[1:]]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions(),
    )


def write_figures(folder: Path, stem: str, comparison: Comparison, made: Header, more: Mapping[str, Any]) -> None:
    """Write a comparison into a folder, `more` beside its figures in the JSON."""
    write_json(folder / f"{stem}.json", {**to_json(comparison, made), **more})
    with atomic_text(folder / f"{stem}.md") as out:
        out.write(to_markdown(comparison))
    with atomic_text(folder / "per_query.jsonl") as out:
        for measure, systems in comparison.values.items():
            for system, rows in systems.items():
                for row, value in rows.items():
                    line = {"id": row, "system": system, "measure": measure, "value": value}
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")


def file_name(system: str) -> str:
    """A system's name as the name of its file."""
    return system.replace(" ", "-").replace("/", "-")


def provenance(made: Header) -> dict[str, str]:
    """How the figures were made, as a report shows it."""
    return {
        "Command": made.command,
        "Date": made.date,
        "Machine": made.machine,
        "Versions": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
    }
