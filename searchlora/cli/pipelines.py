"""`searchlora run`, `search`, `tune` and `pipelines`: execute, tune, list and check search pipelines."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from searchlora.cli.options import (
    AllowCircularOption,
    CacheOptions,
    DeviceOption,
    EngineOptions,
    JsonOption,
    MapOption,
    MeasureOption,
    ParametersOption,
    ShardOptions,
    StoreOption,
    TasksOption,
    argument,
    corpus_of,
    example,
    option,
    shard_done,
    takes,
)
from searchlora.errors import UsageError

if TYPE_CHECKING:
    from searchlora.data.collection import Corpus
    from searchlora.pipelines.config import PipelineConfig

PipelineArgument = Annotated[
    str, argument("PIPELINE", "YAML file, or the name of a built-in pipeline (`pipelines list`).")
]
CorpusOption = Annotated[
    Path | None,
    option(
        "--corpus FILE",
        "Documents: rows with id, title and text, or an index folder. Default: the pipeline's own corpus.",
    ),
]


class PipelineOptions(NamedTuple):
    """Options of the verbs that execute a pipeline."""

    corpus: CorpusOption = None
    columns: MapOption = []
    settings: ParametersOption = []
    store: StoreOption = None
    tasks: TasksOption = None
    device: DeviceOption = None

    def read(self, pipeline: str, engine: EngineOptions) -> PipelineConfig:
        """The pipeline with its parameters and its engine; the device was chosen when the option was read."""
        from searchlora.pipelines.config import read_pipeline

        return read_pipeline(pipeline, self.settings, engine.read())

    def documents(self) -> Corpus | None:
        """The corpus with the columns that `--map` names. Raises `UsageError` for columns without a corpus."""
        if self.corpus is None and self.columns:
            raise UsageError(
                "there is no corpus whose columns could be mapped", where="--map", fix="Give --corpus, too."
            )
        return corpus_of(self.corpus, self.columns) if self.corpus is not None else None


app = typer.Typer(no_args_is_help=True, help="List, show and check pipelines and their stages.", rich_markup_mode=None)


@takes(PipelineOptions)
@takes(EngineOptions, "engine")
@takes(CacheOptions, "cached")
@takes(ShardOptions, "sharding")
def run(
    pipeline: PipelineArgument,
    queries: Annotated[Path, option("--queries FILE", "Queries: JSON lines or TSV with id, query and further fields.")],
    out: Annotated[
        list[Path],
        option(
            "--out FILE",
            "Output: a .jsonl file gets every output of the stages, any other file the TREC run; repeatable.",
        ),
    ],
    options: PipelineOptions,
    engine: EngineOptions,
    cached: CacheOptions,
    sharding: ShardOptions,
    trace: Annotated[
        Path | None,
        option(
            "--trace FILE",
            "Write a JSON line per query and stage: input, prompt, output, adapter version, time, tokens.",
        ),
    ] = None,
) -> None:
    """Execute a pipeline over a file of queries, and write a TREC run, the results, or both.

    The outputs name the exact adapter versions. The same command continues a killed run.
    """
    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.run import run as verb

    with progress_bars() as steps:
        written = verb(
            options.read(pipeline, engine),
            queries,
            options.documents(),
            out,
            trace=trace,
            store=options.store,
            tasks=options.tasks,
            cache=cached.open(),
            sharding=sharding.read(),
            steps=steps,
        )
    if written is None:
        typer.echo(shard_done(sharding.shard, out[0]))
    else:
        tag, count = written
        typer.echo(f"Wrote {count} topics as {tag} to {', '.join(map(str, out))}")


@takes(PipelineOptions)
@takes(EngineOptions, "engine")
@takes(CacheOptions, "cached")
def search(
    pipeline: PipelineArgument,
    query: Annotated[str, argument("QUERY", "The query.")],
    options: PipelineOptions,
    engine: EngineOptions,
    cached: CacheOptions,
    fields: Annotated[
        list[str],
        option(
            "--field NAME=VALUE",
            "Further field of the query, such as history: text, or JSON for a list or an object; repeatable.",
        ),
    ] = [],
    top: Annotated[int, option("--top N", "Number of hits to print.", min=1)] = 10,
    document: Annotated[
        str | None, option("--explain ID", "Explain the rank of this document, or why it is missing.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Execute a pipeline on one query, and print the output of each stage, its time and tokens, and the hits."""
    from searchlora.cli.terminal import print_explanation, print_json, print_result, print_stages, progress_bars
    from searchlora.pipelines.explain import explain
    from searchlora.pipelines.pipeline import Pipeline
    from searchlora.pipelines.results import result
    from searchlora.systems.pipeline import with_history

    search = with_history({**_fields(fields), "id": "1", "query": query}, "--field")
    with progress_bars() as steps:
        loaded = Pipeline.load(
            options.read(pipeline, engine),
            corpus=options.documents(),
            store=options.store,
            tasks=options.tasks,
            cache=cached.open(),
            steps=steps,
        )
    if document is not None:
        more = {name: value for name, value in search.items() if name not in ("id", "query")}
        explanation = explain(loaded, query, document, **more)
        if as_json:
            print_json(explanation.to_json())
        else:
            print_explanation(explanation)
        return
    rows: list[Mapping[str, Any]] = []
    (executed,) = loaded.execute([search], trace=rows.append)
    row = result(search, executed, loaded.labels)
    if as_json:
        print_json(row)
    else:
        print_stages(rows)
        print_result(row, loaded.documents, top)


