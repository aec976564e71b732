"""`searchlora merge`: join the shards of a job that were computed one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from searchlora.cli.options import argument


def merge(out: Annotated[Path, argument("OUT", "The (first) --out of the command whose shards are complete.")]) -> None:
    """Join the shards that `judge`, `run` or `data label` computed with `--shard`, after a check of counts and keys.

    No model is loaded. The result has the same bytes as without shards.
    """
    from searchlora.cli.data import print_labelled
    from searchlora.cli.judge import print_judged
    from searchlora.experiments.judge.merge import merge_grades
    from searchlora.experiments.label import merge_labels
    from searchlora.experiments.run import merge_run
    from searchlora.files.shards import Parts

    kind = Parts.beside(out).merged().about["kind"]
    if kind == "judge":
        print_judged(merge_grades(out), out)
    elif kind == "label":
        print_labelled(merge_labels(out), out)
    else:
        tag, count = merge_run(out)
        typer.echo(f"Wrote {count} topics as {tag}")
