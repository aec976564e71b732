"""Sampling, gathering and rewarding the candidates of a round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from searchlora.eval.text_identity import fingerprint
from searchlora.experiments.improve.selection import Candidate, Row
from searchlora.files.append_log import AppendLog
from searchlora.files.result_cache import cache_key
from searchlora.inference.engine import Request
from searchlora.inference.sampling import Sampling
from searchlora.outputs import InvalidOutput
from searchlora.progress import Progress, silent
from searchlora.prompts import messages
from searchlora.recipe import Recipe
from searchlora.records import Record
from searchlora.rewards import RewardContext
from searchlora.task import GenerationTask

if TYPE_CHECKING:
    from searchlora.inference.local import LocalEngine
    from searchlora.inference.remote.engine import RemoteEngine

#: Answers that are queued together, at least, and records whose candidates are rewarded or answered together.
_QUEUED, _BATCH = 512, 128


@dataclass
class Rewarder:
    """Rewards completions of records; a pair of record and text is rewarded once."""

    task: GenerationTask
    context: RewardContext
    _known: dict[tuple[str, str], float | None] = field(default_factory=dict)

    def remember(self, row: Row) -> None:
        """Take over the rewards of a row that an earlier process computed."""
        for candidate in row.candidates:
            self._known[row.id, candidate.text] = candidate.reward

    def rewards(self, records: Sequence[Record], texts: Sequence[str]) -> list[float | None]:
        """One reward per record and text; see `GenerationTask.reward`."""
        keys = [(str(record["id"]), text) for record, text in zip(records, texts, strict=True)]
        new = {key: record for key, record in zip(keys, records, strict=True) if key not in self._known}
        outputs = [self.task.parse(text, record) for (_, text), record in new.items()]
        if new:  # no measure is defined over no rows
            self._known.update(zip(new, self.task.reward(list(new.values()), outputs, self.context), strict=True))
        return [self._known[key] for key in keys]


def sample(
    engine: LocalEngine | RemoteEngine,
    task: GenerationTask,
    records: Sequence[Record],
    adapter: str | None,
    recipe: Recipe,
    salt: str,
    file: Path,
    progress: Progress = silent,
) -> list[list[tuple[str, str]]]:
    """The sampled completions of each record, a text and how it ended. A log holds those of an interrupted call.

    The answers to a record share one prefill, and their random numbers depend on the record and the salt only.
    """
    settings = recipe.improve
    size = max(1, max(_QUEUED, engine.call_size) // settings.samples)
    with AppendLog(file, {"records": cache_key([record["id"] for record in records])}) as log:
        samples = {name: texts for batch in log for name, texts in batch.items()}
        waiting = [record for record in records if record["id"] not in samples]
        for start in range(0, len(waiting), size):
            asked = waiting[start : start + size]
            requests = []
            for record in asked:
                seed = fingerprint(f"{salt}/{record['id']}") % 2**31
                sampling = Sampling(settings.temperature, top_p=settings.top_p, seed=seed)
                grammar = task.output(record).grammar
                requests.append(
                    Request(messages(task, record), adapter, recipe.max_new_tokens, grammar, sampling=sampling)
                )
            answers = zip(asked, engine.generate_answers(requests, settings.samples), strict=True)
            batch = {record["id"]: [[answer.text, answer.finish] for answer in texts] for record, texts in answers}
            log.append(batch)
            samples |= batch
            progress(len(samples), len(records))
    return [[(text, finish) for text, finish in samples[record["id"]]] for record in records]


def gather(
    task: GenerationTask,
    records: Sequence[Record],
    rules: Sequence[Mapping[str, str]],
    samples: Sequence[Sequence[tuple[str, str]]],
    rewarder: Rewarder,
    progress: Progress = silent,
) -> Iterator[Row]:
    """The rows of a round, with a reward for each candidate."""
    sampled = samples or [()] * len(records)
    for start in range(0, len(records), _BATCH):
        part = slice(start, start + _BATCH)
        named = [
            _named(task, record, of_rules, of_record)
            for record, of_rules, of_record in zip(records[part], rules[part], sampled[part], strict=True)
        ]
        flat = [(record, text) for record, texts in zip(records[part], named, strict=True) for text in texts]
        rewards = iter(rewarder.rewards([record for record, _ in flat], [text for _, text in flat]))
        for record, texts, answers in zip(records[part], named, sampled[part], strict=True):
            candidates = tuple(
                Candidate(
                    name,
                    text,
                    next(rewards),
                    not isinstance(task.parse(text, record), InvalidOutput),
                    task.keeps_protected(record, text),
                )
                for text, name in texts.items()
            )
            valid = sum(_is_valid(task, record, text, finish) for text, finish in answers)
            yield Row(str(record["id"]), candidates, len(answers), valid)
        progress(min(start + _BATCH, len(records)), len(records))


def _named(
    task: GenerationTask, record: Record, rules: Mapping[str, str], answers: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """Text -> name, each text once; rules keep their names before samples."""
    texts: dict[str, str] = {}
    for name, text in rules.items():
        texts.setdefault(text, name)
    for number, (text, finish) in enumerate(answers, 1):
        if not _is_valid(task, record, text, finish):
            continue
        stripped = text.strip()
        texts.setdefault(stripped, f"sample: {number}")
        for name, variant in task.variants(record, stripped).items():
            texts.setdefault(variant, f"{name}: {number}")
    return texts


def _is_valid(task: GenerationTask, record: Record, text: str, finish: str) -> bool:
    return finish == "stop" and not isinstance(task.parse(text.strip(), record), InvalidOutput)
