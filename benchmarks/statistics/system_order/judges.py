"""Judges: an encoder, an LLM without an adapter, votes of the runs, and randomly permuted human grades."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.cranfield_runs.systems import DENSE, ENCODER, FUSIONS, SYSTEMS, Cranfield
from benchmarks.statistics.system_order.pairs import Part, Pool, cut, write_inputs
from searchlora.adapters.golden import prompt_hash
from searchlora.errors import UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.labels import read_probabilities
from searchlora.eval.judgments.card import JudgmentsCard, read_card
from searchlora.eval.judgments.lineage import RunLineage, circular, query_hash
from searchlora.eval.trec import Qrels, Run, read_run, write_run
from searchlora.experiments.judge.command import judge
from searchlora.files import file_sha256
from searchlora.progress import Steps
from searchlora.retrieval import Encoder
from searchlora.retrieval.encoding import normalised
from searchlora.task import load_generation_task

#: Grades of Cranfield; 0 for unjudged documents.
SCALE = (0, 1, 2, 3, 4)
LLM = "smollm2-135m-instruct-q4_1"

#: Number of topics for the LLM, which is slow; selected by a hash.
LLM_TOPICS = 40
TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Judge:
    """A judge and its grades.

    Attributes:
        name: Name in tables.
        grades: Topic -> document -> grade.
        scale: The possible grades.
        lineage: Its identity in `eval.judgments.lineage`.
        parts: Thresholds of its scores, if it has scores.
    """

    name: str
    grades: Qrels
    scale: tuple[int, ...]
    lineage: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def on(self, topics: Sequence[str]) -> Judge:
        """The judge restricted to some topics."""
        return replace(self, grades={topic: self.grades[topic] for topic in topics})

    def circular(self, queries: Mapping[str, str]) -> dict[str, str]:
        """System -> why its figures are circular, for the topics of this judge."""
        parts = self.parts or (Part((), tuple(self.grades), ()),)
        found: dict[str, str] = {}
        for part in parts:
            card = JudgmentsCard(
                source="llm",
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                judge=self.name,
                judge_lineage=self.lineage,
                judge_queries=tuple(query_hash(queries[topic]) for topic in part.fitted),
            )
            judged = {topic: queries[topic] for topic in part.judged if topic in self.grades}
            found.update(circular(card, system_lineage(), judged))
        return found


def encoding_systems() -> set[str]:
    """The systems that use the encoder: dense retrieval and fusions with it."""
    return {*DENSE, *(name for name, (_, fused) in FUSIONS.items() if set(fused) & set(DENSE))}


def system_lineage() -> dict[str, RunLineage]:
    """The components of each system: the run itself and the encoder."""
    encoding = encoding_systems()
    return {name: RunLineage((f"run {name}", *((f"base {ENCODER}",) if name in encoding else ()))) for name in SYSTEMS}


def embedding_judge(work: Path, data: Cranfield, pooled: Pool, human: Qrels, steps: Steps) -> Judge:
    """Cosine of query and abstract, mapped to Cranfield grades; cosines are stored in `work`."""
    file = work / "cosines.trec"
    cosines: Run = read_run(file) if file.is_file() else {}
    if {topic: set(row) for topic, row in cosines.items()} != {topic: set(row) for topic, row in pooled.items()}:
        cosines = _cosines(data, pooled, steps)
        write_run(file, cosines, "cosine")
    grades, parts = cut(cosines, human, SCALE)
    return Judge("embedding", grades, SCALE, (f"base {ENCODER}",), tuple(parts))


def llm_judges(work: Path, data: Cranfield, pooled: Pool, human: Qrels, steps: Steps) -> tuple[Judge, Judge]:
    """The answers of the LLM (No is 0, Yes is 1), and its probability of Yes mapped to Cranfield grades.

    Grades are stored in `work`; an interrupted run resumes.

    Raises:
        UsageError: when stored grades belong to other pairs, other texts or another prompt.
    """
    qrels = work / "llm" / "qrels.txt"
    files = write_inputs(qrels.parent, data, pooled)
    card = read_card(qrels) if qrels.is_file() else None
    if card is None:
        done = judge(
            files["topics"],
            files["corpus"],
            qrels,
            base=LLM,
            task="relevance",
            pairs=files["pairs"],
            tasks=TASKS,
            store=work / "store",
            steps=steps,
        )
        card = done.card
    inputs = {name: file_sha256(file) for name, file in files.items()}
    if (card.prompt_hash, card.made_from) != (prompt_hash(load_generation_task("relevance", TASKS)), inputs):
        raise UsageError("holds grades of another pool, text or prompt", where=str(qrels.parent), fix="Delete it.")
    answers = read_qrels(qrels)
    chances = read_probabilities(Path(f"{qrels}.probabilities.jsonl"))
    yes = {topic: {document: pair[1] for document, pair in row.items()} for topic, row in chances.items()}
    grades, parts = cut(yes, human, SCALE)
    lineage = (f"base {LLM}",)
    return Judge("LLM, answers", answers, (0, 1), lineage), Judge(
        "LLM, thresholds", grades, SCALE, lineage, tuple(parts)
    )


def votes(pooled: Pool, human: Qrels) -> Judge:
    """A judge that reads no text: the number of runs that rank a document high, mapped to Cranfield grades.

    Source: Soboroff, Nicholas and Cahan, Ranking retrieval systems without relevance judgments (SIGIR 2001).
    """
    grades, parts = cut(pooled, human, SCALE)
    return Judge("votes of the runs", grades, SCALE, tuple(f"run {name}" for name in SYSTEMS), tuple(parts))


def dealt(human: Qrels, *, seed: int) -> Judge:
    """A judge without skill: the human grades of each topic, randomly permuted over its pooled documents."""
    rng = random.Random(seed)
    return Judge("permuted grades", {topic: _dealt(row, rng) for topic, row in human.items()}, SCALE)


def _dealt(row: Mapping[str, int], rng: random.Random) -> dict[str, int]:
    grades = list(row.values())
    rng.shuffle(grades)
    return dict(zip(row, grades, strict=True))


def _cosines(data: Cranfield, pooled: Pool, steps: Steps) -> Run:
    encoder = Encoder.load(ENCODER)
    pooled_ids = {document for row in pooled.values() for document in row}
    texts = {document.id: document.searchable for document in data.documents if document.id in pooled_ids}
    documents = dict(
        zip(texts, normalised(encoder.encode(list(texts.values()), progress=steps("Encoding"))), strict=True)
    )
    queries = dict(zip(pooled, normalised(encoder.encode([data.queries[topic] for topic in pooled])), strict=True))
    return {
        topic: {document: float(queries[topic] @ documents[document]) for document in row}
        for topic, row in pooled.items()
    }
