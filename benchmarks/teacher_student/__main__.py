"""Intents of BANKING77 from 5, 10, 50 and all labels of people a class, and from 10 with the labels of a teacher.

    python -m benchmarks.teacher_student                                              labels of people only
    python -m benchmarks.teacher_student --teacher FOLDER/qwen2.5-coder-0.5b-instruct-q8_0.gguf     the teacher, too
    python -m benchmarks.teacher_student --only "10"                                  one set of labels, anew

Three systems learn from each set of labels: an adapter of SmolLM2-135M, logistic regression over a frozen encoder, and
the same over the encoder with an adapter. The teacher is an adapter of a larger base that learns from the 10 labels a
class; `data label` lets it label further training rows, which are chosen to be diverse. One student learns all of these
labels, another those with a probability of at least 0.9. All are tested on 1,000 of the 3,080 official test rows, drawn
at random. The 280 validation rows fit the temperature of probabilities only.

Adapters, labels and outputs in `benchmarks/work/teacher_student` are reused, and a killed run is resumed. All sets take
hours on two cores, so each is written to the results file as soon as it is tested, with the rows that were answered
rightly; a set that is there is not trained again, on this machine or another, unless `--only` asks for it.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.bases.__main__ import JOBS
from benchmarks.common import WORK, native_dataset, parser, rate_of, read_results, save, training_figures, write_rows
from benchmarks.embedding_squad.__main__ import HERE as EMBEDDING
from benchmarks.encoders import trained_encoder
from benchmarks.judges import answers_of
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter
from searchlora.cli.terminal import print_comparison, progress_bars
from searchlora.data.dataset import Dataset
from searchlora.eval.comparison import Comparison, PairedComparison, compare
from searchlora.eval.evaluation import Evaluation
from searchlora.eval.formatting import markdown_table
from searchlora.eval.significance import correct
from searchlora.experiments.label import label
from searchlora.experiments.options import DEFAULT_ENCODER, TrainingOptions
from searchlora.experiments.row_sample import RowSample
from searchlora.experiments.train import train
from searchlora.files import read_rows, strict
from searchlora.progress import Steps
from searchlora.records import Record
from searchlora.systems.encoder_baseline import FrozenEncoder
from searchlora.task import EvaluationInput
from searchlora.tasks.intent.baselines import LogisticRegressionBaseline

NAME, MEASURE = "teacher_student", "accuracy"
FOLDER = WORK / NAME
COST = FOLDER / "taught.cost.json"
JOB, ENCODER_RECIPE = JOBS["banking77"], EMBEDDING / "classes.yaml"

#: Labels of people a class -> epochs, so that few labels are seen often enough. None: all labels.
EPOCHS: Mapping[int | None, int] = {5: 8, 10: 6, 50: 3, None: 2}

#: Likewise for the adapter of the encoder: 180 to 300 steps of 64 rows for each set of labels.
LABELS, ENCODER_EPOCHS = 77, {5: 32, 10: 24, 21: 9, 35: 5, 50: 3}

#: Labels a class from which the teacher learns, rows that it labels, and the student's epochs over both.
FEW, TAUGHT, TAUGHT_EPOCHS = 10, 2000, 3

#: Probability from which a label of the teacher is sure, and the student's epochs over the labels of people and these.
SURE, SURE_EPOCHS = 0.9, 4

ADAPTER, FROZEN, ENCODER = (
    "adapter",
    "frozen encoder + logistic regression",
    "encoder with an adapter + logistic regression",
)
SEED, TESTED = 13, 1000

#: The sets with labels of the teacher, as tables show them; all sets in the order of tables.
BY_TEACHER, BY_SURE_TEACHER = f"{FEW} + teacher", f"{FEW} + sure teacher"
OF_PEOPLE = {count: "all" if count is None else str(count) for count in EPOCHS}
TITLES = (*OF_PEOPLE.values(), BY_TEACHER, BY_SURE_TEACHER)

#: Names of the sets with labels of the teacher in `--only`.
TAUGHT_SETS = ("taught", "sure")

#: Keys of the results file: the rows that each system answers rightly, a digit per row; what the teacher's labels are.
RIGHT, OF_TEACHER = "right", "labels of the teacher"


@dataclass(frozen=True)
class Labels:
    """A set of labelled rows.

    Attributes:
        title: As tables show it.
        training: The labelled rows.
        epochs: Of the LLM adapter.
    """

    title: str
    training: Sequence[Record]
    epochs: int

    @property
    def name(self) -> str:
        return self.title.replace(" ", "-").replace("+", "and")


def main() -> None:
    arguments = parser(NAME)
    arguments.add_argument("--teacher", metavar="PATH", help="weights of the teacher's base")
    arguments.add_argument("--only", choices=[*OF_PEOPLE.values(), *TAUGHT_SETS], help="one set of labels")
    options = arguments.parse_args()
    if options.only in TAUGHT_SETS and options.teacher is None:
        arguments.error(f"--only {options.only} needs --teacher")
    (FOLDER / "data").mkdir(parents=True, exist_ok=True)
    (part,) = JOB.parts(FOLDER / "data")
    store, tested = Store(FOLDER / "store"), _tested(part.training)
    saved = read_results(NAME)
    right: dict[str, dict[str, str]] = saved.get(RIGHT, {})
    trained: dict[str, Any] = saved.get("training", {})
    of_teacher: dict[str, Any] = saved.get(OF_TEACHER, {})
    with progress_bars() as steps:
        for labels in _sets(part.training, store, options.teacher, options.only, right, steps):
            stored, right[labels.title] = _answered(labels, part.training, tested, store, steps)
            trained[labels.title] = {"rows": len(labels.training), **training_figures(stored)}
            of_teacher = of_teacher or _of_teacher(part.training)
            _save(right, tested, trained, of_teacher)
    print_comparison(_save(right, tested, trained, of_teacher))


def people(rows: Sequence[Record], count: int | None) -> list[Record]:
    """A number of rows per label, at random; those of a smaller number are among those of a larger one."""
    if count is None:
        return list(rows)
    by_label: dict[str, list[Record]] = {}
    for row in sorted(rows, key=lambda row: random.Random(f"{SEED} {row['id']}").random()):
        by_label.setdefault(str(row["label"]), []).append(row)
    return [row for of_label in by_label.values() for row in of_label[:count]]


def _sets(
    dataset: Dataset, store: Store, teacher: str | None, only: str | None, done: Collection[str], steps: Steps
) -> Iterator[Labels]:
    """The sets of labels that are asked for: the one of `--only`, else those that are not done."""

    def is_asked(name: str, title: str) -> bool:
        return title not in done if only is None else name == only

    rows = dataset.records("train")
    for count, epochs in EPOCHS.items():
        title = OF_PEOPLE[count]
        if is_asked(title, title):
            yield Labels(title, people(rows, count), epochs)
    few = people(rows, FEW)
    if teacher is not None and is_asked("taught", BY_TEACHER):
        yield Labels(BY_TEACHER, [*few, *_taught(rows, few, dataset, store, teacher, steps)], TAUGHT_EPOCHS)
    if teacher is not None and is_asked("sure", BY_SURE_TEACHER):
        sure = _sure(_taught(rows, few, dataset, store, teacher, steps))
        yield Labels(BY_SURE_TEACHER, [*few, *sure], SURE_EPOCHS)


def _taught(
    rows: Sequence[Record], few: Sequence[Record], dataset: Dataset, store: Store, path: str, steps: Steps
) -> list[Record]:
    """Further rows with the labels of the teacher, in place of those of people."""
    out = FOLDER / "taught.jsonl"
    if not out.is_file():
        chosen = {row["id"] for row in few}
        unlabelled = FOLDER / "unlabelled.jsonl"
        write_rows(
            unlabelled, [{key: row[key] for key in ("id", "group", "query")} for row in rows if row["id"] not in chosen]
        )
        data, rate = _dataset(Labels(str(FEW), few, 0), dataset), rate_of(path, JOB.task, JOB.recipe)
        adapter = _train("teacher", data, store, EPOCHS[FEW], steps, path, rate)
        sample, started = RowSample("diverse", TAUGHT), time.monotonic()
        done = label("intent", unlabelled, out, adapter=adapter.reference, sample=sample, store=store)
        assert done is not None  # all shards in one process
        labelling = {"tokens": done.prompt_tokens + done.output_tokens, "seconds": round(time.monotonic() - started, 1)}
        COST.write_text(json.dumps({"training": training_figures(adapter), "labelling": labelling}), encoding="utf-8")
    return [row.data for row in strict(read_rows(out))]


def _sure(taught: Sequence[Record]) -> list[Record]:
    """The rows of which the teacher is sure."""
    answers = (row.data for row in strict(read_rows(FOLDER / "taught.jsonl.answers.jsonl")))
    probabilities = {row["id"]: max(row["output"]["label"]["probabilities"]) for row in answers}
    return [row for row in taught if probabilities[row["id"]] >= SURE]


def _of_teacher(dataset: Dataset) -> dict[str, Any]:
    """How often the labels of the teacher are those of people, and how often the encoder's would be."""
    out = FOLDER / "taught.jsonl"
    if not out.is_file():
        return {}
    rows = dataset.records("train")
    by_people = {row["id"]: row["label"] for row in rows}
    taught = [row.data for row in strict(read_rows(out))]
    right = {row["id"]: row["label"] == by_people[row["id"]] for row in taught}
    sure = _sure(taught)
    encode = FrozenEncoder(DEFAULT_ENCODER).encode
    head = LogisticRegressionBaseline(dataset.settings or {})
    head.fit(people(rows, FEW), dataset.records("validation"), encode)
    by_encoder = [label.value for label in head.predict(taught, encode)]
    right_encoder = sum(label == by_people[row["id"]] for label, row in zip(by_encoder, taught, strict=True))
    shares = {
        "teacher": sum(right.values()) / len(taught),
        f"teacher, from a probability of {SURE:g}": sum(right[row["id"]] for row in sure) / len(sure),
        FROZEN: right_encoder / len(taught),
    }
    cost = json.loads(COST.read_text(encoding="utf-8"))
    return {"rows": len(taught), "sure rows": len(sure), "right": shares, "cost": cost}


