"""The verb `judge`: qrels from an LLM judge, marked as such."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from searchlora.adapters.golden import prompt_hash
from searchlora.adapters.store import Store
from searchlora.errors import DataError
from searchlora.eval.judge.labels import write_probabilities
from searchlora.eval.judgments.card import JudgmentsCard, check_new, invalid_path, write_judgments
from searchlora.eval.judgments.lineage import RunLineage, doubts, read_lineage, refuse_circular
from searchlora.experiments.judge.grade_log import graded
from searchlora.experiments.judge.llm_judge import Judge, load_judge
from searchlora.experiments.judge.pairs import QueryPassage, wanted_pairs, with_texts
from searchlora.files import atomic_text, file_sha256
from searchlora.outputs import Grade, InvalidOutput
from searchlora.progress import Steps, unwatched
from searchlora.records import SearchContext

Pair = tuple[str, str]


@dataclass(frozen=True)
class Judged:
    """What came out.

    Attributes:
        card: As it lies beside the qrels.
        grades: Grade -> how many pairs got it.
        invalid: How many answers were no grade; they are in `<out>.invalid.jsonl` and not in the qrels.
        circular: System -> why figures from these qrels would be circular; only where that was allowed.
        doubts: What could not be looked into.
    """

    card: JudgmentsCard
    grades: Mapping[int, int]
    invalid: int
    circular: Mapping[str, str]
    doubts: tuple[str, ...]


def judge(
    topics: str | Path,
    corpus: str | Path,
    out: str | Path,
    *,
    adapter: str | None = None,
    base: str | None = None,
    task: str | None = None,
    runs: Sequence[str | Path] = (),
    depth: int = 10,
    pairs: str | Path | None = None,
    generate: bool = False,
    allow_circular: bool = False,
    settings: str | Path | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = unwatched,
) -> Judged:
    """Grade the pool of some runs, or given pairs, and write qrels, their card, and the probabilities of the grades.

    By default every label of the task's scale is scored and the likeliest is the grade, so no answer can be invalid.
    A killed run goes on where it was when it is started again; `<out>.partial` holds the grades given so far.

    Args:
        topics: The queries, in any topics format; `llm_judge` lists the fields that a judging task reads.
        corpus: Rows with `id`, `text` and, if there is one, `title`.
        out: The qrels, in the format of the name (`.txt`: TREC). Beside it: `<out>.card.json`,
            `<out>.probabilities.jsonl`, with the reasons of a judge that gives some (or, with `generate`,
            `<out>.invalid.jsonl` where there are any).
        adapter: The judge; or `base` and `task`, for a base zero-shot.
        runs: Run files to pool to `depth`; or `pairs`, a file that `read_pairs` reads.
        generate: Let the judge write its answer, and parse that.
        settings: For a bare base, a dataset folder by whose grades and guideline it is asked.
        allow_circular: Judge even where the judge also works in a run, or was trained on a topic (law 6).

    Raises:
        UsageError: when `out` is there already or its name tells no format, the judge or the pairs are not given in
            one of their two ways, the task cannot judge, or the judge is circular.
        DataError: naming the file, when a topic or a document is missing, or no answer was a grade.
        NotInStore, LoadCheckFailed, BaseModelError: when the judge is not there or must not be loaded.
    """
    target = Path(out)
    check_new(target)
    asked_about = with_texts(wanted_pairs(runs, depth, pairs), topics, corpus)
    searches = {(pair.topic, pair.document.id): _context(pair) for pair in asked_about}
    place = store if isinstance(store, Store) else Store(store)
    asked = load_judge(
        adapter=adapter, base=base, task=task, generate=generate, store=place, settings=settings, tasks=tasks
    )
    given = {
        "topics": topics,
        "corpus": corpus,
        **{f"run {n} {Path(path).name}": path for n, path in enumerate(runs, 1)},
    }
    card = _card(asked, given if pairs is None else {**given, "pairs": pairs})
    systems = _systems(runs)
    queries = {pair.topic: pair.query for pair in asked_about}
    circular = refuse_circular(card, systems, queries, allow=allow_circular)
    records = [asked.record(search) for search in searches.values()]
    partial = Path(f"{target}.partial")
    answers = dict(zip(searches, graded(asked, records, partial, steps("Judging")), strict=True))
    valid = {pair: answer for pair, answer in answers.items() if isinstance(answer, Grade)}
    invalid = {pair: answer for pair, answer in answers.items() if isinstance(answer, InvalidOutput)}
    _write_invalid(invalid_path(target), invalid)
    if not valid:
        raise DataError(
            f"none of the {len(answers)} answers is a grade",
            where=str(invalid_path(target)),
            fix="Let every label of the scale be scored, without --generate.",
        )
    if not generate:
        file = Path(f"{target}.probabilities.jsonl")
        scales = {pair: asked.output(record).scale for pair, record in zip(searches, records, strict=True)}
        reasons = {pair: grade.reason for pair, grade in valid.items() if grade.reason is not None}
        write_probabilities(file, _probabilities(valid, scales), reasons)
        card = replace(card, probabilities=file.name)
    card = write_judgments(target, _qrels(valid), replace(card, counts={"llm": len(valid)}, invalid=len(invalid)))
    shutil.rmtree(partial)
    counts = Counter(grade.value for grade in valid.values())
    return Judged(card, dict(sorted(counts.items())), len(invalid), circular, doubts(card, systems))


def _context(pair: QueryPassage) -> SearchContext:
    """What the judge is told of a pair."""
    passage = {"passage": pair.document.text, "title": pair.document.title}
    return {**pair.asked, "id": f"{pair.topic} {pair.document.id}", **passage}


def _systems(runs: Sequence[str | Path]) -> dict[str, RunLineage | None]:
    """Who works in each pooled run; pairs from a file were found by nobody in particular."""
    if not runs:
        return {"the given pairs": RunLineage(())}
    return {str(path): read_lineage(path) for path in runs}


def _card(judge: Judge, inputs: Mapping[str, str | Path]) -> JudgmentsCard:
    return JudgmentsCard(
        source="llm",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        judge=judge.reference,
        judge_lineage=judge.lineage,
        base=judge.base,
        prompt_hash=prompt_hash(judge.task),
        judge_queries=judge.queries,
        made_from={label: file_sha256(path) for label, path in inputs.items()},
    )


def _qrels(valid: Mapping[Pair, Grade]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for (topic, document), grade in valid.items():
        qrels.setdefault(topic, {})[document] = grade.value
    return qrels


def _write_invalid(file: Path, invalid: Mapping[Pair, InvalidOutput]) -> None:
    """The answers that are no grade; no file where there is none."""
    file.unlink(missing_ok=True)
    if invalid:
        with atomic_text(file) as out:
            for (topic, document), answer in invalid.items():
                row = {"topic": topic, "document": document, **asdict(answer)}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _probabilities(
    valid: Mapping[Pair, Grade], scales: Mapping[Pair, Mapping[str, int]]
) -> dict[str, dict[str, dict[int, float]]]:
    """The probability of each grade; labels that mean the same grade are added up."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for pair, grade in valid.items():
        scale = scales[pair]
        sums = dict.fromkeys(scale.values(), 0.0)
        for value, probability in zip(scale.values(), grade.probabilities or (), strict=True):
            sums[value] += probability
        found.setdefault(pair[0], {})[pair[1]] = sums
    return found
