"""`searchlora judge`."""

from __future__ import annotations

from pathlib import Path

import typer


def judge(
    adapter: str | None = typer.Argument(None, help="The judge: name, name@3 or name@alias; or give --base."),
    base: str | None = typer.Option(None, "--base", help="A bare base model as the judge, zero-shot."),
    task: str | None = typer.Option(None, "--task", help="The task whose answer is a grade; an adapter knows its own."),
    settings: Path | None = typer.Option(
        None, "--settings", help="For --base: a dataset folder by whose grades and guideline it is asked."
    ),
    topics: Path = typer.Option(..., "--topics", help="What is asked: topics with their query."),
    corpus: Path = typer.Option(..., "--corpus", help="JSON lines with id, text and title."),
    pool: list[Path] = typer.Option([], "--pool", help="A run whose first documents are judged, several times."),
    depth: int = typer.Option(10, "--depth", min=1, help="How many documents of each run are pooled."),
    pairs: Path | None = typer.Option(
        None, "--pairs", help="Not --pool but these: lines 'topic document', qrels, or JSONL."
    ),
    out: Path = typer.Option(..., "--out", help="The qrels to write, with a card beside them."),
    generate: bool = typer.Option(False, "--generate", help="Let the judge write; invalid answers give no grade."),
    allow_circular: bool = typer.Option(
        False, "--allow-circular", help="Judge runs that the judge had a part in, or topics that it was trained on."
    ),
    store: Path | None = typer.Option(None, "--store", help="The adapter store; SEARCHLORA_STORE or ./store."),
    tasks: Path | None = typer.Option(None, "--tasks", help="A folder of task plugins of your own."),
) -> None:
    """Grade query-passage pairs by an LLM and write qrels that are marked as such. A killed run goes on."""
    from searchlora.adapters.store import Store
    from searchlora.cli.bars import bars
    from searchlora.experiments.judge.command import judge as verb

    with bars() as steps:
        judged = verb(
            topics,
            corpus,
            out,
            adapter=adapter,
            base=base,
            task=task,
            runs=pool,
            depth=depth,
            pairs=pairs,
            generate=generate,
            allow_circular=allow_circular,
            settings=settings,
            store=Store(store),
            tasks=tasks,
            steps=steps,
        )
    for system, reason in judged.circular.items():
        typer.echo(f"CIRCULAR: {system}: {reason}")
    for doubt in judged.doubts:
        typer.echo(f"Note: {doubt}")
    grades = ", ".join(f"{count} of grade {grade}" for grade, count in judged.grades.items())
    invalid = f"; {judged.invalid} answers were no grade ({out}.invalid.jsonl)" if judged.invalid else ""
    typer.echo(f"Wrote {sum(judged.grades.values())} judgments of {judged.card.judge} to {out}: {grades}{invalid}")
