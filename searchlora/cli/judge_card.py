"""`searchlora judge-card`."""

from __future__ import annotations

from pathlib import Path

import typer

from searchlora.cli.named import NAMED, grades, named, split


def judge_card(
    human: Path = typer.Option(..., "--human", help="Qrels of people."),
    judge: list[str] = typer.Option(..., "--judge", metavar=NAMED, help="Qrels of a judge, several times."),
    out: Path = typer.Option(..., "--out", help="Folder for judge_card.json, judge_card.md and judge_card.html."),
    scale: str = typer.Option("0,1,2,3", "--scale", help="The grades there are."),
    relevant: int = typer.Option(2, "--relevant", help="The lowest grade that counts as relevant."),
    rater: list[str] = typer.Option([], "--rater", metavar=NAMED, help="Qrels of one person each, several times."),
    variant: list[str] = typer.Option(
        [], "--variant", metavar="JUDGE=FILE", help="Labels of the same judge, asked in another way; several times."
    ),
    run: list[str] = typer.Option([], "--run", metavar=NAMED, help="A run whose place is compared, several times."),
    measure: str = typer.Option("nDCG@10", "--measure", help="What the runs are ordered by."),
    top: int = typer.Option(5, "--top", min=2, help="How many runs count as the best."),
    topics: Path | None = typer.Option(None, "--topics", help="To see whether a judge was trained on them."),
    allow_circular: bool = typer.Option(False, "--allow-circular", help="Hold a judge against its training topics."),
    correction: str = typer.Option("holm", "--correction", help="Of the differences between judges: holm or bh."),
    resamples: int = typer.Option(10_000, "--resamples", min=100),
    seed: int = typer.Option(0, "--seed", min=0),
) -> None:
    """How far LLM judges agree with people: kappa, error, bias, order of systems, all with intervals by query."""
    from searchlora.eval.files import check_writable
    from searchlora.eval.formatting import figure
    from searchlora.eval.judge.cards_from_files import judge_cards, write

    check_writable(*(out / f"judge_card.{kind}" for kind in ("json", "md", "html")))
    variants: dict[str, list[str]] = {}
    for name, file in map(split, variant):
        variants.setdefault(name, []).append(file)
    found = judge_cards(
        human,
        named(judge, "judges"),
        scale=grades(scale),
        relevant=relevant,
        raters=named(rater, "raters"),
        variants=variants,
        runs=named(run, "runs"),
        measure=measure,
        top=top,
        topics=topics,
        allow_circular=allow_circular,
        correction=correction,
        resamples=resamples,
        seed=seed,
    )
    for card in found.cards:
        kappa = card.figures["kappa"]
        for reason in card.circular:
            typer.echo(f"CIRCULAR: {card.judge}: {reason}")
        typer.echo(
            f"{card.judge}: kappa {figure(kappa.value, kappa.low, kappa.high)}, {kappa.n} pairs of"
            f" {kappa.queries} queries"
        )
        for note in card.notes:
            typer.echo(f"  {note}")
    if found.comparison is not None:
        differ = sum(each.p_corrected <= 0.05 for each in found.comparison.differences)
        typer.echo(f"{differ} of {len(found.comparison.differences)} pairs of judges differ ({correction}, 0.05).")
    typer.echo(f"Wrote {', '.join(map(str, write(found, out)))}")
