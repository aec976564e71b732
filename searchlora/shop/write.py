"""Writes a made shop as a folder, whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchlora.data.folders import folder_in_the_making
from searchlora.errors import DataError, UsageError
from searchlora.progress import Progress, silent
from searchlora.shop.answers import make_answers
from searchlora.shop.catalogue import Catalogue, document
from searchlora.shop.files import ShopFiles
from searchlora.shop.help_centre import make_articles
from searchlora.shop.intent_objects import intent_schema
from searchlora.shop.intents import make_intents
from searchlora.shop.judgments import CAPS, Judge
from searchlora.shop.pairs import PairWriter, judged_pairs, training_pairs
from searchlora.shop.records import make_drafts
from searchlora.shop.tables import Tables, load_tables
from searchlora.shop.titles import make_titles
from searchlora.shop.vocabulary import dictionary

FEWEST_PRODUCTS = 600
FEWEST_QUERIES = 100
MADE = (
    "Made data: products, queries and judgments were generated from a seed, no person wrote or judged them. "
    "Report the dictionary baseline beside every result, and rest no claim about quality on this shop alone."
)
_STEP = 1000


@dataclass(frozen=True)
class ShopCard:
    """What is in a shop's folder; written to it as `shop.json`.

    Args:
        counts: Products, product types, categories, dictionary entries, judgments, help articles; the rows of each
            task's file (those of rewriting as `records`), by split and kind, pairs by grade.
        capped_queries: Records with more exact matches than `qrels.txt` lists (see `judgments`).
        files: File name -> sha256.
    """

    statement: str
    seed: int
    counts: dict[str, Any]
    caps: dict[str, int]
    capped_queries: int
    files: dict[str, str]


def make_shop(
    out: str | Path, *, products: int = 2000, queries: int = 2400, seed: int = 13, progress: Progress | None = None
) -> ShopCard:
    """Make a shop in the new folder `out`; the same arguments give the same bytes.

    Memory does not grow with `products`: each is made, written, judged and forgotten.

    Args:
        out: A folder that does not exist, or is empty.
        products: At least 600.
        queries: Records in `rewriting.jsonl`, at least 100; the other tasks' files grow with it.
        progress: Told now and then the products done and the products in all.

    Raises:
        UsageError: for a number that is too small.
        DataError: where there is something in the folder, the shop is too small for so many different queries, or the
            folder cannot be written. Nothing is left behind.
    """
    _check(products, queries)
    with folder_in_the_making(Path(out)) as folder:
        return _fill(folder, products=products, queries=queries, seed=seed, progress=progress or silent)


def read_card(folder: Path) -> ShopCard:
    """The card of a shop that was made before. Raises `DataError` where there is none."""
    try:
        return ShopCard(**json.loads((folder / "shop.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError("is not a made shop: it has no readable shop.json", where=str(folder)) from error


def _check(products: int, queries: int) -> None:
    if products < FEWEST_PRODUCTS:
        raise UsageError(f"a shop has at least {FEWEST_PRODUCTS} products, not {products}")
    if queries < FEWEST_QUERIES:
        raise UsageError(f"a shop has at least {FEWEST_QUERIES} queries, not {queries}")


def _fill(folder: Path, *, products: int, queries: int, seed: int, progress: Progress) -> ShopCard:
    tables, files = load_tables(), ShopFiles(folder)
    catalogue = Catalogue(tables, size=products, seed=seed)
    drafts = make_drafts(catalogue, tables, total=queries, seed=seed)
    records = _numbered("q", (draft.fields for draft in drafts))
    judge = Judge([(str(record["id"]), draft.need) for record, draft in zip(records, drafts, strict=True)], tables)
    vocabulary = dictionary(tables)
    judged = Counter[int]()
    files.rows("rewriting.jsonl", records)
    files.value("vocabulary.json", vocabulary)
    files.rows("corpus.jsonl", _corpus(catalogue, tables, judge, progress))
    files.lines("qrels.txt", _qrels(judge, judged))
    counts = {
        "products": products,
        "product_types": len(tables.types),
        "categories": len({kind.category for kind in tables.types.values()}),
        "dictionary": len(vocabulary),
        "judgments": {str(grade): judged[grade] for grade in CAPS},
        "records": _counts(records, "kind"),
        **_write_intents(files, catalogue, tables, queries=queries, seed=seed),
        **_write_pairs(files, catalogue, tables, records, judge, queries=queries, seed=seed),
        **_write_help(files, queries=queries, seed=seed),
    }
    caps = {str(grade): cap for grade, cap in CAPS.items()}
    card = ShopCard(MADE, seed, counts, caps, judge.capped, dict(files.sha256))
    files.value("shop.json", asdict(card), indent=2)
    return card


def _corpus(catalogue: Catalogue, tables: Tables, judge: Judge, progress: Progress) -> Iterator[dict[str, str]]:
    for number, product in enumerate(catalogue, start=1):
        judge.see(product)
        yield document(product, tables)
        if number % _STEP == 0 or number == len(catalogue):
            progress(number, len(catalogue), "products")


def _qrels(judge: Judge, judged: Counter[int]) -> Iterator[str]:
    for judgment in judge.judgments():
        judged[judgment.grade] += 1
        yield f"{judgment.topic} 0 {judgment.document} {judgment.grade}\n"


def _write_intents(
    files: ShopFiles, catalogue: Catalogue, tables: Tables, *, queries: int, seed: int
) -> dict[str, dict[str, dict[str, int]]]:
    rows = _numbered("i", make_intents(catalogue, tables, total=queries, seed=seed))
    files.rows("intent.jsonl", rows)
    files.value("intent.schema.json", intent_schema(tables))
    return {"intent": _counts(rows, "kind")}


def _write_pairs(
    files: ShopFiles,
    catalogue: Catalogue,
    tables: Tables,
    records: Sequence[Mapping[str, object]],
    judge: Judge,
    *,
    queries: int,
    seed: int,
) -> dict[str, Any]:
    writer = PairWriter(catalogue, tables, seed=seed)
    topics = [(record, *listed) for record, listed in zip(records, judge.listed(), strict=True)]
    pairs, training = list(judged_pairs(topics, writer, queries=queries)), list(training_pairs(topics, writer))
    titles = make_titles(catalogue, tables, total=queries // 2, seed=seed)
    files.rows("judgment.jsonl", pairs)
    files.rows("embedding.jsonl", training)
    files.rows("categories.jsonl", titles)
    return {
        "judgment": _counts(pairs, "grade"),
        "embedding": _counts(training, "kind"),
        "titles": dict(Counter(title["split"] for title in titles)),
    }


def _write_help(files: ShopFiles, *, queries: int, seed: int) -> dict[str, Any]:
    articles = make_articles(seed)
    rows = _numbered("a", make_answers(articles, queries=queries, seed=seed))
    files.rows("help/articles.jsonl", (article.document for article in articles))
    files.rows("rag_answer.jsonl", rows)
    return {"articles": len(articles), "rag_answer": _counts(rows, "kind")}


def _numbered(letter: str, rows: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    return [{"id": f"{letter}{number:06d}", **row} for number, row in enumerate(rows, start=1)]


def _counts(rows: Iterable[Mapping[str, object]], field: str) -> dict[str, dict[str, int]]:
    """Split -> value of the field -> rows."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["split"]), Counter())[str(row[field])] += 1
    return {split: dict(sorted(values.items())) for split, values in counts.items()}