def _dataset(labels: Labels, dataset: Dataset) -> Dataset:
    """The labelled rows for training, with the validation and test rows of the dataset."""
    file = FOLDER / "labels.txt"
    file.write_text("".join(f"{name}\n" for name in dataset.settings["labels"]), encoding="utf-8")
    rows = [
        {"id": row["id"], "group": row["group"], "query": row["query"], "label": row["label"], "split": split}
        for split, of_split in (
            ("train", labels.training),
            ("validation", dataset.records("validation")),
            ("test", dataset.records("test")),
        )
        for row in of_split
    ]
    return native_dataset(FOLDER / "data" / f"labels-{labels.name}", "intent", rows, options={"labels": str(file)})


def _train(
    name: str,
    dataset: Dataset,
    store: Store,
    epochs: int,
    steps: Steps,
    base: str | None = None,
    overrides: Sequence[str] = (),
) -> StoredAdapter:
    options = TrainingOptions((f"optim.epochs={epochs}", *overrides), base, JOB.recipe, reuse=True)
    return train("intent", dataset.folder, name, options, store=store, steps=steps, log=print)


def _tested(dataset: Dataset) -> list[Record]:
    return random.Random(SEED).sample(dataset.records("test"), TESTED)


def _answered(
    labels: Labels, dataset: Dataset, tested: Sequence[Record], store: Store, steps: Steps
) -> tuple[StoredAdapter, dict[str, str]]:
    """The LLM adapter, and which test rows each of the three systems answers rightly: system -> a digit per row."""
    own = _dataset(labels, dataset)
    stored = _train(f"intent-{labels.name}", own, store, labels.epochs, steps)
    task, outputs = answers_of(stored.reference, store, tested, "label", FOLDER / "answers" / labels.name, steps)
    passes = (f"optim.epochs={ENCODER_EPOCHS.get(len(labels.training) // LABELS, 2)}",)
    encoded = trained_encoder(f"encoder-{labels.name}", _vectors(labels, own), store, ENCODER_RECIPE, passes)
    encoders = {
        FROZEN: FrozenEncoder(DEFAULT_ENCODER).encode_once,
        ENCODER: FrozenEncoder(encoded.manifest.base.name, encoded).encode_once,
    }
    found: dict[str, Sequence[Any]] = {ADAPTER: outputs}
    for system, encode in encoders.items():
        head = LogisticRegressionBaseline(own.settings)
        head.fit(own.records("train"), own.records("validation"), encode)
        found[system] = head.predict(tested, encode)
    right = {}
    for system, of_system in found.items():
        values = task.evaluate(EvaluationInput(tested, of_system)).values[MEASURE]
        right[system] = "".join(f"{values[row['id']]:.0f}" for row in tested)
    return stored, right


