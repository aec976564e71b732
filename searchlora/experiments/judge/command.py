"""The `judge` command: qrels from an LLM judge, with a card that marks them as such."""

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
from searchlora.data.collection import Corpus, CorpusFile, corpus_path, mapped_sha256
from searchlora.errors import DataError
from searchlora.eval.judge.labels import write_probabilities
from searchlora.eval.judgments.card import JudgmentsCard, check_new, invalid_path, write_judgments
from searchlora.eval.judgments.lineage import RunLineage, doubts, read_lineage, refuse_circular
from searchlora.experiments.judge.grade_records import grade_records
from searchlora.experiments.judge.llm_judge import Judge, load_judge
from searchlora.experiments.judge.pairs import QueryPassage, load_texts, pairs_to_judge
from searchlora.files import atomic_text, check_writable, file_sha256
from searchlora.inference.settings import EngineSettings
from searchlora.outputs import Grade, InvalidOutput
from searchlora.progress import Steps, no_progress
from searchlora.records import Record, SearchContext

Pair = tuple[str, str]


@dataclass(frozen=True)
class JudgeResult:
    """Result of `judge`.

    Attributes:
        card: The card beside the qrels.
        grades: Grade -> number of pairs.
        invalid: Number of invalid answers; they are in `<out>.invalid.jsonl` and not in the qrels.
        circular: System -> reason why figures from these qrels are circular; only with `allow_circular`.
        doubts: What is unknown about judge and systems.
    """

    card: JudgmentsCard
    grades: Mapping[int, int]
    invalid: int
    circular: Mapping[str, str]
    doubts: tuple[str, ...]


def judge(
    topics: str | Path,
    corpus: Corpus,
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
    engine: EngineSettings | None = None,
    store: Store | str | Path | None = None,
    tasks: str | Path | None = None,
    steps: Steps = no_progress,
) -> JudgeResult:
    """Grade the pool of some runs, or a file of pairs, and write qrels, their card and the grades' probabilities.

    By default every label of the task's scale is scored and the most probable one is the grade. A killed run resumes
    when it is started again: `<out>.partial` holds the grades so far.

    Args:
        topics: The queries, in any topics format; `llm_judge` lists the fields that a judging task reads.
        corpus: Rows with `id`, `text` and optionally `title`.
        out: The qrels file, in the format of its extension (`.txt`: TREC). Written beside it: `<out>.card.json`,
            `<out>.probabilities.jsonl` (with the judge's reasons, if it gives any; not with `generate`), and
            `<out>.invalid.jsonl` if an answer is invalid.
        adapter: The judge; None: `base` and `task` name a zero-shot judge.
        runs: Run files that are pooled to `depth`; or `pairs`, a file of pairs (`read_pairs`).
        generate: Generate the answer and parse it, instead of scoring the labels.
        settings: For a bare base, a dataset folder whose scale and guideline are used.
        engine: Where the judge is computed; None: in this process.
        allow_circular: Judge even if the judge is part of a run or was trained on a topic.

    Raises:
        UsageError: when `out` exists or its extension is not that of a qrels format, the judge or the pairs are given
            in neither or both of their two ways, the task cannot judge, or the judge is circular.
        DataError: naming the file, when a topic or document is missing, or no answer is a grade.
        NotInStore, LoadCheckFailed, BaseModelError: when the judge does not exist or must not be loaded.
        EngineError: when a server cannot be asked.
    """
    target = Path(out)
    partial = Path(f"{target}.partial")
    check_new(target)
    check_writable(target)
    query_passages = load_texts(pairs_to_judge(runs, depth, pairs), topics, corpus)
    contexts = {(pair.topic, pair.document.id): _context(pair) for pair in query_passages}
    judge = load_judge(
        adapter=adapter,
        base=base,
        task=task,
        generate=generate,
        store=Store.of(store),
        settings=settings,
        engine=engine,
        tasks=tasks,
    )
    inputs = {
        "topics": topics,
        "corpus": corpus_path(corpus),
        **{f"run {n} {Path(path).name}": path for n, path in enumerate(runs, 1)},
    }
    inputs = inputs if pairs is None else {**inputs, "pairs": pairs}
    made_from = {label: file_sha256(path) for label, path in inputs.items()}
    if isinstance(corpus, CorpusFile):
        made_from["corpus"] = mapped_sha256(made_from["corpus"], corpus.fields)
    records = [judge.record(context) for context in contexts.values()]
    card = _card(judge, made_from, records)
    systems = _systems(runs)
    queries = {pair.topic: pair.query for pair in query_passages}
    circular = refuse_circular(card, systems, queries, allow=allow_circular)
    answers = dict(zip(contexts, grade_records(judge, records, partial, steps("Judging")), strict=True))
    valid = {pair: answer for pair, answer in answers.items() if isinstance(answer, Grade)}
    invalid = {pair: answer for pair, answer in answers.items() if isinstance(answer, InvalidOutput)}
    _write_invalid(invalid_path(target), invalid)
    if not valid:
        raise DataError(
            f"none of the {len(answers)} answers is a grade",
            where=str(invalid_path(target)),
            fix="Score the labels of the scale: omit --generate.",
        )
    if not generate:
        file = Path(f"{target}.probabilities.jsonl")
        scales = {pair: judge.output(record).scale for pair, record in zip(contexts, records, strict=True)}
        reasons = {pair: grade.reason for pair, grade in valid.items() if grade.reason is not None}
        write_probabilities(file, _probabilities(valid, scales), reasons)
        card = replace(card, probabilities=file.name)
    card = write_judgments(target, _qrels(valid), replace(card, counts={"llm": len(valid)}, invalid=len(invalid)))
    shutil.rmtree(partial)
    counts = Counter(grade.value for grade in valid.values())
    return JudgeResult(card, dict(sorted(counts.items())), len(invalid), circular, doubts(card, systems))


