"""`searchlora gate`: weights of a hybrid search that are chosen for each query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchlora.cli.options import (
    AllowCircularOption,
    ClusterOption,
    EngineOptions,
    JsonOption,
    JudgmentsOption,
    MeasureOption,
    TopicsOption,
    example,
    takes,
)
from searchlora.cli.pipelines import PipelineArgument, PipelineOptions

if TYPE_CHECKING:
    from searchlora.experiments.gate import GateEvaluation
    from searchlora.retrieval.gate import Gate

app = typer.Typer(
    no_args_is_help=True, help="Choose the weights of a hybrid search for each query.", rich_markup_mode=None
)


@app.command(epilog=example("searchlora gate fit shop.yaml --topics train.jsonl --qrels train.txt --out gate.json"))
@takes(PipelineOptions)
@takes(EngineOptions, "engine")
def fit(
    pipeline: PipelineArgument,
    topics: TopicsOption,
    qrels: JudgmentsOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Gate file (JSON) to write.")],
    options: PipelineOptions,
    engine: EngineOptions,
    measure: MeasureOption = "nDCG@10",
    cluster: ClusterOption = None,
    no_vectors: Annotated[
        bool, typer.Option("--no-vectors", help="Use only the text of the query as features, not its vector.")
    ] = False,
    allow_circular: AllowCircularOption = False,
    as_json: JsonOption = False,
) -> None:
    """Learn to choose the weights of a `fuse` stage for each query, from judged training queries.

    The gate chooses among weights in tenths: 11 mixes of two parts, 66 of three. If cross-validation shows no gain, it
    uses the best fixed mix for all queries.
    """
    import json

    from searchlora.cli.terminal import progress_bars
    from searchlora.experiments.gate import fit_gate

    with progress_bars() as steps:
        fitted = fit_gate(
            pipeline,
            topics,
            qrels,
            out,
            corpus=options.documents(),
            overrides=options.settings,
            engine=engine.read(),
            measure=measure,
            cluster=cluster,
            vectors=not no_vectors,
            allow_circular=allow_circular,
            store=options.store,
            tasks=options.tasks,
            steps=steps,
        )
    gate = fitted.gate
    if as_json:
        marked = {"circular": fitted.circular} if fitted.circular else {}
        typer.echo(json.dumps({"gate": str(out), **_summary(gate), **marked}, indent=2))
        return
    found = gate.validation
    typer.echo(
        f"{found['queries']} queries, {len(gate.mixes)} mixes, {found['folds']} folds; cross-validated {gate.measure}: "
        f"best fixed mix {found['fixed']:.4f}, best gate {found['gate']:.4f} (standard error of the difference"
        f" {found['standard_error']:.4f})."
    )
    weights = _shown(gate.fixed)
    if gate.is_fixed:
        typer.echo(f"The gain does not exceed its standard error: the gate takes {weights} for every query.")
    else:
        typer.echo(f"The gate chooses for each query; the best fixed mix is {weights}.")
    if fitted.circular:
        typer.echo(f"circular: {fitted.circular}")
    typer.echo(f"Wrote {out}. Use it in the pipeline: fuse: {{gate: {out}, ...}}.")


@app.command(epilog=example("searchlora gate evaluate shop.yaml --gate gate.json --topics test.jsonl --qrels test.txt"))
@takes(PipelineOptions)
@takes(EngineOptions, "engine")
def evaluate(
    pipeline: PipelineArgument,
    gate: Annotated[Path, typer.Option("--gate", metavar="FILE", help="Gate file, from `gate fit`.")],
    topics: TopicsOption,
    qrels: JudgmentsOption,
    options: PipelineOptions,
    engine: EngineOptions,
    cluster: ClusterOption = None,
    allow_circular: AllowCircularOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a gate with the best fixed mix of its training queries, with each part alone, and with the oracle.

    Queries that the gate was fitted on are refused.
    """
    from searchlora.cli.terminal import print_comparison, print_json, progress_bars
    from searchlora.eval.formatting import to_plain
    from searchlora.eval.tables import to_json
    from searchlora.experiments.gate import evaluate_gate
    from searchlora.experiments.result_files import header

    with progress_bars() as steps:
        found = evaluate_gate(
            pipeline,
            gate,
            topics,
            qrels,
            corpus=options.documents(),
            overrides=options.settings,
            engine=engine.read(),
            cluster=cluster,
            allow_circular=allow_circular,
            store=options.store,
            tasks=options.tasks,
            steps=steps,
        )
    if as_json:
        print_json(to_plain({**to_json(found.comparison, header("gate")), **_chosen(found)}))
        return
    print_comparison(found.comparison)
    typer.echo(f"Best fixed mix of training: {_shown(found.fixed)}; of these queries: {_shown(found.best_here)}.")
    for weights, count in found.chosen.items():
        typer.echo(f"{_shown(weights)}: {count} queries")


def _summary(gate: Gate) -> dict[str, object]:
    return {
        "is_fixed": gate.is_fixed,
        "fixed": list(gate.fixed),
        "validation": gate.validation,
        "features": [*gate.features, *([f"{gate.dimensions} of the query vector"] if gate.dimensions else [])],
        "measure": gate.measure,
    }


def _chosen(found: GateEvaluation) -> dict[str, object]:
    return {
        "fixed": list(found.fixed),
        "best_fixed_here": list(found.best_here),
        "chosen": [{"weights": list(weights), "queries": count} for weights, count in found.chosen.items()],
    }


def _shown(weights: tuple[float, ...]) -> str:
    return " : ".join(f"{weight:g}" for weight in weights)
