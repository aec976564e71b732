"""Sweep over rank and target modules: intent classification on BANKING77 with SmolLM2-135M.

    python -m benchmarks.sweep_intent                train what is missing, compare on validation, write the results
    python -m benchmarks.sweep_intent --train        train only; a killed sweep is resumed by the next call
    python -m benchmarks.sweep_intent --limit 40 --set optim.max_steps=2     trial; no results are written

Each of the 20 settings trains on the same rows, a fifth of an epoch, and is compared on 400 validation records that
no setting was trained on; the test set takes no part. The plots are in `docs/images/sweep`.
"""

from __future__ import annotations

import shutil

from benchmarks.common import ROOT, WORK, dataset, is_trial, real_data, save_figures, trial_parser
from searchlora.adapters.store import Store
from searchlora.cli.terminal import progress_bars
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.reports import sweep_json, sweep_markdown, write_sweep
from searchlora.experiments.sweep import sweep
from searchlora.experiments.trials import train_trials

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
    parser.add_argument("--train", action="store_true", help="train what is missing, and stop")
    arguments = parser.parse_args()
    trial = is_trial(arguments)
    work = WORK / (f"{NAME}_trial" if trial else NAME)
    # The official test set stays whole; a tenth of the training set compares the settings.
    source, shares = real_data() / "banking77", (0.89, 0.1, 0.01)
    data = dataset(work / "data", "intent", source, format="banking77", split_ratios=shares).folder
    store, overrides = Store(work / "store"), [*SETTINGS, *arguments.set]
    options = TrainingOptions(overrides)
    if arguments.train:
        train_trials("intent", data, "intent", GRID, options, store=store, bars=progress_bars)
        return
    evaluation = EvaluationOptions(limit=arguments.limit or RECORDS, cache_dir=work / "outputs")
    swept = sweep("intent", data, "intent", GRID, options, evaluation=evaluation, store=store, bars=progress_bars)
    print(sweep_markdown(swept))
    write_sweep(swept, work / "report")
    if trial:
        return
    measure = swept.comparison.measures[0]
    rows = [row for row in map(vars, swept.evaluated.comparison.rows) if row["measure"] == measure]
    comparisons = list(map(vars, swept.comparison.comparisons))
    save_figures(NAME, rows, comparisons, {"sweep": sweep_json(swept), "table": sweep_markdown(swept)})
    for plot in (work / "report").glob("*.svg"):
        shutil.copyfile(plot, ROOT / "docs" / "images" / "sweep" / plot.name)


if __name__ == "__main__":
    main()
