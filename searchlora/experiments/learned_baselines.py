"""Baselines of an evaluation: what they learn from, whether that is enough, and that no evaluated row is among it.

A baseline that learned from a handful of rows is beaten by anything. On Chorus, a BM25 score cut into grades has a
kappa of .31 once it has seen 68 queries, between .19 and .31 with 50, and between 0 and .31 with one to seven, whatever
the number of rows; TF-IDF with logistic regression on BANKING77 has an accuracy of .26 with one row for each label,
.67 with ten and .85 with fifty. Hence the three numbers below.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchlora.adapters.store import Store
from searchlora.data.dataset import Dataset
from searchlora.data.mixture import leak_keys
from searchlora.errors import BaseModelError, MissingExtra, UsageError
from searchlora.experiments.options import DEFAULT_ENCODER
from searchlora.experiments.training_runs import dataset_for
from searchlora.extras import require
from searchlora.files import atomic_text, numbered_lines, parse_json
from searchlora.records import Record
from searchlora.systems.encoder_baseline import EncoderBaselineSystem, FrozenEncoder, system_name
from searchlora.systems.system import System
from searchlora.task import EncoderTask, GenerationTask, Task

#: Least training rows of a learned baseline, groups of these rows, and rows for each class of the evaluated rows.
MIN_ROWS, MIN_GROUPS, MIN_ROWS_OF_CLASS = 100, 50, 10

#: Stands for the learned baselines of a task that does not name them.
ANY = "learned baselines"

_LEARNED_FROM = ("train", "validation")


@dataclass(frozen=True)
class LearnedBaselines:
    """The baselines of an evaluation."""

    outputs: Mapping[str, Sequence[Any]]  # baseline -> one output per record
    too_few: Mapping[str, str]
    training: Sequence[Record]
    validation: Sequence[Record] = ()
    why_too_few: str = ""  # why these rows are too few for a baseline to be worth comparing; empty if they are enough
    other: Dataset | None = None
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which baselines learned from too few rows, and what to do."""
        names_by_reason: dict[str, list[str]] = {}
        for name, why in self.too_few.items():
            names_by_reason.setdefault(why, []).append(name)
        return tuple(
            f"Differences from {' and '.join(names)} say little: {why}. {FIX}" for why, names in names_by_reason.items()
        )


def learn_baselines(
    task: Task, dataset: Dataset, records: Sequence[Record], split: str, baseline_data: str | Path | None = None
) -> LearnedBaselines:
    """The outputs of a task's baselines, which learn from the training split of the dataset or of another one.

    Training and validation rows with the input or the group of an evaluated record are left out.
    """
    learned = task.learned_baselines(records)
    if not _needs_rows(task, records, learned):
        if baseline_data is not None:
            raise UsageError(
                f"no baseline of the task '{task.name}' learns from training rows",
                where="--baseline-data",
                fix="Leave it out.",
            )
        return LearnedBaselines(task.baselines(records, dataset.folder), {}, ())
    source = dataset
    if baseline_data is not None:
        source = dataset_for(task, baseline_data)
        task.check_dataset(source.settings or task.default_settings)
    # The builder keeps the test split of a dataset apart from its other splits.
    apart = source is dataset and split == "test"
    evaluated = set[tuple[str, int]]() if apart else {key for record in records for key in leak_keys(task, record)}
    with _without(task, source, evaluated) as (folder, left_out):
        training, validation = (Dataset(folder, source.card).records(part) for part in _LEARNED_FROM)
        outputs = task.baselines(records, folder) if training or learned is not None else {}
    names = learned if learned is not None else frozenset(outputs) or frozenset({ANY})
    classes = {found for record in records if (found := task.baseline_class(record)) is not None}
    if training and len(classes) < 2:
        names = names.intersection(outputs)  # a baseline that tells classes apart is not needed
    why = _too_few(task, training, classes)
    unlearned = f"it could not be learned from the {_counted(len(training), 'training row')}"
    too_few = {name: why or unlearned for name in sorted(names) if why or name not in outputs}
    other = source if source is not dataset else None
    notes = tuple(_notes(len(training), other, left_out))
    return LearnedBaselines(outputs, too_few, training, validation, why, other, notes)


@dataclass(frozen=True)
class EncoderBaselines:
    """The baselines of a task over a frozen encoder."""

    systems: Sequence[System] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)  # name -> why it is not compared
    note: str | None = None  # why there is none, if the encoder is missing


