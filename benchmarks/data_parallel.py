"""Two processes that train together beside one with twice the batch: the loss of each step.

    python -m benchmarks.data_parallel
    python -m benchmarks.data_parallel --base FOLDER --steps 4    a trial, which writes no results

SmolLM2-135M with an adapter of rank 8 on the rewriting data of the synthetic shop: in nf4, bf16 and fp32, one process
with 16 rows a step, and two processes by gloo with 8 rows each. Dropout is 0, since each process would draw its own
masks, and the fused layers are off, which several processes do not use. It writes
`benchmarks/results/data_parallel.json` and `data_parallel.svg`. About ten minutes on two cores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.common import RESULTS, WORK, as_called, dataset, parser, save_figures, single_row
from searchlora.adapters.store import Store
from searchlora.cli.terminal import progress_bars
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.shop import make_shop
from searchlora.training.metrics import read_metrics

BASE = "smollm2-135m-instruct-q4_1"
ROWS = 16

#: Precision -> settings of a recipe. In fp32 the curves differ by the order of sums only.
PRECISIONS = {"nf4": ("method=qlora",), "bf16": ("method=lora",), "fp32": ("method=lora", "precision=fp32")}


def main() -> None:
    arguments = parser("data_parallel")
    arguments.add_argument("--base", default=BASE, help="another base, for a trial")
    arguments.add_argument("--steps", type=int, default=20, help="number of steps")
    options = arguments.parse_args()
    os.environ["SEARCHLORA_NATIVE"] = "0"
    curves: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for precision, settings in PRECISIONS.items():
        for processes in (1, 2):
            system = f"{precision}, {processes} process{'es' if processes > 1 else ''}"
            curves[system], seconds[system] = _trained(options.base, settings, processes, options.steps)
    differences = {
        precision: max(abs(a - b) for a, b in zip(*(curves[name] for name in _pair(precision, curves)), strict=True))
        for precision in PRECISIONS
    }
    rows = [single_row(precision, "largest difference of a step", value) for precision, value in differences.items()]
    rows += [single_row(system, "loss of the last step", losses[-1]) for system, losses in curves.items()]
    rows += [single_row(system, "training, s", value) for system, value in seconds.items()]
    for row in rows:
        print(f"{row['system']}: {row['measure']} {row['value']:.3g}")
    if options.base != BASE or options.steps != 20:
        plot(curves, WORK / "data_parallel" / "data_parallel.svg")
        return
    plot(curves, RESULTS / "data_parallel.svg")
    save_figures("data_parallel", rows, [], {"losses": curves}, module=as_called("data_parallel"))


def _trained(base: str, settings: tuple[str, ...], processes: int, steps: int) -> tuple[list[float], float]:
    """The loss of each step, and the seconds of training."""
    work = WORK / "data_parallel"
    if not (work / "shop").is_dir():
        make_shop(work / "shop")
    data = dataset(work / "data", "rewriting", work / "shop", format="shop")
    overrides = (
        *(*settings, f"optim.batch_size={ROWS // processes}", f"optim.max_steps={steps}", "lora.r=8"),
        *("lora.dropout=0", "optim.learning_rate=1e-4", "validation.generate_rows=0", "validation.rows=8"),
    )
    trained = TrainingOptions(overrides, base, processes=processes, restart=True)
    with progress_bars() as bars:
        stored = train("rewriting", data.folder, f"by-{processes}", trained, store=Store(work / "store"), steps=bars)
    losses = [line["loss"] for line in read_metrics(stored.path / "metrics.jsonl") if "loss" in line]
    return losses, float(stored.manifest.training["seconds"])


def _pair(precision: str, curves: Mapping[str, Sequence[float]]) -> list[str]:
    return [system for system in curves if system.startswith(precision)]


def plot(curves: Mapping[str, Sequence[float]], target: Path) -> None:
    """The loss of one process as a line and that of two as circles on it, a panel for each precision."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, precision in zip(figure.subplots(1, len(PRECISIONS), sharey=True), PRECISIONS, strict=True):
        for system, style in zip(_pair(precision, curves), ("-", "o"), strict=True):
            steps = range(1, len(curves[system]) + 1)
            colour = "#2f5d9b" if style == "-" else "#c4572e"
            axes.plot(steps, curves[system], style, color=colour, label=system, linewidth=1.4, markersize=4, mfc="none")
        axes.set_title(precision)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("loss, nats per token")
    FigureCanvasSVG(figure).print_svg(str(target))


if __name__ == "__main__":
    main()
