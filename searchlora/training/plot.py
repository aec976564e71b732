"""The loss plot that is kept beside an adapter."""

from __future__ import annotations

from pathlib import Path


def plot_losses(metrics: Path, target: Path, unit: str = "nats per token") -> None:
    """Draw training and validation loss over steps, from `metrics.jsonl` to an SVG.

    Args:
        unit: Of both losses.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from searchlora.training.callbacks import read_metrics

    lines = read_metrics(metrics)
    training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*training, strict=True), color="#9db4d6", linewidth=0.8, label="training, each step")
    axes.plot(*zip(*_smoothed(training), strict=True), color="#2f5d9b", linewidth=1.6, label="training, smoothed")
    if validation:
        axes.plot(*zip(*validation, strict=True), "o-", color="#c4572e", markersize=4, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss, {unit}")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    FigureCanvasSVG(figure).print_svg(str(target))


def _smoothed(points: list[tuple[int, float]], weight: float = 0.9) -> list[tuple[int, float]]:
    """An exponential moving average, started at the first value."""
    smoothed, average = [], points[0][1]
    for step, value in points:
        average = weight * average + (1 - weight) * value
        smoothed.append((step, average))
    return smoothed
