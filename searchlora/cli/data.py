"""`searchlora data`: build datasets, list source formats, generate the synthetic shop."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from searchlora.cli.options import (
    EngineOptions,
    JsonOption,
    JudgmentsSourceOption,
    PeriodOptions,
    SeedOption,
    ShardOptions,
    StoreOptions,
    TaskArgument,
    TasksOption,
    argument,
    example,
    option,
    parse_key_values,
    shard_done,
    takes,
)
from searchlora.errors import UsageError

if TYPE_CHECKING:
    from searchlora.experiments.label import LabelResult

app = typer.Typer(help="Inspect source files, build datasets, and export them.", no_args_is_help=True)


EncodingOption = Annotated[
    str | None, option("--encoding NAME", "Encoding of text files that are not UTF-8, such as cp1252 or latin-1.")
]


class BuildOptions(NamedTuple):
    """Options with the names of the verb's parameters."""

    grades: Annotated[
        str | None, option("--grades MAP", "Number of each grade in the source, for example E=3,S=2,C=1,I=0.")
    ] = None
    thresholds: Annotated[
        str | None,
        option(
            "--thresholds NUMBERS",
            "Thresholds that turn ratings with decimals into grades, such as 0.5,1.5,2.5; the grade is the number"
            " reached.",
        ),
    ] = None
    seed: Annotated[int, option("--seed N", "Random seed of the split.")] = 13
    limit: Annotated[int | None, option("--limit N", "Stop after N valid rows.")] = None
    on_leak: Annotated[
        Literal["refuse", "drop"],
        option(
            "--on-leak refuse|drop",
            "If an input is in two splits: refuse the dataset, or keep it in one: test before validation before"
            " training. With official splits it is always kept in one.",
        ),
    ] = "refuse"
    corpus: Annotated[
        Path | None, option("--corpus FILE", "Documents of the judgments: rows with id, title and text.")
    ] = None
    qrels: Annotated[
        Path | None,
        option(
            "--qrels FILE",
            "Judgments for evaluation by retrieval: qrels by record id, or rows with query, document and grade.",
        ),
    ] = None
    topics: Annotated[
        Path | None, option("--topics FILE", "Queries with their ids, if the judgments have ids only.")
    ] = None
    relevant: Annotated[
        int | None,
        option("--relevant GRADE", "Lowest grade that counts as relevant in MRR and Recall. Default: 1.", min=1),
    ] = None
    judgments_source: JudgmentsSourceOption = None
    encoding: EncodingOption = None
    allow_rejects: Annotated[bool, option("--allow-rejects", "Build the dataset even if rows are rejected.")] = False


@app.command(epilog=example("searchlora data build rewriting pairs.csv --format pairs --out data/rewriting"))
@takes(BuildOptions)
@takes(PeriodOptions, "period")
def build(
    task: TaskArgument,
    out: Annotated[Path, option("--out FOLDER", "Dataset folder to write; it must not exist.")],
    options: BuildOptions,
    period: PeriodOptions,
    source: Annotated[Path | None, argument("SOURCE", "Source file or folder.")] = None,
    format: Annotated[str | None, option("--format FORMAT", "Source format; `data formats TASK` lists them.")] = None,
    from_events: Annotated[
        str | None,
        option("--from-events PLACE", "In place of a source: what users did, from the log of `serve --events`."),
    ] = None,
    columns: Annotated[
        list[str],
        option(
            "--map FIELD=COLUMN",
            "Column that holds a field: query=q. Several are joined: passage=title,text. Columns of the corpus: "
            "corpus.id=sku; of the judgments: qrels.document=docid. Repeatable.",
        ),
    ] = [],
    reader_options: Annotated[
        list[str], option("--option KEY=VALUE", "Option of the format's reader; repeatable.")
    ] = [],
    split_ratios: Annotated[
        str,
        option("--split-ratios NUMBERS", "Ratios of the groups in train, validation and test; 0,0,1: test rows only."),
    ] = "0.8,0.1,0.1",
    tasks: TasksOption = None,
) -> None:
    """Build a dataset from a file: validate its rows, split them by group, check for leaks, and write a card."""
    from searchlora.cli.events import opened, searches_of
    from searchlora.cli.terminal import progress_bars
    from searchlora.data.building import build as verb
    from searchlora.events.dataset import event_source
    from searchlora.files import parse_field_map
    from searchlora.task import load_task

    try:
        train, validation, test = (float(ratio) for ratio in split_ratios.split(","))
    except ValueError:
        raise UsageError(f"'{split_ratios}' is not three numbers separated by commas", where="--split-ratios") from None
    if (source is None) == (from_events is None):
        raise UsageError("give a source or --from-events, one of the two", where="SOURCE")
    loaded, given, read = load_task(task, tasks), options._asdict(), parse_key_values(reader_options, "--option")
    origin = None
    if from_events is None and any(period):
        raise UsageError("a period is of events", where="--since", fix="Give --from-events, or leave it out.")
    with ExitStack() as stack:
        if from_events is not None:
            log = stack.enter_context(opened(from_events))
            exported = stack.enter_context(event_source(loaded, searches_of(log, period), from_events, out, format))
            source, format, origin = exported.path, exported.format, exported.origin
            read = {**exported.options, **read}
            given["judgments_source"] = given["judgments_source"] or exported.judgments_source
        if source is None or format is None:
            raise UsageError("a source needs its format", where="--format", fix=f"`data formats {task}` lists them.")
        steps = stack.enter_context(progress_bars())
        card = verb(
            loaded,
            source,
            format=format,
            out=out,
            **given,
            options=read,
            origin=origin,
            split_ratios=(train, validation, test),
            fields=parse_field_map(columns),
            progress=steps("Reading"),
        )
    typer.echo(f"Wrote {out}")
    for split, rows in card.rows.items():
        typer.echo(f"{split:<12}{rows:>10,} rows in {card.groups[split]:,} groups")
    for reason, rows in card.rejected.items():
        typer.echo(f"rejected    {rows:>10,} rows: {reason}")
    typer.echo(f"leaks       {card.leaks['found']:>10,} rows, taken out: {card.leaks['taken out']}")
    for label, count in card.report.get("counts", {}).items():
        typer.echo(f"{label}: {count:,}")
    for graded, counts in card.report.get("sources", {}).items():
        typer.echo(f"source of the {graded}: {', '.join(f'{number:,} {name}' for name, number in counts.items())}")
    for note in card.report.get("notes", ()):
        typer.echo(f"note: {note}")
    for warning in card.warnings:
        typer.echo(f"warning: {warning}")


