"""`searchlora size`: parameters, memory and time of training, before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from searchlora.cli.options import JsonOption, RecipeOption, SetOption, TasksOption, TrainedBaseOption, option
from searchlora.errors import UsageError

if TYPE_CHECKING:
    from searchlora.experiments.size import MethodSize, SizeResult

_UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


def size(
    base: TrainedBaseOption = None,
    task: Annotated[str | None, option("--task TASK", "Task whose recipe is used, for an LLM.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = [],
    data: Annotated[
        Path | None,
        option(
            "--data FOLDER", "Dataset of the task: its longest training rows. Default: rows of `max_length` tokens."
        ),
    ] = None,
    memory: Annotated[
        str | None, option("--memory SIZE", "Memory that must be enough, such as 24GB. Default: what is free here.")
    ] = None,
    target: Annotated[
        Literal["cpu", "cuda"] | None,
        option("--target DEVICE", "Where it would be trained: cpu or cuda. Default: a GPU if there is one."),
    ] = None,
    calibrate: Annotated[
        bool, option("--calibrate", "Train a few steps by each method to measure the time; needs --data.")
    ] = False,
    tasks: TasksOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute what full fine-tuning, LoRA and QLoRA of a base need: trained parameters, memory by part, largest batch.

    The configuration of the base is enough: a folder with `config.json`, or a GGUF file. Weights are neither loaded nor
    downloaded, except by --calibrate.
    """
    from searchlora.cli.terminal import print_json, progress_bars
    from searchlora.experiments.options import TrainingOptions
    from searchlora.experiments.size import SizeOptions
    from searchlora.experiments.size import size as verb

    options = SizeOptions(task, data, None if memory is None else parse_size(memory), target, calibrate)
    with progress_bars() as steps:
        result = verb(options, TrainingOptions(settings, base, recipe), tasks=tasks, steps=steps)
    if as_json:
        print_json(result.to_json())
    else:
        for line in _lines(result):
            typer.echo(line)


def parse_size(text: str) -> int:
    """The bytes of a text such as `24GB` or `80GiB`.

    Raises:
        UsageError: for anything else.

    Examples:
        >>> parse_size("24GB"), parse_size("1.5 GiB")
        (24000000000, 1610612736)
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?([MG]i?B)", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"'{text[:100]}' is not a size", where="--memory", fix="Write, for example, 24GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _lines(result: SizeResult) -> Iterator[str]:
    methods = result.methods
    batch = next(iter(methods.values())).batch
    rows: dict[str, Callable[[MethodSize], str]] = {
        "rows of a batch": lambda one: f"{one.batch.rows:,}",
        "batches of a step": lambda one: f"{one.gradient_accumulation:,}",
        "trained parameters": lambda one: f"{one.trained:,}",
        "share of the base's": lambda one: f"{one.share:.2%}",
        "stored": lambda one: f"{one.adapter_bytes / 1e6:,.1f} MB",
        "memory, peak": lambda one: _gigabytes(one.peak),
        "memory of training": lambda one: _gigabytes(one.training),
    }
    longest = "the longest rows" if result.tokens is not None else "rows without a common beginning"
    yield (
        f"{result.base}: {result.parameters:,} parameters. Memory is of a batch of {longest}, of up to {batch.length} "
        f"tokens, {batch.completion} of them in the completion; on {result.target}."
    )
    yield f"{'':<30}" + "".join(f"{name:>16}" for name in methods)
    for name, cell in rows.items():
        yield f"{name:<30}" + "".join(f"{cell(one):>16}" for one in methods.values())
    for part in next(iter(methods.values())).memory:
        yield f"  {part:<28}" + "".join(f"{_gigabytes(one.memory[part]):>16}" for one in methods.values())
    yield f"{'largest batch in ' + _gigabytes(result.available):<30}" + _cells(result, "largest_batch")
    yield f"{'  with checkpointing':<30}" + _cells(result, "largest_batch_checkpointed")
    if any(one.seconds is not None for one in methods.values()):
        times = ("not known" if one.seconds is None else f"{one.seconds:,.0f} s" for one in methods.values())
        yield f"{'time for 1,000 rows':<30}" + "".join(f"{time:>16}" for time in times)
    yield f"{'layers computed by':<30}" + "".join(
        f"{one.layers.replace('compiled ', ''):>16}" for one in methods.values()
    )
    if any(one.memory["activations"] is None for one in methods.values()):
        yield "The activations of this architecture are not known; all sums are without them."
    for name, one in methods.items():
        if one.failure is not None:
            yield f"The time of {name} is not known: {one.failure}."
    yield "Python and its libraries take about 0.7 GB of main memory besides, in each process."


def _cells(result: SizeResult, name: str) -> str:
    values = [getattr(one, name) for one in result.methods.values()]
    return "".join(f"{'not known' if value is None else 'none' if not value else f'{value:,}':>16}" for value in values)


def _gigabytes(size: int | None) -> str:
    return "not known" if size is None else f"{size / 1e9:,.2f} GB"
