"""Training metrics: the append-only log `metrics.jsonl` and the loss plot drawn from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from searchlora.files import atomic_text


class MetricsLog:
    """`metrics.jsonl`: one JSON object per logged step, appended while training runs.

    Lines after `resumed_step`, the step of the checkpoint that training resumes from, are removed: they were written
    between that checkpoint and the interruption.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        self.path = path
        self.paused = 0.0
        earlier = [line for line in read_metrics(path) if line["step"] <= resumed_step] if path.exists() else []
        trained = [line for line in earlier if "loss" in line]
        self.tokens_before = trained[-1]["tokens"] if trained else 0
        self.seconds_before = trained[-1]["seconds"] if trained else 0.0
        with atomic_text(path) as file:
            file.writelines(json.dumps(line) + "\n" for line in earlier)

    def add(self, step: int, values: Mapping[str, float | str]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`. Reading stops at the first incomplete line, which a killed process left.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> _ = path.write_text('{"step": 1, "loss": 2.5}\\n{"step": 2, "lo')
        >>> read_metrics(path)
        [{'step': 1, 'loss': 2.5}]
    """
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def plot_losses(metrics: Path, target: Path, unit: str) -> None:
    """Plot training and validation loss over steps, from a `metrics.jsonl` with at least one training loss, as SVG."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    lines = read_metrics(metrics)
    steps, losses = zip(*((line["step"], line["loss"]) for line in lines if "loss" in line), strict=True)
    smoothed = list(accumulate(losses, lambda average, loss: 0.9 * average + 0.1 * loss))
    validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="#9db4d6", linewidth=0.8, label="training, each step")
    axes.plot(steps, smoothed, color="#2f5d9b", linewidth=1.6, label="training, smoothed")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="#c4572e", markersize=4, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss, {unit}")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    FigureCanvasSVG(figure).print_svg(str(target))
