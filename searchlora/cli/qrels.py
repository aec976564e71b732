"""`searchlora mix-qrels`."""

from __future__ import annotations

from pathlib import Path

import typer


def mix_qrels(
    human: Path = typer.Argument(help="Qrels of people; their grades stand."),
    other: Path = typer.Argument(help="Qrels of an LLM or of clicks, for what people did not judge."),
    out: Path = typer.Option(..., "--out", help="The qrels to write, with a card beside them."),
    source: str | None = typer.Option(None, "--source", help="llm or clicks, where OTHER has no card."),
    scale: str | None = typer.Option(None, "--scale", help="The grades there are, as 0,1,2,3; others are invalid."),
    grades: str | None = typer.Option(None, "--grades", help="OTHER's grades on the scale of people, as 0=0,1=2."),
    calibrate: str | None = typer.Option(None, "--calibrate", help="shift or isotonic, fitted where both judged."),
) -> None:
    """Put judgments of an LLM or of clicks beside human ones. Where both judged, the human grade stands."""
    from searchlora.eval.formatting import figure
    from searchlora.experiments.mixing import mix_qrels as verb

    found = verb(
        human,
        other,
        out,
        source=_one_of(source, "--source", "llm", "clicks"),  # type: ignore[arg-type]
        scale=_scale(scale),
        grades=_grades(grades),
        calibrate=_one_of(calibrate, "--calibrate", "shift", "isotonic"),  # type: ignore[arg-type]
    )
    mixed, same, agreed = found.mixed, found.mixed.same, found.mixed.kappa
    typer.echo(f"Wrote {mixed.human} human and {mixed.other} other judgments to {out} ({mixed.rule})")
    if mixed.invalid:
        typer.echo(f"{mixed.invalid} of the other judgments are no grade of the scale and were left out")
    if same is None or agreed is None:
        typer.echo("No pair was judged by both, so how far they agree is not known")
    else:
        typer.echo(
            f"Where both judged ({same.n} pairs of {same.queries} topics): the same grade in"
            f" {figure(same.value, same.low, same.high)}, kappa {figure(agreed.value, agreed.low, agreed.high)}"
        )


def _one_of(value: str | None, option: str, *known: str) -> str | None:
    if value is not None and value not in known:
        raise typer.BadParameter(f"'{value}' is none of {', '.join(known)}", param_hint=option)
    return value


def _scale(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter("is not a list of whole numbers, as 0,1,2,3", param_hint="--scale") from None


def _grades(text: str | None) -> dict[int, int] | None:
    if text is None:
        return None
    try:
        pairs = [(int(given), int(meant)) for given, meant in (part.split("=") for part in text.split(","))]
    except ValueError:
        raise typer.BadParameter("is not a list of pairs, as 0=0,1=2", param_hint="--grades") from None
    if len(dict(pairs)) < len(pairs):
        raise typer.BadParameter("gives one grade two meanings", param_hint="--grades")
    return dict(pairs)
