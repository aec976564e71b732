"""The command tree of `searchlora`, grouped by job."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from searchlora.cli import (
    ablate,
    adapters,
    convert,
    data,
    doctor,
    evaluate,
    gate,
    improve,
    index,
    judge,
    judgments,
    pipelines,
    serve,
    sweep,
    tasks,
    train,
)
from searchlora.cli.options import example, option

_HEADINGS = _START, _DATA, _TRAIN, _EVALUATE, _JUDGE, _STORE, _SERVE = (
    "Start",
    "Data",
    "Train",
    "Evaluate",
    "Judgments",
    "Store",
    "Serve",
)


class CommandGroups(TyperGroup):
    """A group whose help lists commands under the heading of their `rich_help_panel`.

    Typer does that itself only with rich, whose import takes longer than the help may.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # click's types, which typer may bundle
        """Write one section per heading."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _HEADINGS}
        width = formatter.width - 6 - max(map(len, self.commands))
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = getattr(command, "rich_help_panel", None)
                heading = heading if isinstance(heading, str) else "Commands"
                sections.setdefault(heading, []).append((name, command.get_short_help_str(width)))
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


app = typer.Typer(
    cls=CommandGroups,
    name="searchlora",
    help="Train, store, evaluate and serve LoRA adapters for the stages of a search pipeline.",
    epilog=example("searchlora demo"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("demo", rich_help_panel=_START, epilog=example("searchlora demo --out demo"))(train.demo)
app.command("doctor", rich_help_panel=_START, epilog=example("searchlora doctor --server http://localhost:8000"))(
    doctor.doctor
)
app.add_typer(tasks.app, name="tasks", rich_help_panel=_START, epilog=example("searchlora tasks list"))
app.add_typer(data.app, name="data", rich_help_panel=_DATA, epilog=example("searchlora data shop --out shop"))
app.add_typer(
    convert.app, name="convert", rich_help_panel=_DATA, epilog=example("searchlora convert run bm25.trec bm25.parquet")
)
app.command(
    "train",
    rich_help_panel=_TRAIN,
    epilog=example("searchlora train rewriting --data data/rewriting --name shop-rewriter --set lora.r=8"),
)(train.train)
app.command(
    "sweep",
    rich_help_panel=_TRAIN,
    epilog=example("searchlora sweep intent --data data/intent --name intents --grid lora.r=1,4,16 --out sweep"),
)(sweep.sweep)
app.command(
    "tune",
    rich_help_panel=_TRAIN,
    epilog=example("searchlora tune answers_judged --data data/answers --out answers.yaml"),
)(pipelines.tune)
app.command(
    "improve",
    rich_help_panel=_TRAIN,
    epilog=example("searchlora improve shop-rewriter@1 --data data/rewriting --name shop-rewriter --rounds 2"),
)(improve.improve)
app.command(
    "evaluate",
    rich_help_panel=_EVALUATE,
    epilog=example("searchlora evaluate shop-rewriter --data data/rewriting --out evaluation"),
)(evaluate.evaluate)
app.command(
    "experiment", rich_help_panel=_EVALUATE, epilog=example("searchlora experiment systems.yaml --out experiment")
)(evaluate.experiment)
app.command(
    "ablate",
    rich_help_panel=_EVALUATE,
    epilog=example(
        "searchlora ablate shop.yaml --topics topics.jsonl --qrels qrels.txt --corpus docs.jsonl --out ablation"
    ),
)(ablate.ablate)
app.add_typer(
    gate.app,
    name="gate",
    rich_help_panel=_EVALUATE,
    epilog=example("searchlora gate fit shop.yaml --topics train.jsonl --qrels train.txt --out gate.json"),
)
app.command(
    "promote",
    rich_help_panel=_EVALUATE,
    epilog=example("searchlora promote shop-rewriter@3 --to production --policy policy.yaml --data data/rewriting"),
)(evaluate.promote)
app.command(
    "judge",
    rich_help_panel=_JUDGE,
    epilog=example(
        "searchlora judge shop-judge --topics topics.jsonl --corpus docs.jsonl --pool bm25.trec --out llm.txt"
    ),
)(judge.judge)
app.command(
    "judge-card",
    rich_help_panel=_JUDGE,
    epilog=example("searchlora judge-card --human qrels.txt --judge llm=llm.txt --out card"),
)(judge.judge_card)
app.command(
    "prediction-powered",
    rich_help_panel=_JUDGE,
    epilog=example("searchlora prediction-powered --human qrels.txt --judged llm.txt --run a=a.trec --run b=b.trec"),
)(judge.prediction_powered)
app.add_typer(
    judgments.app,
    name="grade",
    rich_help_panel=_JUDGE,
    epilog=example("searchlora grade export --ratings grades/ratings.jsonl --out judged"),
)
app.command("clicks", rich_help_panel=_JUDGE, epilog=example("searchlora clicks log.parquet --out clicks.txt"))(
    judgments.clicks
)
app.command(
    "merge-qrels", rich_help_panel=_JUDGE, epilog=example("searchlora merge-qrels human.txt llm.txt --out merged.txt")
)(judgments.merge_qrels)
app.add_typer(
    adapters.app, name="adapters", rich_help_panel=_STORE, epilog=example("searchlora adapters list --store store")
)
app.add_typer(
    index.app,
    name="index",
    rich_help_panel=_SERVE,
    epilog=example("searchlora index build products.jsonl --out products-index"),
)
app.command(
    "run",
    rich_help_panel=_SERVE,
    epilog=example(
        "searchlora run pipeline.yaml --queries queries.jsonl --corpus corpus.jsonl --out run.trec --out results.jsonl"
    ),
)(pipelines.run)
app.command(
    "search", rich_help_panel=_SERVE, epilog=example('searchlora search bm25 "red couch" --corpus products.jsonl')
)(pipelines.search)
app.add_typer(
    pipelines.app, name="pipelines", rich_help_panel=_SERVE, epilog=example("searchlora pipelines show rerank")
)
app.command(
    "serve", rich_help_panel=_SERVE, epilog=example("searchlora serve --base smollm2-135m-instruct-q4_1 --store store")
)(serve.serve)


@app.callback()
def root(
    debug: Annotated[bool, option("--debug", "Show the traceback of an error.")] = False,
    threads: Annotated[
        int | None,
        option(
            "--threads N", "CPU threads. Default: OMP_NUM_THREADS, or one per CPU within the container's quota.", min=1
        ),
    ] = None,
) -> None:
    """Train, store, evaluate and serve LoRA adapters for the stages of a search pipeline."""
    from searchlora.threads import choose_threads

    del debug  # declared for the help text: `main`, which catches errors, reads and removes it
    choose_threads(threads)
