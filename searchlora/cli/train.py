"""`searchlora train` and `demo`."""

from __future__ import annotations

import resource
import shlex
import time
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from searchlora.cli.options import (
    EngineOptions,
    RecipeOptions,
    StoreOptions,
    TaskArgument,
    option,
    takes,
)
from searchlora.errors import UsageError


@takes(RecipeOptions, "recipe")
@takes(StoreOptions, "stored")
def train(
    task: TaskArgument,
    data: Annotated[
        list[str],
        option(
            "--data FOLDER[=WEIGHT]",
            "Dataset folder, from `data build`. Each further folder adds training rows, and WEIGHT scales their "
            "loss; validation uses the first folder.",
        ),
    ],
    name: Annotated[str, option("--name NAME", "Name in the store; an existing name gets a new version.")],
    recipe: RecipeOptions,
    stored: StoreOptions,
    resume: Annotated[
        bool, option("--resume", "Continue an unfinished training run from its last checkpoint.")
    ] = False,
    start_from: Annotated[
        str | None,
        option("--start-from NAME[@VERSION]", "Train a stored adapter of the task further, in place of a new one."),
    ] = None,
) -> None:
    """Train an adapter, or a whole model with `--set method=full`, run its load check and store it."""
    from searchlora.cli.terminal import progress_bars
    from searchlora.data.mixture import parse_weighted
    from searchlora.experiments.train import train as verb
    from searchlora.experiments.training_runs import MORE_DATA

    folder, more_data = parse_weighted(data)
    with progress_bars() as steps:
        adapter = verb(
            task,
            folder,
            name,
            recipe.read(resume=resume, start_from=start_from, more_data=more_data),
            **stored.given(),
            log=typer.echo,
            steps=steps,
        )
    typer.echo(f"Stored {adapter.reference} in {adapter.path}")
    for other in adapter.manifest.dataset.card.get(MORE_DATA, []) if adapter.manifest.dataset else []:
        if other["rows left out"]:
            rows = f"{other['rows left out']} training rows of {other['source']}"
            typer.echo(f"Left out {rows}, which are in the validation or test split of {folder}")
    # A measure that does not exist on these rows, such as a kappa of one grade, is stored as null.
    known = {key: value for key, value in adapter.manifest.metrics.items() if value is not None}
    typer.echo("Validation: " + ", ".join(f"{key} {value:.4g}" for key, value in known.items()))


@takes(EngineOptions, "engine")
def demo(
    engine: EngineOptions,
    out: Annotated[Path, option("--out FOLDER", "Folder for shop, datasets, store and reports.")] = Path("demo"),
    all_tasks: Annotated[
        bool, option("--all", "Run all five tasks, then their adapters in one pipeline, and an ablation of its slots.")
    ] = False,
    serve_all: Annotated[
        bool, option("--serve", "With --all: serve the pipeline and the playground at the end.")
    ] = False,
) -> None:
    """Run the whole workflow on the synthetic shop: data, QLoRA training, evaluation by retrieval, report."""
    from searchlora.cli.serve import start
    from searchlora.cli.terminal import print_comparison, progress_bars
    from searchlora.experiments.demo import EXPLAINED, demo_all
    from searchlora.experiments.demo import demo as demo_one
    from searchlora.experiments.reports import ablation_markdown
    from searchlora.inference.settings import LocalSettings
    from searchlora.server.api.config import read_config
    from searchlora.training.callbacks import peak_memory

    if serve_all and not all_tasks:
        raise UsageError("the pipeline has the adapters of all tasks", where="--serve", fix="Give --all, too.")
    started, search = time.monotonic(), None
    with progress_bars() as steps:
        if all_tasks:
            results = demo_all(out, log=typer.echo, steps=steps, engine=engine.read())
            evaluated, report = {name: task.evaluated for name, task in results.tasks.items()}, results.report
            search = results.search
        else:
            single = demo_one(out, log=typer.echo, steps=steps, engine=engine.read())
            evaluated, report = {"": single.evaluated}, single.report
    for name, evaluation in evaluated.items():
        if name:
            typer.echo(f"\n{name}")
        print_comparison(evaluation.comparison)
        for system in evaluation.comparison.systems:
            if name in ("", "rewriting") and system in EXPLAINED:
                typer.echo(f"{system}: {EXPLAINED[system]}.")
    if search is not None:
        typer.echo(f"\n{search.pipeline}: all adapters in one pipeline, and without each of its slots\n")
        typer.echo(ablation_markdown(search.ablation))
        for name, why in search.ablation.left_out.items():
            typer.echo(f"{name} is left out: {why}.")
        typer.echo(f"Ablation: {search.report}\n")
    minutes = (time.monotonic() - started) / 60
    memory = max(peak_memory(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9)
    typer.echo(f"Took {minutes:.1f} minutes and at most {memory:.1f} GB of memory.")
    typer.echo("Synthetic data: the figures show that the workflow runs, not how good an adapter is on a real shop.")
    typer.echo(f"Report: {report}")
    if search is None:
        return
    # A server elsewhere computed the evaluation only; the playground's server loads the base itself.
    own = engine.engine if isinstance(engine.read(), LocalSettings) else None
    if serve_all:
        files = {name: getattr(search, name) for name in ("store", "grades", "topics", "qrels")}
        start(read_config(None, {"base": search.base, "pipelines": [str(search.pipeline)], "engine": own, **files}))
    else:
        options = {**search.serve_options, **({"--engine": own} if own is not None else {})}
        words = shlex.join(["searchlora", "serve", *chain.from_iterable(options.items())])
        typer.echo(f"See the adapters at work at http://127.0.0.1:8000/ after this command:\n  {words}")
