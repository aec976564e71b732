"""Terminal output: progress bars, comparison tables, policy rules and JSON."""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from searchlora.files.json_text import finite
from searchlora.progress import Progress, Steps

if TYPE_CHECKING:
    from rich.console import Console

    from searchlora.eval.comparison import Comparison, PairedComparison
    from searchlora.eval.policy import RuleResult
    from searchlora.pipelines.explain import Explanation
    from searchlora.pipelines.stages.explanation import Retrieved
    from searchlora.records import Document
    from searchlora.task import Task

#: Measures shown in the terminal, where the comparison has them; the report shows all.
_MAIN_MEASURES = ("nDCG@10", "Recall@100", "MRR@10")
_SHOWN_MEASURES = 3


def usable_tasks(folder: Path | None) -> list[Task]:
    """All tasks by name; a plugin that cannot be used is left out with a warning, for commands that need none of them
    in particular."""
    from searchlora.task import load_tasks

    return [task for _, task in sorted(load_tasks(folder, skipped=warn_of).items())]


def warn_of(problem: object) -> None:
    """Print a warning on stderr."""
    from searchlora.cli import printable

    typer.echo(f"warning: {printable(str(problem))}", err=True)


@contextmanager
def progress_bars() -> Iterator[Steps]:
    """Progress bars on stderr while the block runs; plain lines where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield _plain_progress
        return
    from rich import progress as rich
    from rich.console import Console

    with rich.Progress(
        rich.TextColumn("{task.description:<28}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    ) as rich_progress:

        def bar(step: str) -> Progress:
            task = rich_progress.add_task(step, total=None, note="")

            def progress(done: int, total: int | None, note: str = "") -> None:
                rich_progress.update(task, completed=done, total=total, note=note)

            return progress

        yield bar


def print_comparison(comparison: Comparison) -> None:
    """Print the main measures of each system with 95% intervals, and p against the candidate, else the baseline."""
    from rich.markup import escape
    from rich.table import Table

    from searchlora.eval.evaluation import ZERO_RESULTS
    from searchlora.eval.formatting import interval, number, p_value

    # MRR(rel=2)@10 counts as MRR@10.
    by_bare_name = {re.sub(r"\(.*?\)", "", name): name for name in comparison.measures}
    main = [by_bare_name[name] for name in _MAIN_MEASURES if name in by_bare_name]
    others = [name for name in comparison.measures if name != ZERO_RESULTS]
    measures = list(dict.fromkeys([comparison.measures[0], *main, *others]))[:_SHOWN_MEASURES]
    leading = comparison.candidate or comparison.baseline or comparison.systems[0]
    pairs = {b if a == leading else a: (a, b) for a, b in comparison.main_pairs}
    tested = next((pair.measure for pair in comparison.comparisons), None)
    table = Table(title=escape(f"{comparison.label(leading)} compared"), title_justify="left")
    table.add_column("system")
    for measure in measures:
        table.add_column(f"{measure}\n95% interval", justify="right")
    if tested is not None:
        table.add_column(escape(f"p against\n{comparison.label(leading)}\n({tested})"), justify="right")
    for system in comparison.systems:
        cells = [escape(comparison.label(system))]
        for measure in measures:
            row = comparison.find(system, measure)
            cells.append("–" if row is None else f"{number(row.value)}\n{interval(row.low, row.high)}")
        if tested is not None and system in pairs:
            pair = next((p for p in comparison.comparisons if (p.a, p.b, p.measure) == (*pairs[system], tested)), None)
            cells.append("–" if pair is None else p_value(pair.p_corrected))
        table.add_row(*cells, style="bold" if system == comparison.candidate else None)
    console = table_console(120)
    console.print(table)
    n = comparison.row(leading, measures[0]).n
    console.print(
        f"n = {n}. p: paired randomisation test, two-sided, corrected ({comparison.correction}) over all comparisons."
    )
    for system, reason in comparison.circular.items():
        console.print(escape(f"{comparison.label(system)}: {reason}"))


def _loss(pair: PairedComparison) -> str:
    from searchlora.eval.formatting import figure, p_value

    ends = figure(pair.difference, pair.low, pair.high, "+")
    return f"{pair.measure} {ends} against {pair.b}, n = {pair.n}, p {p_value(pair.p_corrected)}."


def print_rules(results: Sequence[RuleResult]) -> None:
    """Print each rule of a policy, whether it held, and by how much a broken one was missed."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "rule", "result", title="Promotion policy", title_justify="left")
    for result in results:
        table.add_row("met" if result.passed else "BROKEN", escape(result.rule), escape(result.summary))
    table_console(120).print(table)