def _fields(values: Sequence[str]) -> dict[str, Any]:
    """The fields of the options `--field NAME=VALUE`. Raises `UsageError` for one without a name."""
    fields: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"'{text}' is not NAME=VALUE", where="--field")
        if value.startswith(("[", "{")):
            try:
                fields[name] = json.loads(value)
            except ValueError:
                raise UsageError(f"the value of '{name}' is not JSON", where="--field") from None
        else:
            fields[name] = value
    return fields


@takes(PipelineOptions)
@takes(EngineOptions, "engine")
def tune(
    pipeline: PipelineArgument,
    out: Annotated[Path, option("--out FILE", "Pipeline file (YAML) to write.")],
    options: PipelineOptions,
    engine: EngineOptions,
    data: Annotated[Path | None, option("--data FOLDER", "Dataset folder, from `data build`: fit thresholds.")] = None,
    risk: Annotated[
        float | None,
        option("--risk RATE", "With --data: highest error rate at which the stage decides alone, such as 0.02."),
    ] = None,
    split: Annotated[
        str | None, option("--split SPLIT", "With --risk: the split of --data to use. Default: validation.")
    ] = None,
    topics: Annotated[Path | None, option("--topics FILE", "Validation topics: choose fusion weights.")] = None,
    qrels: Annotated[Path | None, option("--qrels FILE", "Relevance judgments of the topics (qrels).")] = None,
    measure: MeasureOption = "nDCG@10",
    ranking_model: Annotated[
        bool, option("--ranking-model", "Train a model that orders the fused documents (learning to rank).")
    ] = False,
    numbers: Annotated[
        list[str],
        option("--field-numbers FIELD", "Field of documents with a number that the ranking model reads; repeatable."),
    ] = [],
    allow_circular: AllowCircularOption = False,
) -> None:
    """Fit thresholds of a stage (--data), also at a risk (--risk), or a fusion (--topics, --qrels).

    Writes the pipeline with the fitted values and pinned adapters. Use validation data, not test data.
    """
    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.tune import tune as fit_thresholds
    from searchlora.experiments.tune_weights import tune_weights

    if (data is None) == (topics is None) or (topics is None) != (qrels is None):
        raise UsageError("tune needs --data, or --topics and --qrels", fix="Give one of the two.")
    if numbers and not ranking_model:
        raise UsageError("only a ranking model reads fields", where="--field-numbers", fix="Add --ranking-model.")
    if risk is not None:
        if data is None or topics is not None or ranking_model:
            raise UsageError("a risk is kept on labelled rows", where="--risk", fix="Give --data, and no --topics.")
        _tune_risk(options, engine, pipeline, out, data, split or "validation", risk)
        return
    if ranking_model and topics is None:
        raise UsageError("a ranking model learns from judged topics", where="--ranking-model", fix="Give --topics.")
    if split is not None:
        raise UsageError("only a risk is fitted on a split of your choice", where="--split", fix="Add --risk.")
    stored: dict[str, Any] = {"store": options.store, "tasks": options.tasks}
    if data is not None:
        with progress_bars() as steps:
            tuned = fit_thresholds(options.read(pipeline, engine), data, out, steps=steps, **stored)
        for key, value in tuned.tuned.items():
            typer.echo(f"{key}: {json.dumps(value, ensure_ascii=False)}")
        typer.echo(f"Wrote {tuned.path} for {tuned.adapter}")
        return
    assert topics is not None and qrels is not None
    config = options.read(pipeline, engine)
    stored |= {"measure": measure, "corpus": options.documents(), "allow_circular": allow_circular}
    if ranking_model:
        _tune_ranking(config, topics, qrels, out, numbers, stored)
        return
    with progress_bars() as steps:
        chosen = tune_weights(config, topics, qrels, out, steps=steps, **stored)
    for name, score in (("before", chosen.own), ("best", chosen.best)):
        weights = ", ".join(f"{part} {weight:g}" for part, weight in zip(chosen.parts, score.weights, strict=True))
        interval = f"{score.low:.4f} to {score.high:.4f}, n = {score.n}"
        typer.echo(f"{name}: {weights}: {chosen.measure} {score.value:.4f} ({interval})")
    if chosen.circular:
        typer.echo(f"circular: {chosen.circular}")
    typer.echo(f"Wrote {chosen.path}. The weights were chosen on these topics: expect less on others.")


