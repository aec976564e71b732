"""What is judged: the pool of Cranfield's runs, and the topics in an order that says nothing of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cranfield_runs.systems import Cranfield
from searchlora.eval.judgments.pooling import pool
from searchlora.eval.trec import Qrels, Run
from searchlora.files import atomic_text, numbered_lines

#: Documents of each run that are judged, as many as the measures look at.
DEPTH = 10

#: Words of an abstract that the LLM judge is shown; three in ten have no more than 109.
WORDS = 100

#: topic -> document -> how many runs have it among their first `DEPTH`
Pool = Mapping[str, Mapping[str, int]]


def judged_pool(folder: Path, runs: Mapping[str, Run]) -> dict[str, dict[str, int]]:
    """The pool of the runs, without the pairs that the collection marks with an unexplained -1.

    There is one for each topic, probably the paper that the question is from: no person's grade says what it is worth.
    """
    odd = _unexplained(folder)
    return {
        topic: {document: count for document, count in row.items() if (topic, document) not in odd}
        for topic, row in pool(runs, DEPTH).items()
    }


def completed(qrels: Qrels, pooled: Pool) -> dict[str, dict[str, int]]:
    """People's grades of the pooled pairs, 0 where they named none: Cranfield counts as judged completely."""
    return {
        topic: {document: qrels.get(topic, {}).get(document, 0) for document in row} for topic, row in pooled.items()
    }


def shuffled(topics: Sequence[str], *, seed: int = 0) -> list[str]:
    """Topics in an order made from a hash."""
    return sorted(topics, key=lambda topic: hashlib.sha256(f"{seed}\t{topic}".encode()).hexdigest())


def write_inputs(folder: Path, data: Cranfield, pooled: Pool) -> dict[str, Path]:
    """Files `topics`, `corpus` and `pairs`, as `searchlora judge` reads them, of pooled pairs and their texts.

    An abstract begins with its title, so the title is not given again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"topics": folder / "topics.jsonl", "corpus": folder / "corpus.jsonl", "pairs": folder / "pairs.txt"}
    wanted = {document for row in pooled.values() for document in row}
    texts = [
        {"id": each.id, "text": " ".join(each.text.split()[:WORDS])} for each in data.documents if each.id in wanted
    ]
    _write(files["topics"], [json.dumps({"id": topic, "query": data.queries[topic]}) for topic in pooled])
    _write(files["corpus"], map(json.dumps, texts))
    _write(files["pairs"], [f"{topic} {document}" for topic, row in pooled.items() for document in row])
    return files


def _write(path: Path, lines: Sequence[str] | map[str]) -> None:
    with atomic_text(path) as out:
        out.writelines(f"{line}\n" for line in lines)


def _unexplained(folder: Path) -> set[tuple[str, str]]:
    rows = (line.split() for _, line in numbered_lines(folder / "cranqrel"))
    return {(topic, document) for topic, document, grade in rows if grade == "-1"}
