"""Report of a sweep: a table as text and Markdown, JSON, and one SVG plot per cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from searchlora.eval.formatting import figure, interval, markdown_table, markdown_text, p_value, write_json
from searchlora.eval.report.plots import cost_plot, svg_file
from searchlora.experiments.sweep import COSTS, PARAMETERS, SweepResult
from searchlora.experiments.trials import Trial
from searchlora.files import atomic_text

JSON_FILE, REPORT_FILE = "sweep.json", "sweep.md"


def write_sweep(swept: SweepResult, folder: Path) -> Path:
    """Write `sweep.json`, `sweep.md` and a plot per cost into a folder; returns the path of the Markdown file.

    Raises:
        DataError: if they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measure = swept.comparison.measures[0]
    plots = []
    for cost, front in swept.front.items():
        name = f"{measure}-{cost.partition(',')[0]}.svg".replace("@", "").replace(" ", "-").lower()
        plots.append((cost, name))
        with atomic_text(folder / name) as out:
            out.write(svg_file(cost_plot(swept.settings, front, measure, cost)))
    write_json(folder / JSON_FILE, sweep_json(swept))
    with atomic_text(folder / REPORT_FILE) as out:
        out.write(sweep_markdown(swept) + "\n\n" + "\n".join(f"![{measure} by {cost}]({name})" for cost, name in plots))
        out.write("\n")
    return folder / REPORT_FILE


def sweep_json(swept: SweepResult) -> dict[str, Any]:
    """The figures of a sweep as JSON."""
    return {
        "task": swept.evaluated.task.name,
        "dataset": swept.evaluated.dataset.fingerprint,
        "split": swept.evaluated.split,
        "measure": swept.comparison.measures[0],
        "n": len(swept.evaluated.records),
        "trials": [
            {
                "name": trial.name,
                "values": dict(trial.values),
                "adapter": trial.stored.reference if trial.stored else None,
                "error": trial.error,
            }
            for trial in swept.trials
        ],
        "settings": [{**vars(setting), "costs": dict(setting.costs)} for setting in swept.settings],
        "comparisons": [vars(pair) for pair in swept.comparison.comparisons],
        "correction": swept.comparison.correction,
        "front": {cost: list(names) for cost, names in swept.front.items()},
        "best": swept.best,
        "cheapest_not_significantly_below_the_best": swept.cheapest,
    }


def sweep_markdown(swept: SweepResult) -> str:
    """The table of trials, best first, and what it says."""
    measure = swept.comparison.measures[0]
    trials = {trial.stored.reference: trial for trial in swept.trials if trial.stored is not None}
    pairs = {pair.b: pair for pair in swept.comparison.comparisons if pair.a == swept.best and pair.measure == measure}
    costs = [cost for cost in COSTS if cost in swept.front]
    keys = list(swept.trials[0].values)
    less = measure in swept.evaluated.comparison.less_is_better
    rows = []
    for setting in sorted(swept.settings, key=lambda setting: setting.quality if less else -setting.quality):
        pair = pairs.get(setting.name)
        rows.append(
            [
                *(str(trials[setting.name].values[key]) for key in keys),
                figure(setting.quality, setting.low, setting.high),
                "" if pair is None else f"{-pair.difference:+.3f} {interval(-pair.high, -pair.low, '+')}",
                "" if pair is None else p_value(pair.p_corrected),
                *(
                    f"{setting.costs[cost]:,.0f}" if cost == PARAMETERS else f"{setting.costs[cost]:.4g}"
                    for cost in costs
                ),
                "yes" if setting.name in swept.front[PARAMETERS] else "",
            ]
        )
    head = [*keys, measure, "against the best", "corrected p", *costs, "Pareto front"]
    disagreements = markdown_text(swept.comparison.disagreements(pairs.values()))
    parts = [markdown_table(head, rows, words=len(keys)), *filter(None, [disagreements]), conclusion(swept)]
    if swept.failed:
        parts.append("\n".join(f"* {trial.name} failed: {trial.error}" for trial in swept.failed))
    return "\n\n".join(parts)


def conclusion(swept: SweepResult) -> str:
    """Sentences about the split, the best setting and the cheapest one not significantly below it."""
    trials = {trial.stored.reference: trial for trial in swept.trials if trial.stored is not None}
    split, n = swept.evaluated.split, len(swept.evaluated.records)
    warning = " The settings were chosen on the test split, which therefore measures none of them." * (split == "test")
    same = swept.best == swept.cheapest
    cheapest = (
        "every cheaper one is significantly below it"
        if same
        else f"the cheapest one not significantly below it: {_named(trials[swept.cheapest])}"
    )
    return (
        f"Compared on {n} records of the split '{split}', p corrected for {len(swept.settings) - 1} comparisons. "
        f"Best: {_named(trials[swept.best])}; {cheapest}.{warning}"
    )


def _named(trial: Trial) -> str:
    return f"{trial.stored.reference if trial.stored else trial.name} ({', '.join(trial.overrides)})"