def _context(pair: QueryPassage) -> SearchContext:
    """The search context of a pair."""
    passage = {"passage": pair.document.text, "title": pair.document.title}
    return {**pair.topic_fields, "id": f"{pair.topic} {pair.document.id}", **passage}


def _systems(runs: Sequence[str | Path]) -> dict[str, RunLineage | None]:
    """Models of each pooled run; pairs from a file have none."""
    if not runs:
        return {"the given pairs": RunLineage(())}
    return {str(path): read_lineage(path) for path in runs}


def _card(judge: Judge, made_from: Mapping[str, str], records: Sequence[Record]) -> JudgmentsCard:
    scales = {tuple(sorted(set(judge.output(record).scale.values()))) for record in records}
    relevant = judge.task.settings.get("relevant")
    return JudgmentsCard(
        source="llm",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        judge=judge.reference,
        judge_lineage=judge.lineage,
        base=judge.base,
        engine=judge.engine_id,
        prompt_hash=prompt_hash(judge.task),
        judge_queries=judge.queries,
        made_from=made_from,
        scale=scales.pop() if len(scales) == 1 else (),
        relevant=relevant if type(relevant) is int else None,
    )


def _qrels(valid: Mapping[Pair, Grade]) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for (topic, document), grade in valid.items():
        qrels.setdefault(topic, {})[document] = grade.value
    return qrels


def _write_invalid(file: Path, invalid: Mapping[Pair, InvalidOutput]) -> None:
    """Write the invalid answers; without any, no file is left."""
    file.unlink(missing_ok=True)
    if invalid:
        with atomic_text(file) as out:
            for (topic, document), answer in invalid.items():
                row = {"topic": topic, "document": document, **asdict(answer)}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _probabilities(
    valid: Mapping[Pair, Grade], scales: Mapping[Pair, Mapping[str, int]]
) -> dict[str, dict[str, dict[int, float]]]:
    """topic -> document -> grade -> probability; probabilities of labels with the same grade are added."""
    probabilities: dict[str, dict[str, dict[int, float]]] = {}
    for pair, grade in valid.items():
        scale = scales[pair]
        sums = dict.fromkeys(scale.values(), 0.0)
        for value, probability in zip(scale.values(), grade.probabilities or (), strict=True):
            sums[value] += probability
        probabilities.setdefault(pair[0], {})[pair[1]] = sums
    return probabilities
