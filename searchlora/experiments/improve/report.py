"""Report of an improved adapter: figures per round, and the longest and oddest winners."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from searchlora.eval.formatting import markdown_table
from searchlora.experiments.improve.rounds import Round
from searchlora.experiments.improve.selection import choose, oddness
from searchlora.files import atomic_text
from searchlora.recipe import Recipe
from searchlora.records import Record
from searchlora.task import REFERENCE, UNCHANGED, GenerationTask

JSON_FILE, REPORT_FILE = "improve.json", "improve.md"

#: Winners that the report shows of each kind.
SHOWN = 20


def write_report(
    folder: Path,
    task: GenerationTask,
    recipe: Recipe,
    records: Iterable[Record],
    rounds: Sequence[Round],
    start: Mapping[str, Any],
    about: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write `improve.json` and `improve.md` into a folder; returns their paths."""
    figures = {**about, "start": dict(start), "rounds": [dict(done.figures) for done in rounds]}
    with atomic_text(folder / JSON_FILE) as out:
        out.write(json.dumps(figures, indent=1) + "\n")
    with atomic_text(folder / REPORT_FILE) as out:
        out.write("\n".join(_lines(task, recipe, records, rounds, start, about)) + "\n")
    return tuple(folder / name for name in (JSON_FILE, REPORT_FILE))


def _lines(
    task: GenerationTask,
    recipe: Recipe,
    records: Iterable[Record],
    rounds: Sequence[Round],
    start: Mapping[str, Any],
    about: Mapping[str, Any],
) -> list[str]:
    header = [
        *("round", "validation reward", "invalid", "unchanged", "characters"),
        *("winners' reward", "winners unchanged", "samples' reward", "valid samples", "rows", "skipped", "seconds"),
    ]
    rows = [["start", _text(start.get("reward")), *[_text(start.get(name)) for name in _GREEDY], *[""] * 7]]
    for done in rounds:
        winners, candidates = done.figures["winners"], done.figures["candidates"]
        rows.append(
            [
                str(done.number),
                _text(done.reward),
                *(_text(done.figures["validation"][name]) for name in _GREEDY),
                _text(winners["reward"]),
                _text(winners["unchanged"]),
                _text(candidates["rewards"]["samples"]),
                _text(candidates["valid"]),
                str(winners["rows"]),
                str(winners["skipped"]),
                f"{sum(done.figures['seconds'].values()):.0f}",
            ]
        )
    chosen = rounds[int(about["chosen round"]) - 1]
    kinds = ", ".join(f"{kind} {count}" for kind, count in chosen.figures["winners"]["kinds"].items())
    settled, references = (chosen.figures["winners"].get(name, 0) for name in ("settled", "references"))
    fixed = ", ".join(f"{name} {_text(value)}" for name, value in _fixed(start))
    return [
        f"# Improved on {about['reward']}",
        "",
        f"From {about['parent'] or 'the bare base'}; retrieval: {about['retriever'] or 'none'}. Stored: round "
        f"{about['chosen round']}. Validation reward of fixed candidates: {fixed or 'none'}.",
        "",
        markdown_table(header, rows),
        "",
        f"Winners of round {chosen.number} by kind: {kinds}.",
        *([f"Trained on without candidates, since they need no change: {settled} rows."] if settled else []),
        *([f"Trained on their reference, since they cannot be rewarded: {references} rows."] if references else []),
        "",
        *_winners(task, recipe, records, chosen),
    ]


_GREEDY = ("invalid", "unchanged", "characters")


def _winners(task: GenerationTask, recipe: Recipe, records: Iterable[Record], chosen: Round) -> list[str]:
    """The longest winners, and those with most words that are repeated or not in the input: look for reward hacking."""
    by_id = {str(record["id"]): record for record in records}
    winners = []
    rows = chosen.rows()
    for row, winner in zip(rows, choose(rows, recipe.improve), strict=True):
        if winner is None or winner.name in (UNCHANGED, REFERENCE) or row.id not in by_id:
            continue
        known = [json.dumps(by_id[row.id], ensure_ascii=False)]
        unchanged = row.named(UNCHANGED)
        winners.append((row.id, task.query(by_id[row.id]) or "", unchanged, winner, oddness(winner.text, known)))
    parts = (
        ("longest", sorted(winners, key=lambda row: -len(row[3].text))[:SHOWN]),
        ("oddest", sorted(winners, key=lambda row: (-row[4], -len(row[3].text)))[:SHOWN]),
    )
    lines = []
    for name, shown in parts:
        table = [
            [_cell(query), _cell(winner.text), winner.kind, _text(unchanged and unchanged.reward), _text(winner.reward)]
            for _, query, unchanged, winner, _ in shown
        ]
        header = ["input", "winner", "kind", "reward unchanged", "reward"]
        lines += [f"## The {len(table)} {name} winners", "", markdown_table(header, table), ""]
    return lines


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) and abs(value) < 10 else f"{value:.0f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fixed(start: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The candidates that need no model, and their reward on validation rows."""
    return [(name, value) for name in (UNCHANGED, REFERENCE) if (value := start["fixed"].get(name)) is not None]