class TeacherOptions(NamedTuple):
    """The teacher, with the names of the verb's parameters."""

    adapter: Annotated[str | None, option("--adapter ADAPTER", "Teacher: an adapter of the store.")] = None
    base: Annotated[str | None, option("--base MODEL", "Teacher: a base model without an adapter.")] = None
    teacher: Annotated[
        str | None, option("--teacher MODEL", "Teacher: a model of the service that --server names.")
    ] = None
    settings: Annotated[
        Path | None,
        option("--settings FOLDER", "Without an adapter: dataset folder that holds the labels or the guideline."),
    ] = None
    generate: Annotated[
        bool, option("--generate", "Let the teacher write labels and grades instead of scoring them.")
    ] = False


class PriceOptions(NamedTuple):
    """What tokens of the teacher cost."""

    price_prompt: Annotated[
        float, option("--price-prompt PRICE", "Price of a million tokens of prompts, in any currency.", min=0)
    ] = 0.0
    price_output: Annotated[float, option("--price-output PRICE", "Price of a million generated tokens.", min=0)] = 0.0


@app.command(epilog=example("searchlora data label intent log.csv --base BASE --settings data/ --out labelled.jsonl"))
@takes(TeacherOptions, "model")
@takes(PriceOptions, "prices")
@takes(StoreOptions, "stored")
@takes(EngineOptions, "engine")
@takes(ShardOptions, "sharding")
def label(
    task: TaskArgument,
    rows: Annotated[Path, argument("ROWS", "Rows with the fields that the task reads: JSONL, JSON, CSV or Parquet.")],
    out: Annotated[Path, option("--out FILE", "JSONL file of labelled rows to write, with a card beside it.")],
    model: TeacherOptions,
    prices: PriceOptions,
    stored: StoreOptions,
    engine: EngineOptions,
    sharding: ShardOptions,
    columns: Annotated[
        list[str],
        option(
            "--map FIELD=COLUMN",
            "Column of ROWS that holds a field: query=text. Several are joined: query=title,text. Repeatable.",
        ),
    ] = [],
    sample: Annotated[
        str | None,
        option(
            "--sample KIND=N",
            "Label N rows: random=N; diverse=N: about different things.",
        ),
    ] = None,
) -> None:
    """Let a larger model write the targets of rows (distillation), for `data build` with the format native.

    The same command continues an interrupted run. The card names the teacher, which is an ancestor of each student.
    """
    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.label import Prices
    from searchlora.experiments.label import label as verb
    from searchlora.experiments.row_sample import RowSample
    from searchlora.files import parse_field_map

    with progress_bars() as steps:
        done = verb(
            task,
            rows,
            out,
            **model._asdict(),
            fields=parse_field_map(columns),
            sample=RowSample.parse(sample) if sample is not None else None,
            prices=Prices(prices.price_prompt, prices.price_output),
            **stored.given(),
            engine=engine.read(),
            sharding=sharding.read(),
            steps=steps,
        )
    if done is None:
        typer.echo(shard_done(sharding.shard, out))
    else:
        print_labelled(done, out)


