"""Sweep over rank and target modules: intent classification on BANKING77 with SmolLM2-135M.

    python -m benchmarks.sweep_intent                train what is missing, compare on validation, write the results
    python -m benchmarks.sweep_intent --limit 40 --set optim.max_steps=2     trial; no results are written

Each of the 20 settings trains on the same rows, a fifth of an epoch, and is compared on 400 validation records that
no setting was trained on; the test set takes no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.common import WORK, dataset, is_trial, real_data, save_figures, trial_parser
from searchlora.cli.terminal import progress_bars
from searchlora.eval.comparison import Comparison
from searchlora.eval.formatting import figure, interval, markdown_table, p_value
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.sweep import sweep

NAME = "sweep_intent"
GRID = ("lora.r=1,4,16,64", "lora.target_modules=qv,qkv,attention,mlp,all-linear")

#: Number of validation records that compare the settings: half a minute to two minutes for each setting.
RECORDS = 400

#: One recipe for all settings but the two that are swept; alpha is twice the rank, as usual, by rsLoRA's scale for 16.
SETTINGS = (
    "method=lora",
    "lora.variant=rslora",
    "lora.alpha=8",
    "optim.learning_rate=1.0e-3",
    "optim.batch_size=8",
    "optim.epochs=0.2",
    "validation.every_steps=100000",
    "validation.generate_rows=0",
    "validation.tune_rows=0",
    "checkpoints.every_steps=50",
    "max_length=160",
    "max_new_tokens=24",
)


def main() -> None:
    parser = trial_parser(NAME)
    arguments = parser.parse_args()
    trial = is_trial(arguments)
    work = WORK / (f"{NAME}_trial" if trial else NAME)
    # The official test set stays whole; a tenth of the training set compares the settings.
    source, shares = real_data() / "banking77", (0.89, 0.1, 0.01)
    data = dataset(work / "data", "intent", source, format="banking77", split_ratios=shares).folder
    options = TrainingOptions([*SETTINGS, *arguments.set])
    evaluation = EvaluationOptions(limit=arguments.limit or RECORDS, cache_dir=work / "outputs")
    with progress_bars() as steps:
        trials, comparison = sweep(
            "intent", data, "intent", GRID, options, evaluation=evaluation, store=work / "store", steps=steps
        )
    settings = {trial.stored.reference: trial.values for trial in trials if trial.stored is not None}
    print(table := settings_table(comparison, settings))
    if not trial:
        rows, comparisons = map(vars, comparison.rows), map(vars, comparison.comparisons)
        save_figures(NAME, list(rows), list(comparisons), {"costs": dict(comparison.costs), "table": table})


def settings_table(comparison: Comparison, settings: Mapping[str, Sequence[str]]) -> str:
    """Each setting with its figure, its difference to the best one and its costs, best first."""
    measure, best = comparison.measures[0], str(comparison.candidate)
    keys = [value.partition("=")[0] for value in settings[best]]
    rows = []
    for system in sorted(settings, key=lambda name: -comparison.row(name, measure).value):
        row, cells = comparison.row(system, measure), ["", ""]
        if system != best:
            pair = comparison.pair(best, system, measure)
            cells = [f"{-pair.difference:+.3f} {interval(-pair.high, -pair.low, '+')}", p_value(pair.p_corrected)]
        values = [value.partition("=")[2].strip('"') for value in settings[system]]
        costs = [f"{cost:,.0f}" if cost >= 1000 else f"{cost:.4g}" for cost in comparison.costs[system].values()]
        rows.append([*values, figure(row.value, row.low, row.high), *cells, *costs])
    head = [*keys, measure, "against the best", "corrected p", *comparison.costs[best]]
    return markdown_table(head, rows, words=len(keys))


if __name__ == "__main__":
    main()
