"""`searchlora prediction-powered`."""

from __future__ import annotations

from pathlib import Path

import typer

from searchlora.cli.named import NAMED, grades, named


def prediction_powered(
    human: Path = typer.Option(..., "--human", help="Qrels of people, of few topics (10 or more)."),
    judged: Path = typer.Option(..., "--judged", help="Qrels of a judge, of those topics and of many more."),
    run: list[str] = typer.Option(..., "--run", metavar=NAMED, help="A run, several times; the first is the baseline."),
    measure: str = typer.Option("nDCG@10", "--measure"),
    scale: str = typer.Option("0,1,2,3", "--scale", help="The grades there are; another label of the judge is none."),
    topics: Path | None = typer.Option(None, "--topics", help="To see whether the judge was trained on them."),
    allow_circular: bool = typer.Option(False, "--allow-circular", help="A judge that had a part in a run."),
    out: Path | None = typer.Option(None, "--out", help="A JSON file to write."),
    seed: int = typer.Option(0, "--seed", min=0),
) -> None:
    """Measures of runs from few topics judged by people and many judged by an LLM, with an interval that holds."""
    from searchlora.eval.files import check_writable
    from searchlora.eval.formats import read_topics
    from searchlora.eval.formatting import write_json
    from searchlora.eval.judge.prediction_powered_runs import powered_runs

    check_writable(out)
    found = powered_runs(
        human,
        judged,
        {name: Path(file) for name, file in named(run, "runs").items()},
        measure=measure,
        scale=grades(scale),
        queries={topic: str(fields["query"]) for topic, fields in read_topics(topics).items()} if topics else None,
        allow_circular=allow_circular,
        seed=seed,
    )
    for name, reason in found.circular.items():
        typer.echo(f"CIRCULAR: {name}: {reason}")
    for note in found.notes:
        typer.echo(f"Note: {note}")
    typer.echo(found.to_markdown(), nl=False)
    if out is not None:
        write_json(out, found.to_json())
