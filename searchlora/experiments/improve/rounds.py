"""Rounds of rejection-sampling fine-tuning in the folder of a training run: sample, reward, choose, train, validate.

Each round has a folder of its own. `round.json` is written last, so a round without it is continued where it stopped:
samples are appended row by row, and training resumes from its last checkpoint. The checkpoints of a round are deleted
when the next one is complete.

Sources: rejection-sampling fine-tuning, Yuan et al. (arXiv:2308.01825); best-of-n with the retriever's rank as the
reward, ConvSearch-R1 (arXiv:2505.15776).
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchlora.data.dataset import Dataset
from searchlora.errors import SearchloraError, TrainingError
from searchlora.experiments.improve.candidates import Rewarder, gather, sample
from searchlora.experiments.improve.selection import Candidate, Row, choose, mean
from searchlora.files import atomic_text
from searchlora.models.resolve import BaseModel
from searchlora.outputs import InvalidOutput
from searchlora.progress import Steps
from searchlora.recipe import Recipe
from searchlora.records import Record, drawn
from searchlora.rewards import INVALID, RewardContext
from searchlora.systems.models import EngineSystem
from searchlora.task import COMPLETION, REFERENCE, UNCHANGED, GenerationTask
from searchlora.training.sft import train_adapter

if TYPE_CHECKING:
    from searchlora.inference.local import LocalEngine
    from searchlora.inference.remote.engine import RemoteEngine

ROUND, START, SAMPLES, CANDIDATES = "round.json", "start.json", "samples.jsonl", "candidates.jsonl"


@dataclass(frozen=True)
class Round:
    """A completed round."""

    number: int
    folder: Path
    figures: Mapping[str, Any]  # what `round.json` holds: `candidates`, `winners`, `validation`, `training`, `seconds`

    @property
    def adapter(self) -> Path:
        """The trained adapter, a plain PEFT folder."""
        return self.folder / "training" / str(self.figures["adapter"])

    @property
    def reward(self) -> float:
        """Mean reward of the greedy outputs on the validation rows."""
        return float(self.figures["validation"]["reward"])

    def rows(self) -> list[Row]:
        """The rows of the round with their candidates."""
        return _read_rows(self.folder / CANDIDATES)


@dataclass(frozen=True)
class Rounds:
    """The rounds of one run."""

    task: GenerationTask
    recipe: Recipe
    base: BaseModel
    dataset: Dataset
    engine: LocalEngine | RemoteEngine
    context: RewardContext
    folder: Path
    steps: Steps
    parent: tuple[str, Path] | None = None

    def run(self) -> tuple[list[Round], dict[str, Any]]:
        """Execute the rounds that are not complete."""
        settings = self.recipe.improve
        self.folder.mkdir(parents=True, exist_ok=True)
        start = self._start()
        rounds: list[Round] = []
        highest, without_gain = float(start["reward"]) if self.parent else -float("inf"), 0
        for number in range(1, settings.rounds + 1):
            done = self._round(number, rounds[-1] if rounds else None)
            if rounds:
                shutil.rmtree(rounds[-1].folder / "training" / "checkpoints", ignore_errors=True)
            rounds.append(done)
            without_gain = 0 if done.reward > highest else without_gain + 1
            highest = max(highest, done.reward)
            if without_gain >= settings.patience:
                break
        return rounds, start

    def unload(self) -> None:
        """Free the engine's slot of the last round's adapter. An engine that cannot be asked any more keeps it."""
        with suppress(SearchloraError):
            self.engine.unload(self._candidate)

    @property
    def _candidate(self) -> str:
        """Name of the adapter of the last round in the engine; no other run on the same server has it."""
        return f"candidate-{hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:12]}"

    def _start(self) -> dict[str, Any]:
        """Validation figures of the adapter to improve, and under `fixed` rewards of candidates that need no model."""
        file = self.folder / START
        if (figures := _read_json(file)) is not None:
            return figures
        records = self.validation
        rules = self.task.candidates(records, self.dataset.folder, replace(self.context, searches=()))
        rewarder = Rewarder(self.task, self.context)
        fixed: dict[str, float | None] = {}
        for name in (UNCHANGED, REFERENCE):
            named = [(record, made[name]) for record, made in zip(records, rules, strict=True) if name in made]
            rewards = rewarder.rewards([record for record, _ in named], [text for _, text in named])
            fixed[name] = mean([reward for reward in rewards if reward is not None])
        figures = {**(self._validated(self.parent[0]) if self.parent is not None else {}), "fixed": fixed}
        _write_json(file, figures)
        return figures

    def _round(self, number: int, last: Round | None) -> Round:
        folder = self.folder / f"round-{number:02d}"
        if (figures := _read_json(folder / ROUND)) is not None:
            return Round(number, folder, figures)
        folder.mkdir(exist_ok=True)
        times: dict[str, float] = {}
        adapter = self._sampler(last)
        drawn_rows = self._training_records(number)
        settled = {str(record["id"]): self.task.settled(record) for record in drawn_rows}
        records = [record for record in drawn_rows if settled[str(record["id"])] is None]
        began = time.monotonic()
        samples = self._samples(folder, records, adapter, number, samples_at_all=last is not None)
        times["sampling"], began = time.monotonic() - began, time.monotonic()
        rows = self._rows(folder, records, samples, last)
        times["rewarding"], began = time.monotonic() - began, time.monotonic()
        chosen = choose(rows, self.recipe.improve)
        winners = {row.id: winner.text for row, winner in zip(rows, chosen, strict=True) if winner is not None}
        if not winners:
            raise TrainingError(
                f"no training row has a candidate with a reward above {self.recipe.improve.min_reward:g}",
                where=str(self.dataset.folder),
                fix="Are the training rows judged? Check qrels.txt, or set improve.min_reward.",
            )
        references = self._references(records, rows)
        completions = settled | winners | references
        training = [
            {**record, COMPLETION: text}
            for record in drawn_rows
            if (text := completions[str(record["id"])]) is not None
        ]
        start = self._folder_of(last) if self.recipe.improve.start == "adapter" else None
        result = train_adapter(
            self.task,
            self.recipe,
            self.base,
            training,
            folder / "training",
            resume=(folder / "training").is_dir(),
            start=start,
            progress=self.steps(f"Round {number}: training"),
        )
        times["training"], began = float(result.summary["seconds"]), time.monotonic()
        self.engine.load_folder(self._candidate, result.adapter)
        validation = self._validated(self._candidate, self.steps(f"Round {number}: validation"))
        times["validation"] = time.monotonic() - began
        figures = {
            "round": number,
            "adapter": result.adapter.name,
            "candidates": _candidate_figures(rows),
            "winners": {
                **_winner_figures(rows, chosen, references=len(references)),
                "settled": len(drawn_rows) - len(records),
            },
            "validation": validation,
            "training": result.summary,
            "seconds": {name: round(seconds, 1) for name, seconds in times.items()},
        }
        _write_json(folder / ROUND, figures)
        return Round(number, folder, figures)

    def _references(self, records: Sequence[Record], rows: Sequence[Row]) -> dict[str, str]:
        """Id -> reference of the rows that cannot be rewarded, with `improve.unjudged = reference`."""
        if self.recipe.improve.unjudged == "skip":
            return {}
        return {
            row.id: self.task.target(record)
            for record, row in zip(records, rows, strict=True)
            if self.task.has_target(record) and not row.is_rewarded
        }

    def _sampler(self, last: Round | None) -> str | None:
        """The engine's name of the adapter that samples."""
        if last is None:
            return self.parent[0] if self.parent else None
        self.engine.load_folder(self._candidate, last.adapter)
        return self._candidate

    def _folder_of(self, last: Round | None) -> Path | None:
        if last is not None:
            return last.adapter
        return self.parent[1] if self.parent else None

    def _training_records(self, number: int) -> list[Record]:
        """The rows of a round in a random order; with a limit, other rows in each round."""
        records = self.dataset.records("train")
        random.Random(f"{self.recipe.seed}/rows").shuffle(records)
        limit = self.recipe.improve.rows
        if limit is None or limit >= len(records):
            return records
        start = (number - 1) * limit % len(records)
        return (records + records)[start : start + limit]

    def _samples(
        self, folder: Path, records: Sequence[Record], adapter: str | None, number: int, *, samples_at_all: bool
    ) -> list[list[tuple[str, str]]]:
        settings = self.recipe.improve
        if not settings.samples or not (samples_at_all or adapter is not None or settings.sample_base):
            return []
        file, salt = folder / SAMPLES, f"{self.recipe.seed}/{number}"
        progress = self.steps(f"Round {number}: sampling")
        return sample(self.engine, self.task, records, adapter, self.recipe, salt, file, progress)

    def _rows(
        self, folder: Path, records: Sequence[Record], samples: list[list[tuple[str, str]]], last: Round | None
    ) -> list[Row]:
        file = folder / CANDIDATES
        if file.is_file():
            return _read_rows(file)
        rewarder = Rewarder(self.task, self.context)
        for row in last.rows() if last is not None else ():
            rewarder.remember(row)
        shown = self.context if self.recipe.improve.titles else replace(self.context, documents={})
        rules = self.task.candidates(records, self.dataset.folder, shown)
        progress = self.steps("Rewarding candidates")
        rows = list(gather(self.task, records, rules, samples, rewarder, progress))
        with atomic_text(file) as out:
            out.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
        return rows

    @cached_property
    def validation(self) -> list[Record]:
        """The validation rows that are answered. Raises `TrainingError` if there are none."""
        records = self.dataset.records("validation")
        if not records:
            raise TrainingError(
                "there are no validation rows to choose a round by",
                where=str(self.dataset.folder),
                fix="Build the dataset with a share for validation.",
            )
        return drawn(records, self.recipe.improve.validation_rows, self.recipe.seed)

    def _validated(self, adapter: str, progress: Any = None) -> dict[str, Any]:
        """Reward, validity, length and share of unchanged inputs of greedy outputs on the validation rows."""
        progress = progress or self.steps("Validation")
        records = self.validation
        system = EngineSystem(adapter, self.task, self.engine, adapter, max_new_tokens=self.recipe.max_new_tokens)
        outputs = system.run(records, progress).outputs
        rewards = [reward for reward in self.task.reward(records, outputs, self.context) if reward is not None]
        if not rewards:
            raise TrainingError("no validation row can be rewarded", where=str(self.dataset.folder))
        texts = [output for output in outputs if isinstance(output, str)]
        invalid = sum(isinstance(output, InvalidOutput) for output in outputs)
        unchanged = [
            output == str(self.task.query(record)).strip()
            for record, output in zip(records, outputs, strict=True)
            if isinstance(output, str)
        ]
        return {
            "reward": mean(rewards),
            "rows": len(rewards),
            "invalid": invalid / len(outputs),
            "characters": mean([float(len(text)) for text in texts]),
            "unchanged": mean([float(same) for same in unchanged]),
        }


