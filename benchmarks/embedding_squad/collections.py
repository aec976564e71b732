"""Collections of the benchmark as datasets in `benchmarks/work/embedding`, built once and reused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import dataset, native_dataset, write_rows
from searchlora.data.dataset import Dataset
from searchlora.eval.text_identity import fingerprint, normalised
from searchlora.records import Record, SourceRow
from searchlora.tasks.embedding.dataset import FORMATS

FOLDS = 2

#: A tag that every paper has.
_COMMON_TAG = "arxiv_doc"


@dataclass(frozen=True)
class Collected:
    """One collection.

    Attributes:
        name: Name in result files.
        title: Title in tables.
        folds: Datasets; a model is trained on the training split of each and measured on all test splits together.
        recipe: File name of the recipe in this folder.
    """

    name: str
    title: str
    folds: Sequence[Dataset]
    recipe: str


def squad(data: Path, work: Path) -> Collected:
    """Questions find paragraphs; about 40% of the 48 articles for training, half of them for the test."""
    source = data / "squad" / "squaddev_v1.1.json.gz"
    shares = (0.4, 0.05, 0.55)  # articles are the clusters, and there are 48 only: most of them for the test
    squad = dataset(work / "squad", "embedding", source, format="squad", split_ratios=shares)
    return Collected("squad", "SQuAD: question → paragraph", [squad], "pairs.yaml")


def cranfield(data: Path, work: Path) -> Collected:
    """Queries find abstracts; two folds of queries over the same abstracts."""
    source = data / "cranfield"
    rows = [row.data for row in FORMATS["cranfield"].read(source, {}) if isinstance(row, SourceRow)]
    collection = FORMATS["cranfield"].collection
    assert collection is not None

    found = collection(source, {})
    corpus, qrels = work / "cranfield" / "corpus.jsonl", work / "cranfield" / "qrels.txt"
    write_rows(
        corpus, ({"id": document.id, "title": document.title, "text": document.text} for document in found.documents)
    )
    qrels.write_text(
        "".join(f"{judgment.topic} 0 {judgment.document} {judgment.grade}\n" for judgment in found.judgments)
    )
    folds = _folds(rows, work / "cranfield", corpus=corpus, qrels=qrels, judgments_source="human")
    return Collected("cranfield", "Cranfield: query → abstract", folds, "few.yaml")


def perlfaq(data: Path, work: Path) -> Collected:
    """Questions find answers; two folds of questions over all answers."""
    source = data / "perlfaq" / "perlfaq.jsonl"
    rows = [row.data for row in FORMATS["faq"].read(source, {"section": ""}) if isinstance(row, SourceRow)]
    return Collected("perlfaq", "perlfaq: question → answer", _folds(rows, work / "perlfaq"), "few.yaml")


def arxiv_tags(data: Path, work: Path) -> Collected:
    """Papers (title and abstract) find their tags; two folds of papers over all tags. The tag of all is left out."""
    folder = data / "arxiv_tags"
    papers = json.loads((folder / "arxiv.json").read_text(encoding="utf-8"))
    with gzip.open(folder / "tags.json.gz", "rt", encoding="utf-8") as file:
        names = {uri: tag["prefLabel"][0] for uri, tag in json.load(file).items() if tag["prefLabel"]}
    rows = []
    for number, paper in enumerate(papers, start=1):
        text = " ".join(f"{paper['arxiv_title']}. {paper['arxiv_summary']}".split())
        tags = [names[uri] for uri in paper["tag"] if not uri.endswith(f"/{_COMMON_TAG}")]
        if tags:
            rows.append({"id": f"p{number}", "group": normalised(text), "query": text, "positives": tags})
    return Collected("arxiv_tags", "arXiv: paper → tags", _folds(rows, work / "arxiv_tags"), "few.yaml")


def banking77(data: Path, work: Path) -> Collected:
    """Utterances with one of 77 intents; the official test."""
    shares = (0.96, 0.03, 0.01)
    intents = dataset(work / "banking77", "embedding", data / "banking77", format="banking77", split_ratios=shares)
    return Collected("banking77", "BANKING77: utterance → intent", [intents], "classes.yaml")


#: Official splits have their test; a tenth of the training groups is for validation.
_TRAIN = (0.9, 0.1, 0.0)


def _folds(rows: Sequence[Record], folder: Path, **options: Any) -> list[Dataset]:
    """Two halves by the hash of the group, each the test split of one dataset and the training split of the other."""
    groups = sorted({str(row["group"]) for row in rows}, key=lambda group: fingerprint(f"fold {group}"))
    half = {group: index % FOLDS for index, group in enumerate(groups)}
    datasets = []
    for fold in range(FOLDS):
        split = ({**row, "split": "test" if half[str(row["group"])] == fold else "train"} for row in rows)
        datasets.append(native_dataset(folder / f"fold{fold}", "embedding", split, split_ratios=_TRAIN, **options))
    return datasets
