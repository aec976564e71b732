"""LoRA's claims, measured: full fine-tuning, LoRA and QLoRA on BANKING77 (LLM) and MSRD (encoder).

    python -m benchmarks.lora_claims             a killed training is resumed by the next call
    python -m benchmarks.lora_claims --limit 20 --set optim.max_steps=3     trial; no results are written

The three methods train on the same rows with one recipe per collection, each in a process of its own, which measures
its peak memory. Learning rates are the recipe's: one for LoRA and QLoRA, one for full fine-tuning. Test rows choose
nothing. Times of training and inference belong to an idle machine. The encoders are those of `embedding_msrd`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import (
    WORK,
    dataset,
    is_trial,
    named_comparison,
    real_data,
    save_figures,
    single_row,
    training_costs,
    trial_parser,
)
from benchmarks.embedding_msrd.__main__ import HERE as MSRD
from benchmarks.embedding_msrd.__main__ import NAME as MSRD_NAME
from benchmarks.lora_claims.report import tables
from benchmarks.lora_claims.timing import MERGED, UNMERGED, ratios
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.eval.comparison import Comparison
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.train import train
from searchlora.systems.system import BASE as ZERO_SHOT

NAME = "lora_claims"
HERE = Path(__file__).parent

#: Method -> name of the system in results.
SYSTEMS = {"full": "full fine-tuning", "lora": "adapter, LoRA", "qlora": "adapter, QLoRA"}

#: Share of parameters that a small adapter trains, at most, and the largest ratio of times that costs no time.
SMALL_SHARE, SAME_TIME = 0.01, 1.03

#: Smallest and largest ratio of the seconds of two single training runs that the variation of the machine explains: on
#: MSRD, QLoRA took 0.81 of LoRA's time, although it does at least the same work.
SAME_TRAINING_TIME = (0.75, 1 / 0.75)

#: Largest loss of quality that still counts as near-equal, in the headline measure.
NEAR = 0.01

#: Adapters on one base, for the claim about memory.
MANY = 10


@dataclass(frozen=True)
class Collection:
    """A collection with its task and recipe.

    Attributes:
        work: Folder below `benchmarks/work` with the dataset and the store.
        name: Beginning of the models' names.
        timed: Number of test records of which inference is timed: about a second.
    """

    title: str
    work: str
    name: str
    task: str
    format: str
    shares: tuple[float, float, float]
    recipe: Path
    timed: int


COLLECTIONS = (
    Collection(
        *("MSRD, all-MiniLM-L6-v2", MSRD_NAME, "msrd", "embedding", "msrd"),
        shares=(0.7, 0.1, 0.2),
        recipe=MSRD / "recipe.yaml",
        timed=256,
    ),
    Collection(
        *("BANKING77, SmolLM2-135M", NAME, "banking77", "intent", "banking77"),
        shares=(0.96, 0.03, 0.01),
        recipe=HERE / "intent.yaml",
        timed=32,
    ),
)


def main() -> None:
    parser = trial_parser(NAME)
    arguments = parser.parse_args()
    trial = is_trial(arguments)
    rows: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    claims: list[dict[str, Any]] = []
    for collection in COLLECTIONS:
        work = WORK / (f"{collection.work}_trial" if trial else collection.work)
        source, store = real_data() / collection.format, Store(work / "store")
        how_built: dict[str, Any] = {"format": collection.format, "split_ratios": collection.shares}
        data = dataset(work / "data", collection.task, source, **how_built).folder
        models: dict[str, StoredAdapter] = {}
        with progress_bars() as steps:
            for method in SYSTEMS:
                own = TrainingOptions([*arguments.set, f"method={method}"], recipe=collection.recipe, reuse=True)
                name = f"{collection.name}-method-{method}"
                models[method] = train(collection.task, data, name, own, store=store, log=print, steps=steps)
            first, *others = (stored.reference for stored in models.values())
            evaluation = EvaluationOptions("test", arguments.limit, cache_dir=work / "outputs")
            evaluated = evaluate(first, data, evaluation, compare_with=others, store=store, steps=steps)
        names = {ZERO_SHOT: "zero-shot", **{stored.reference: SYSTEMS[method] for method, stored in models.items()}}
        evaluations = {system: evaluated.systems[system].evaluation for system in names}
        compared = named_comparison(evaluations, names, SYSTEMS["lora"], evaluated.comparison.measures[0])
        print_comparison(compared)
        records = evaluated.records[: collection.timed]
        times = [
            row
            for method in ("lora", "qlora")
            for row in ratios(evaluated.task, models[method], records, store, work / "merged")
        ]
        rows += _rows(collection, compared, models)
        comparisons += [{**vars(pair), "collection": collection.title} for pair in compared.comparisons]
        comparisons += [{**row, "collection": collection.title} for row in times]
        claims += _claims(collection, compared, models, times)
    if claims:
        print(table := tables(rows, comparisons, claims))
        if not trial:
            save_figures(NAME, rows, comparisons, {"claims": claims, "table": table})


def _rows(
    collection: Collection, compared: Comparison, models: Mapping[str, StoredAdapter]
) -> Sequence[dict[str, Any]]:
    rows = [vars(row) for row in compared.rows]
    for method, stored in models.items():
        rows += [single_row(SYSTEMS[method], *cost) for cost in training_costs(stored).items()]
    return [{**row, "collection": collection.title} for row in rows]


def _claims(
    collection: Collection,
    compared: Comparison,
    models: Mapping[str, StoredAdapter],
    times: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Each claim with its figure and whether it is met; None: the figure does not show it."""
    training = {method: stored.manifest.training for method, stored in models.items()}
    small, whole = models["lora"].weight_bytes, models["full"].weight_bytes
    measure = compared.measures[0]
    found = []

    def add(claim: str, figure: str, met: bool | None) -> None:
        found.append({"collection": collection.title, "claim": claim, "figure": figure, "met": met})

    for method in ("lora", "qlora"):
        system, own = SYSTEMS[method], training[method]
        share = own["parameters_trained"] / own["parameters"]
        add(f"{system} trains 0.1 to 1% of the parameters", f"{share:.2%}", bool(0.001 <= share <= SMALL_SHARE))
        memory = own["peak_memory_gb"] / training["full"]["peak_memory_gb"]
        add(f"{system} needs less memory than full fine-tuning", f"{memory:.2f} of its peak", bool(memory < 1))
        seconds = own["seconds"] / training["full"]["seconds"]
        add(f"{system} trains faster than full fine-tuning", f"{seconds:.2f} of its time", is_faster(seconds))
    pair = next(pair for pair in compared.comparisons if pair.b == SYSTEMS["full"] and pair.measure == measure)
    add(
        f"LoRA is at most {NEAR} below full fine-tuning in {measure}",
        f"{pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})",
        bool(pair.low > -NEAR),
    )
    many = MANY * whole / (whole + MANY * small)
    add(f"one base and {MANY} adapters are smaller than {MANY} models", f"{many:.1f} times", bool(many > 1))
    for way in (MERGED, UNMERGED):
        for row in (row for row in times if row["a"].endswith(f", {way}") and "qlora" not in row["a"]):
            slower = is_slower(row["low"], row["high"])
            figure = f"ratio {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            if way == MERGED:
                add("merged, it costs no time", figure, None if slower is None else not slower)
            else:
                add("unmerged, it costs time", figure, slower)
    return found


def is_faster(ratio: float) -> bool | None:
    """Whether a single training run took less time than another one; None if the ratio shows neither."""
    low, high = SAME_TRAINING_TIME
    return True if ratio < low else False if ratio > high else None


def is_slower(low: float, high: float) -> bool | None:
    """Whether the interval of a ratio of times is above `SAME_TIME`; None if it is on both sides: neither is shown."""
    return True if low > SAME_TIME else False if high <= SAME_TIME else None


if __name__ == "__main__":
    main()