def _tune_risk(
    options: PipelineOptions, engine: EngineOptions, pipeline: str, out: Path, data: Path, split: str, risk: float
) -> None:
    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.tune_risk import tune_risk

    with progress_bars() as steps:
        config = options.read(pipeline, engine)
        stored = {"store": options.store, "tasks": options.tasks}
        result = tune_risk(config, data, out, risk, split=split, steps=steps, **stored)
    rule = result.rule
    if result.invalid:
        typer.echo(f"{result.invalid} answers are invalid; they are never decided")
    if result.unknown:
        typer.echo(f"warning: it is unknown what {result.adapter} was trained on; it may have seen the rows", err=True)
    typer.echo(
        f"{result.adapter} decides alone where its probability is {rule.above:.4f} or higher: {result.coverage:.1%} of"
        f" {rule.rows + result.invalid} rows, {rule.errors} errors;"
        f" the error rate is at most {rule.risk:g} (confidence 95%)"
    )
    typer.echo(f"Wrote {result.path}")


def _tune_ranking(
    config: PipelineConfig, topics: Path, qrels: Path, out: Path, fields: list[str], more: Mapping[str, Any]
) -> None:
    from searchlora.cli.terminal import print_comparison, progress_bars
    from searchlora.experiments.tune_ranking import tune_ranking

    with progress_bars() as steps:
        trained = tune_ranking(config, topics, qrels, out, fields=fields, steps=steps, **more)
    print_comparison(trained.comparison)
    if not trained.is_better:
        typer.echo("warning: the model is not significantly better. Keep the fusion, or judge more topics.", err=True)
    gains = ", ".join(f"{name} {share:.0%}" for name, share in list(trained.gains.items())[:5])
    typer.echo(f"{trained.trees} trees; what they split by: {gains}")
    if trained.circular:
        typer.echo(f"circular: {trained.circular}")
    typer.echo(f"Wrote {trained.path} and {trained.model}. The figures are by cross-validation over topics.")


@app.command("list", epilog=example("searchlora pipelines list --json"))
def list_pipelines(as_json: JsonOption = False) -> None:
    """List the built-in pipelines with their stages and parameters."""
    from searchlora.cli.terminal import print_json
    from searchlora.pipelines.config import read_pipeline, ready_pipelines

    rows = [_summary(read_pipeline(name)) for name in ready_pipelines()]
    if as_json:
        print_json(rows)
        return
    width = 2 + max(len(row["name"]) for row in rows)
    for row in rows:
        parameters = ", ".join(
            f"{key}={'null' if value is None else value}" for key, value in row["parameters"].items()
        )
        typer.echo(f"{row['name']:<{width}}{' > '.join(row['stages'])}{f'  ({parameters})' if parameters else ''}")


@app.command(epilog=example("searchlora pipelines show rerank"))
def show(pipeline: PipelineArgument) -> None:
    """Print the file of a pipeline, for example as a template for your own."""
    from searchlora.files import read_text
    from searchlora.pipelines.config import pipeline_path, read_pipeline

    read_pipeline(pipeline)  # names a pipeline that does not exist, or is invalid
    typer.echo(read_text(pipeline_path(pipeline)).rstrip())


@app.command(epilog=example("searchlora pipelines validate shop.yaml --store store"))
def validate(
    pipeline: PipelineArgument,
    settings: ParametersOption = [],
    store: StoreOption = None,
) -> None:
    """Check a pipeline without executing it: keys, parameters, the order of stages, and that its adapters exist."""
    from searchlora.adapters.store import Store
    from searchlora.pipelines.config import read_pipeline
    from searchlora.pipelines.stages.stage import check_order, pinned

    config = read_pipeline(pipeline, settings)
    check_order(config.stages, pipeline)
    stages = pinned(config.stages, Store(store).pin)
    for number, stage in enumerate(stages, 1):
        typer.echo(f"{number}. {stage.kind}: {stage.model_dump_json(exclude_defaults=True)}")
    typer.echo(f"{config.name} is valid.")


@app.command(epilog=example("searchlora pipelines stages bm25"))
def stages(
    kind: Annotated[str | None, argument("KIND", "Kind of stage. Default: all kinds.")] = None,
) -> None:
    """Print every kind of stage with its keys, their types and defaults."""
    from searchlora.cli.terminal import warn_of
    from searchlora.key_tables import key_rows
    from searchlora.pipelines.stages.kinds import stage_classes

    classes = stage_classes(skipped=warn_of)
    if kind is not None and kind not in classes:
        raise UsageError(f"there is no stage '{kind}'", fix=f"Kinds: {', '.join(classes)}.")
    for name, model in classes.items():
        if kind in (None, name):
            typer.echo(f"{name}\n  {' '.join((inspect.getdoc(model) or '').split())}")
            for key, value_type, default, meaning in key_rows(model):
                typer.echo(
                    f"    {key.strip('`'):<22}{value_type.replace('`', '')}; {default.strip('`')}  {meaning}".rstrip()
                )


def _summary(config: Any) -> dict[str, Any]:

    return {
        "name": config.name,
        "stages": [stage.kind for stage in config.stages],
        "parameters": dict(config.parameters),
    }