def print_stages(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the stages of one search, with the time and the tokens of each and what it has to tell."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "stage", "ms", "prompt tokens", "output tokens", "", box=None, style="dim")
    for number, row in enumerate(rows, 1):
        tokens = row.get("tokens", {})
        counts = (str(tokens.get(key, "")) for key in ("prompt", "output"))
        table.add_row(
            str(number), escape(row["label"]), f"{row['milliseconds']:.1f}", *counts, escape("; ".join(row["flags"]))
        )
    table_console(120).print(table)


def print_result(result: Mapping[str, Any], documents: Mapping[str, Document], top: int) -> None:
    """Print the result of one search: what its stages wrote, and the first hits with titles and grades."""
    from rich.markup import escape
    from rich.table import Table

    console = table_console(120)
    if result["query"] != result["input"]["query"]:
        console.print(escape(f"{result['input']['query']} -> {result['query']}"))
    shown = ("id", "query", "stages", "input", "hits", "passages", "grades")
    for name, value in result.items():
        if name not in shown:
            console.print(
                escape(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
            )
    if "hits" not in result:
        return
    grades = {grade["id"]: grade["grade"] for grade in result.get("grades", [])}
    table = Table("", "document", "score", *(["grade"] if grades else []), "text", box=None)
    for hit in result["hits"][:top]:
        document = documents.get(hit["document"])
        text = (document.title or document.text) if document is not None else hit.get("title", "")
        text = " ".join(text.split())[:80]
        grade = [str(grades.get(hit["document"], ""))] if grades else []
        table.add_row(str(hit["rank"]), escape(hit["document"]), f"{hit['score']:.4g}", *grade, escape(text))
    console.print(table)
    console.print(f"{len(result['hits'])} hits")


def print_explanation(explanation: Explanation) -> None:
    """Print the rank and the score of a document after each stage, what decided about them, and where it fell out."""
    from rich.markup import escape
    from rich.table import Table

    console = table_console(120)
    table = Table("", "stage", "rank", "score", "what happened", box=None)
    for number, stage in enumerate(explanation.stages, 1):
        lines = [
            *stage.notes,
            *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in stage.wrote.items()),
        ]
        lines += _retrieved_lines(stage.retrieved) if stage.retrieved is not None else []
        rank = "" if stage.hits is None else "missing" if stage.rank is None else f"{stage.rank} of {stage.hits}"
        score = "" if stage.score is None else f"{stage.score:.4g}"
        table.add_row(str(number), escape(stage.stage), rank, score, escape("\n".join(lines)))
    console.print(table)
    console.print(escape(f"{explanation.verdict}."), style="bold")


def _retrieved_lines(retrieved: Retrieved, indent: str = "") -> list[str]:
    """One line for each retriever, with the words of the query by what they add to the score."""
    if retrieved.failed:
        place = f"failed: {retrieved.failed}"
    elif retrieved.rank is None:
        place = f"not among the first {retrieved.searched}"
    else:
        place = f"rank {retrieved.rank}, score {retrieved.score:.4g}"
    terms = sorted(retrieved.terms.items(), key=lambda item: -item[1])
    words = ", ".join(f"{word} {share:.3g}" if share else f"{word} absent" for word, share in terms)
    line = f"{indent}{retrieved.retriever}: {place}{f' = {words}' if words else ''}"
    return [line, *(inner for part in retrieved.parts for inner in _retrieved_lines(part, f"{indent}  "))]


def print_json(document: object) -> None:
    """Print one JSON document on stdout; a figure that is undefined is null."""
    typer.echo(json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False))


def table_console(width: int) -> Console:
    """A console for tables: as wide as the terminal, or `width` columns where stdout is not a terminal."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else width)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print Python warnings of the block on stderr, one line each, without the source line that raised them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)


#: Seconds of work from which a remaining time is estimated.
_FIRST_ESTIMATE = 15.0


def _plain_progress(step: str) -> Progress:
    """Without a terminal: a line at about every tenth of the total, with the remaining time.

    The time is estimated from what was done since the first report: before it, models are loaded, and a resumed step
    begins with what an earlier process did. One line more gives the first estimate that is good enough.
    """
    started = time.monotonic()
    printed, estimated = -1, False
    first: tuple[float, int] | None = None

    def progress(done: int, total: int | None, note: str = "") -> None:
        nonlocal printed, estimated, first
        now = time.monotonic()
        since, begun = first = first or (now, done)
        tenth = 10 * done // total if total else done // 100_000
        is_first_estimate = not estimated and done > begun and now - since >= _FIRST_ESTIMATE
        if tenth == printed and not is_first_estimate:
            return
        printed = tenth
        left = ""
        if total and done > begun:
            estimated = True
            left = f", {(now - since) * (total - done) / (done - begun):.0f} s left"
        seconds = now - started
        print(f"{step}: {done}{f'/{total}' if total else ''} after {seconds:.0f} s{left}  {note}", file=sys.stderr)

    return progress