def compared(right: Mapping[str, Mapping[str, str]], tested: Sequence[Record]) -> Comparison:
    """All sets that are done; the LLM adapter of each against the other systems of its set, and a student's also
    against the one that learned from the labels of people alone."""
    clusters = {row["id"]: row["group"] for row in tested}
    titles = [title for title in TITLES if title in right]
    evaluations = {
        f"{system}, {title}": Evaluation(
            MEASURE, {MEASURE: dict(zip(clusters, map(float, digits), strict=True))}, clusters
        )
        for title in titles
        for system, digits in right[title].items()
    }
    pairs: list[PairedComparison] = []
    for title in titles:
        of_set = {f"{system}, {title}" for system in right[title]}
        if title in (BY_TEACHER, BY_SURE_TEACHER):
            of_set.add(f"{ADAPTER}, {FEW}")
        systems = {name: evaluation for name, evaluation in evaluations.items() if name in of_set}
        pairs += compare(systems, candidate=f"{ADAPTER}, {title}").comparisons
    corrected = correct([pair.p for pair in pairs])
    tried = [replace(pair, p_corrected=p) for pair, p in zip(pairs, corrected, strict=True)]
    return replace(compare(evaluations, candidate=f"{ADAPTER}, {titles[-1]}"), comparisons=tuple(tried))