def encoder_baselines(
    task: GenerationTask, records: Sequence[Record], learned: LearnedBaselines, encoder: str | None, store: Store
) -> EncoderBaselines:
    """The baselines of a task over a frozen encoder, where there are enough training rows."""
    baselines = task.encoder_baselines()
    if not baselines:
        return EncoderBaselines()
    if encoder is None:
        why = "--baseline-encoder none leaves it out"
        return EncoderBaselines(left_out={system_name(DEFAULT_ENCODER, baseline): why for baseline in baselines})
    if why := learned.why_too_few:
        return EncoderBaselines(left_out={system_name(encoder, baseline): why for baseline in baselines})
    try:
        require("sentence_transformers")
        frozen = FrozenEncoder(encoder)
    except (BaseModelError, MissingExtra) as error:
        if encoder != DEFAULT_ENCODER:
            raise
        names = [system_name(encoder, baseline) for baseline in baselines]
        note = f"Without {' and '.join(names)}, which a team would use in place of an adapter: {error}"
        return EncoderBaselines(left_out=dict.fromkeys(names, error.what), note=note)
    rows = (records, learned.training, learned.validation)
    return EncoderBaselines([EncoderBaselineSystem(one, frozen, task, *rows, store) for one in baselines])


def _needs_rows(task: Task, records: Sequence[Record], learned: frozenset[str] | None) -> bool:
    """Whether a baseline, or the classifier that predicts the classes of vectors, learns from training rows."""
    labelled = isinstance(task, EncoderTask) and any(task.label(record) is not None for record in records[:1])
    return labelled or learned is None or bool(learned)


def _too_few(task: Task, training: Sequence[Record], classes: Collection[str]) -> str:
    """Why the training rows are too few to learn these classes of the evaluated rows; empty if they are enough."""
    if not training:
        return "there is no training row to learn from"
    counts = Counter(found for record in training if (found := task.baseline_class(record)) is not None)
    rows, groups = len(training), len({str(record["group"]) for record in training})
    of_classes = MIN_ROWS_OF_CLASS * len(classes)
    enough = rows >= MIN_ROWS and groups >= MIN_GROUPS and sum(counts[name] for name in classes) >= of_classes
    second = counts.most_common(2)[1][1] if len(counts) > 1 else 0
    if enough and (len(classes) < 2 or second >= MIN_ROWS_OF_CLASS):
        return ""
    wanted = f"{max(MIN_ROWS, of_classes)} rows in {MIN_GROUPS} groups"
    wanted += f", and {MIN_ROWS_OF_CLASS} of a second class" if len(classes) > 1 else ""
    return f"learned from {_counted(rows, 'row')} in {_counted(groups, 'group')}, at least {wanted} are needed"


def _notes(rows: int, other: Dataset | None, left_out: int) -> Iterator[str]:
    if other is not None:
        yield (
            f"Baselines learned from {_counted(rows, 'training row')} of {other.card.source['name']} "
            f"({other.card.format}, sha256 {other.fingerprint}), not from the evaluated dataset."
        )
    if left_out:
        yield (
            f"{_counted(left_out, 'row')} with the input or the group of an evaluated record "
            f"{'was' if left_out == 1 else 'were'} left out of what the baselines learned from."
        )


#: What to do about a baseline that learned from too few rows.
FIX = "`evaluate` and `promote` take a dataset with more training rows as --baseline-data FOLDER."


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@contextmanager
def _without(task: Task, dataset: Dataset, keys: Collection[tuple[str, int]]) -> Iterator[tuple[Path, int]]:
    """A dataset folder without the training and validation rows that have one of these keys, and their number."""
    dropped = {split: _rows_with(task, dataset, split, keys) if keys else set() for split in _LEARNED_FROM}
    if not any(dropped.values()):
        yield dataset.folder, 0
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for file in dataset.folder.iterdir():
            if file.is_file() and file.name not in {f"{split}.jsonl" for split in _LEARNED_FROM}:
                _linked(file, folder / file.name)
        for split, rows in dropped.items():
            with atomic_text(folder / f"{split}.jsonl") as out:
                for number, line in numbered_lines(dataset.folder / f"{split}.jsonl"):
                    if number not in rows:
                        out.write(f"{line.rstrip()}\n")
        yield folder, sum(map(len, dropped.values()))


def _rows_with(task: Task, dataset: Dataset, split: str, keys: Collection[tuple[str, int]]) -> set[int]:
    """The line numbers of the rows of a split that have one of these keys."""
    lines = numbered_lines(dataset.folder / f"{split}.jsonl")
    return {number for number, line in lines if not leak_keys(task, parse_json(line)).isdisjoint(keys)}


def _linked(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file.resolve())
    except OSError:  # Windows without the privilege to make links
        shutil.copyfile(file, link)
