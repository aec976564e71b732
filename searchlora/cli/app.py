"""The command tree of `searchlora`, grouped by job."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from searchlora.cli import (
    ablate,
    adapters,
    data,
    doctor,
    evaluate,
    events,
    grade,
    improve,
    index,
    judge,
    judgments,
    merge,
    pipelines,
    serve,
    sweep,
    tasks,
    train,
)
from searchlora.cli.options import example, option

#: Heading of the help -> command -> function, or group of commands, and an example of it.
_COMMANDS: dict[str, dict[str, tuple[Any, str]]] = {
    "Start": {
        "demo": (train.demo, "demo --out demo"),
        "doctor": (doctor.doctor, "doctor --server http://localhost:8000"),
        "tasks": (tasks.app, "tasks list"),
    },
    "Data": {
        "data": (data.app, "data shop --out shop"),
    },
    "Train": {
        "train": (train.train, "train rewriting --data data/rewriting --name shop-rewriter --set lora.r=8"),
        "sweep": (sweep.sweep, "sweep intent --data data/intent --name intents --grid lora.r=1,4,16"),
        "tune": (pipelines.tune, "tune answers_judged --data data/answers --out answers.yaml"),
        "improve": (improve.improve, "improve shop-rewriter@1 --data data/rewriting --name shop-rewriter --rounds 2"),
    },
    "Evaluate": {
        "evaluate": (evaluate.evaluate, "evaluate shop-rewriter --data data/rewriting --out evaluation"),
        "experiment": (evaluate.experiment, "experiment systems.yaml --out experiment"),
        "ablate": (
            ablate.ablate,
            "ablate shop.yaml --topics topics.jsonl --qrels qrels.txt --corpus docs.jsonl --out ablation",
        ),
        "promote": (
            evaluate.promote,
            "promote shop-rewriter@3 --to production --policy policy.yaml --data data/rewriting",
        ),
    },
    "Judgments": {
        "judge": (
            judge.judge,
            "judge shop-judge --topics topics.jsonl --corpus docs.jsonl --pool bm25.trec --out llm.txt",
        ),
        "judge-card": (judge.judge_card, "judge-card --human qrels.txt --judge llm=llm.txt --out card"),
        "grade": (grade.app, "grade export --ratings grades/ratings.jsonl --out judged"),
        "convert": (judgments.convert, "convert rated.csv qrels.txt --judgments-source human"),
        "clicks": (judgments.clicks, "clicks log.parquet --out clicks.txt"),
    },
    "Store": {"adapters": (adapters.app, "adapters list --store store")},
    "Serve": {
        "index": (index.app, "index build products.jsonl --out products-index"),
        "run": (
            pipelines.run,
            "run pipeline.yaml --queries queries.jsonl --corpus corpus.jsonl --out run.trec --out results.jsonl",
        ),
        "search": (pipelines.search, 'search bm25 "red couch" --corpus products.jsonl'),
        "merge": (merge.merge, "merge llm.txt"),
        "pipelines": (pipelines.app, "pipelines show rerank"),
        "serve": (serve.serve, "serve --base smollm2-135m-instruct-q4_1 --store store"),
        "add-key": (serve.add_key, "add-key shop --role read --file keys.txt"),
        "events": (events.app, "events stats events/ --since 7d"),
    },
}


class CommandGroups(TyperGroup):
    """A group whose help lists commands under the heading of their `rich_help_panel`.

    Typer does that itself only with rich, whose import takes longer than the help may.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # click's types, which typer may bundle
        """Write one section per heading."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in _COMMANDS}
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

for heading, commands in _COMMANDS.items():
    for name, (command, line) in commands.items():
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=heading, epilog=example(f"searchlora {line}"))
        else:
            app.command(name, rich_help_panel=heading, epilog=example(f"searchlora {line}"))(command)


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
