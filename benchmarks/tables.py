"""Writes the tables of results into the READMEs and the pages of `docs`, from the JSON files in `benchmarks/results`.

    python -m benchmarks.tables          write
    python -m benchmarks.tables --check  exit with 1 if a file differs from the results

The text between `<!-- results NAME -->` and `<!-- end -->` is generated.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from benchmarks.common import RESULTS, ROOT, speed_table
from benchmarks.summary import disagreements_of, figure_of, summary
from searchlora.eval.formatting import markdown_table, p_value

_BLOCK = re.compile(r"(<!-- results (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    changed = []
    for readme in [
        ROOT / "README.md",
        ROOT / "eval" / "README.md",
        *sorted(ROOT.glob("tasks/*/README.md")),
        *sorted(ROOT.glob("benchmarks/**/README.md")),
        *sorted(ROOT.glob("docs/*/*.md")),
    ]:
        text = readme.read_text(encoding="utf-8")
        written = _BLOCK.sub(lambda match: match[1] + table(match["name"]) + match[3], text)
        if written != text:
            changed.append(str(readme.relative_to(ROOT)))
            if "--check" not in sys.argv:
                readme.write_text(written, encoding="utf-8")
    if "--check" in sys.argv and changed:
        sys.exit(f"These files differ from benchmarks/results: {', '.join(changed)}. Run: python -m benchmarks.tables")
    print(f"Written: {', '.join(changed) or 'nothing to change'}")


def table(name: str) -> str:
    """The Markdown of a results file: a row per system, then the paired comparisons of the first measure.

    `caption` describes the figures (default: means); a `further table` follows them. A file with its own `table`, or
    with a `transcript` of commands, is shown by that.
    """
    if name == "summary":
        return summary()
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        sys.exit(f"There is no {file.relative_to(ROOT)}; run the benchmark first.")
    results = json.loads(file.read_text(encoding="utf-8"))
    made = f"{results['machine']}; {results['date'][:10]}; `{results['command']}`."
    if "table" in results:
        return f"{results['table']}\n\n{made}\n"
    measured_once = {row["n"] for row in results["rows"]} == {1}
    if measured_once or any("ratio" in pair for pair in results["comparisons"]):
        return f"{speed_table(results['rows'], results['comparisons'])}\n\n{made}\n"
    if "transcript" in results:
        return f"{_transcript(results['transcript'])}\n\n{made}\n"
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        rows.setdefault(row["system"], {})[row["measure"]] = row
    measures = list(dict.fromkeys(measure for cells in rows.values() for measure in cells))
    n = next(iter(rows.values()))[measures[0]]["n"]
    figures = [
        [system, *(figure_of(cells.get(measure), "value") for measure in measures)] for system, cells in rows.items()
    ]
    caption = results.get("caption", "mean and 95% interval")
    parts = [markdown_table(["", *measures], figures), f"n = {n}; {caption}. {made}"]
    compared = [
        [f"{pair['a']} − {pair['b']}", figure_of(pair, "difference", "+"), p_value(pair["p_corrected"])]
        for pair in results["comparisons"]
        if pair["measure"] == measures[0]
    ]
    if compared:
        parts.append(markdown_table([f"{measures[0]}, paired", "difference", "p, corrected"], compared))
        disagreements = disagreements_of(
            {f"{pair['a']} − {pair['b']}": pair for pair in results["comparisons"] if pair["measure"] == measures[0]}
        )
        parts += [disagreements] if disagreements else []
    if "further table" in results:
        parts.append(results["further table"])
    return "\n\n".join(parts) + "\n"


def _transcript(steps: list[dict[str, Any]]) -> str:
    """Each command with its output and exit code."""
    return "\n\n".join(
        f"{step['description']}\n\n```\n$ {' '.join(step['command'])}\n{step['output']}\n[exit {step['exit']}]\n```"
        for step in steps
    )


if __name__ == "__main__":
    main()