def _save(
    right: Mapping[str, Mapping[str, str]],
    tested: Sequence[Record],
    trained: Mapping[str, Any],
    of_teacher: Mapping[str, Any],
) -> Comparison:
    comparison = compared(right, tested)
    more = {"training": trained, OF_TEACHER: of_teacher, RIGHT: right, "further table": costs(trained, of_teacher)}
    save(NAME, comparison, more)
    return comparison


def costs(trained: Mapping[str, Any], of_teacher: Mapping[str, Any]) -> str:
    """What each set of labels costs: labels of people, and minutes of this machine."""
    rows = []
    for title in (title for title in TITLES if title in trained):
        own, by_teacher, of_it = trained[title], 0, ["–"] * 3
        if title in (BY_TEACHER, BY_SURE_TEACHER):
            by_teacher = of_teacher["rows" if title == BY_TEACHER else "sure rows"]
            cost = of_teacher["cost"]
            labelling = cost["labelling"]
            of_it = [_minutes(cost["training"]), f"{labelling['tokens']:,}", _minutes(labelling)]
        rows.append([title, f"{own['rows'] - by_teacher:,}", f"{by_teacher:,}", *of_it, _minutes(own)])
    columns = ["labels a class", "of people", "of the teacher", "training of the teacher, min", "its tokens"]
    return markdown_table([*columns, "its labelling, min", "training of the adapter, min"], rows)


def _minutes(timed: Mapping[str, Any]) -> str:
    return f"{timed['seconds'] / 60:.1f}"


def _vectors(labels: Labels, own: Dataset) -> Path:
    """The dataset of the encoder: texts with the same labels."""
    splits = ("train", "validation", "test")
    rows = [{**row, "split": split} for split in splits for row in own.records(split)]
    return native_dataset(FOLDER / "data" / f"vectors-{labels.name}", "embedding", rows).folder


if __name__ == "__main__":
    main()