def print_labelled(result: LabelResult, out: Path) -> None:
    """Print what a teacher wrote."""
    for name, count in result.outputs.items():
        typer.echo(f"{count:>10,} {name}")
    cost = f", cost {result.cost:,.4g}" if result.cost else ""
    if result.prompt_tokens is None:
        typer.echo("The service reports no numbers of tokens, so the cost is unknown.")
    else:
        typer.echo(f"{result.prompt_tokens:,} tokens of prompts, {result.output_tokens:,} of outputs{cost}")
    invalid = f"; {result.invalid:,} outputs do not parse ({out}.invalid.jsonl)" if result.invalid else ""
    typer.echo(f"Wrote {result.labelled:,} rows labelled by {result.card.judge} to {out}{invalid}")


@app.command(epilog=example("searchlora data inspect judgments.csv"))
def inspect(
    source: Annotated[Path, argument("SOURCE", "File or folder to describe.")],
    tasks: TasksOption = None,
    encoding: EncodingOption = None,
) -> None:
    """Describe a file (columns, types, faults), and print the commands that build from it."""
    from searchlora.cli.terminal import usable_tasks
    from searchlora.data.inspection import inspect_file
    from searchlora.files import reading_as

    with reading_as(encoding):
        described, commands = inspect_file(source, usable_tasks(tasks))
    for line in described.lines():
        typer.echo(line)
    if not commands:
        typer.echo("\nNo command builds from it. `data formats TASK` lists the published layouts.")
    for command in commands:
        command.arguments += [] if encoding is None else ["--encoding", encoding]
        typer.echo("\n".join(["", *(f"# {text}" for text in (command.purpose, *command.notes)), str(command)]))


@app.command(epilog=example("searchlora data formats rewriting"))
def formats(task: TaskArgument, tasks: TasksOption = None, as_json: JsonOption = False) -> None:
    """List the source formats that a task reads, and their options."""
    from searchlora.cli.terminal import print_json
    from searchlora.data.formats import formats_of
    from searchlora.task import load_task

    entries = sorted(formats_of(load_task(task, tasks)).items())
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "description": entry.description,
                    "options": {key: str(meaning) for key, meaning in entry.options.items()},
                }
                for name, entry in entries
            ]
        )
        return
    for name, entry in entries:
        typer.echo(f"{name:<12} {entry.description}")
        for key, meaning in entry.options.items():
            typer.echo(f"{'':<12}   --option {key}=…  {meaning}")


@app.command(epilog=example("searchlora data shop --out shop"))
def shop(
    out: Annotated[Path, option("--out FOLDER", "Folder to write; it must not exist.")],
    products: Annotated[int, option("--products N", "Products, 600 to 100,000.")] = 2000,
    queries: Annotated[int, option("--queries N", "Records of query rewriting, at least 100.")] = 2400,
    seed: SeedOption = 13,
) -> None:
    """Generate the synthetic shop: products, judgments, a help centre and the records of every task."""
    from searchlora.shop import make_shop

    card = make_shop(out, products=products, queries=queries, seed=seed)
    typer.echo(f"Wrote {out}")
    for name, count in card.counts.items():
        total, parts = _total(count)
        typer.echo(f"{name:<14}{total:>7,}{parts}")


def _total(count: Any) -> tuple[int, str]:
    """A number, or the sum of nested ones and the sums of their parts as text."""
    if not isinstance(count, dict):
        return int(count), ""
    sums = {name: _total(part)[0] for name, part in count.items()}
    return sum(sums.values()), "  " + ", ".join(f"{name} {number:,}" for name, number in sums.items())


@app.command(epilog=example("searchlora data export data/judgment --split test --out held_out"))
def export(
    dataset: Annotated[Path, argument("DATASET", "Dataset folder, from `data build`.")],
    out: Annotated[Path, option("--out FOLDER", "Folder to write; it must not exist.")],
    split: Annotated[str, option("--split SPLIT", "train, validation or test.")] = "test",
    tasks: TasksOption = None,
) -> None:
    """Export the queries and judgments of a split as topics.jsonl and qrels.txt, for run, judge and experiment."""
    from searchlora.data.dataset import load_dataset
    from searchlora.data.export import export_split
    from searchlora.task import load_task

    opened = load_dataset(dataset)
    done = export_split(opened, load_task(opened.card.task, tasks), split, out)
    typer.echo(f"Wrote {out}: {done.topics:,} topics, {done.judgments:,} judgments")
    if done.unjudged:
        typer.echo(f"{done.unjudged:,} queries without a judgment were left out.")
