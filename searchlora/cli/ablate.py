"""`searchlora ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from searchlora.cli.options import (
    AllowCircularOption,
    ClusterOption,
    EngineOptions,
    JsonOption,
    JudgmentsOption,
    TopicsOption,
    option,
    takes,
)
from searchlora.cli.pipelines import PipelineArgument, PipelineOptions

if TYPE_CHECKING:
    from searchlora.experiments.options import AblationOptions


class StudyOptions(NamedTuple):
    """What is varied and measured."""

    slots: Annotated[
        list[str], option("--slot NAME", "Slot to vary, such as shop-rewriter or bm25; repeatable. Default: all slots.")
    ] = []
    measures: Annotated[
        list[str], option("--measure MEASURE", "Retrieval measure; the first is tested. Repeatable.")
    ] = []
    relevant: Annotated[
        int, option("--relevant GRADE", "Lowest grade that counts as relevant in binary measures.", min=1)
    ] = 1
    cluster: ClusterOption = None
    allow_circular: AllowCircularOption = False
    older: Annotated[bool, option("--older", "Also measure the previous version of each adapter.")] = False

    def read(self) -> AblationOptions:
        """The options of the verb."""
        from searchlora.experiments.options import AblationOptions

        defaults = AblationOptions()
        return AblationOptions(
            self.slots,
            (*defaults.kinds, "older") if self.older else defaults.kinds,
            self.measures or defaults.measures,
            self.relevant,
            self.cluster,
            self.allow_circular,
        )


@takes(PipelineOptions)
@takes(StudyOptions, "study")
@takes(EngineOptions, "engine")
def ablate(
    pipeline: PipelineArgument,
    topics: TopicsOption,
    qrels: JudgmentsOption,
    out: Annotated[Path, option("--out FOLDER", "Folder for runs, figures and report.html.")],
    options: PipelineOptions,
    study: StudyOptions,
    engine: EngineOptions,
    as_json: JsonOption = False,
) -> None:
    """Measure what each slot contributes: without it, with the base model, or with an older version in its place.

    The same command continues an interrupted ablation.
    """
    import json

    from searchlora.cli.terminal import progress_bars
    from searchlora.eval.formatting import to_plain
    from searchlora.experiments.ablate import ablate as verb
    from searchlora.experiments.reports import ablation_json, ablation_markdown, write_ablation
    from searchlora.files import check_writable

    check_writable(out / "report.html")
    with progress_bars() as steps:
        ablation = verb(
            options.read(pipeline, engine),
            topics,
            qrels,
            out,
            study.read(),
            corpus=options.documents(),
            store=options.store,
            tasks=options.tasks,
            steps=steps,
        )
    typer.echo(json.dumps(to_plain(ablation_json(ablation)), indent=2) if as_json else ablation_markdown(ablation))
    for name, why in ablation.left_out.items():
        typer.echo(f"{name} is left out: {why}.", err=as_json)
    if ablation.reused:
        typer.echo(f"Runs taken from {out / 'runs'}: {', '.join(ablation.reused)}.", err=as_json)
    typer.echo(f"Report: {write_ablation(ablation, out)}", err=as_json)
