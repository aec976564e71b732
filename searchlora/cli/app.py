"""The command tree."""

from __future__ import annotations

import typer

from searchlora.cli import (
    adapters,
    clicks,
    convert,
    data,
    demo,
    evaluate,
    experiment,
    grade,
    judge,
    judge_card,
    prediction_powered,
    promote,
    qrels,
    run,
    serve,
    train,
)

app = typer.Typer(
    name="searchlora",
    help="Train, keep, evaluate and use small LoRA adapters for the stages of a search pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.add_typer(adapters.app, name="adapters")
app.command("evaluate")(evaluate.evaluate)
app.command("experiment")(experiment.experiment)
app.command("promote")(promote.promote)
app.add_typer(grade.app, name="grade")
app.command("judge")(judge.judge)
app.command("judge-card")(judge_card.judge_card)
app.command("prediction-powered")(prediction_powered.prediction_powered)
app.command("clicks")(clicks.clicks)
app.command("mix-qrels")(qrels.mix_qrels)
app.add_typer(convert.app, name="convert")
app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Options that stand before the verb."""
    del debug  # for the help text: `main`, which catches the errors, has read it and taken it out