def _candidate_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean rewards of the samples, of the best sample and of the fixed candidates; validity and length of samples."""
    rewarded = [[sample for sample in row.candidates if sample.reward is not None] for row in rows]
    by_row = [[sample for sample in candidates if sample.kind == "sample"] for candidates in rewarded]
    samples = [sample for of_row in by_row for sample in of_row]
    fixed = {
        name: mean([fixed.reward or 0.0 for candidates in rewarded for fixed in candidates if fixed.name == name])
        for name in (UNCHANGED, REFERENCE)
    }
    sampled = sum(row.sampled for row in rows)
    return {
        "rows": len(rows),
        "candidates": sum(len(row.candidates) for row in rows),
        "rewards": {
            **fixed,
            "samples": _mean_reward(samples),
            "best sample": mean([max(sample.reward or 0.0 for sample in of_row) for of_row in by_row if of_row]),
        },
        "valid": sum(row.valid_samples for row in rows) / sampled if sampled else None,
        "characters": _mean_length(samples),
    }


def _winner_figures(rows: Sequence[Row], chosen: Sequence[Candidate | None], references: int) -> dict[str, Any]:
    """What became of the rows with candidates; `references`: number of those that are trained on their reference."""
    winners = [winner for winner in chosen if winner is not None]
    rewards = [[candidate.reward for candidate in row.candidates] for row in rows]
    return {
        "rows": len(winners),
        "references": references,
        "skipped": len(rows) - len(winners) - references,
        "skipped: not judged": sum(not row.is_rewarded for row in rows) - references,
        "skipped: all invalid": sum(
            all(reward is not None and reward <= INVALID for reward in of_row) for of_row in rewards
        ),
        "reward": _mean_reward(winners),
        "characters": _mean_length(winners),
        "unchanged": mean([float(winner.name == UNCHANGED) for winner in winners]),
        "kinds": dict(Counter(winner.kind for winner in winners).most_common()),
    }


def _mean_reward(candidates: Sequence[Candidate]) -> float | None:
    return mean([candidate.reward or 0.0 for candidate in candidates])


def _mean_length(candidates: Sequence[Candidate]) -> float | None:
    return mean([float(len(candidate.text)) for candidate in candidates])


def _read_rows(file: Path) -> list[Row]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        Row(**{**row, "candidates": tuple(Candidate(**candidate) for candidate in row["candidates"])}) for row in rows
    ]


def _read_json(file: Path) -> dict[str, Any] | None:
    """The content of a file; None if there is none."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    with atomic_text(file) as out:
        out.write(json.dumps(values, indent=1) + "\n")
