"""Writes a made shop as a folder, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchlora.data.folders import folder_in_the_making
from searchlora.data.shop.catalogue import Catalogue, document
from searchlora.data.shop.intent_objects import intent_schema
from searchlora.data.shop.intents import make_intents
from searchlora.data.shop.judgments import CAPS, Judge
from searchlora.data.shop.pairs import PairWriter, judged_pairs
from searchlora.data.shop.records import make_drafts
from searchlora.data.shop.tables import Tables, load_tables
from searchlora.data.shop.vocabulary import dictionary
from searchlora.errors import DataError, UsageError
from searchlora.progress import Progress, silent

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
        counts: Products, product types, categories, dictionary entries, judgments; the rows of each task's file, those
            of rewriting as `records`, by split and kind.
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
    tables = load_tables()
    catalogue = Catalogue(tables, size=products, seed=seed)
    drafts = make_drafts(catalogue, tables, total=queries, seed=seed)
    records = _numbered("q", (draft.fields for draft in drafts))
    intents = _numbered("i", make_intents(catalogue, tables, total=queries, seed=seed))
    judge = Judge([(str(record["id"]), draft.need) for record, draft in zip(records, drafts, strict=True)], tables)
    vocabulary = dictionary(tables)
    files = {
        "rewriting.jsonl": _write(folder / "rewriting.jsonl", map(_line, records)),
        "vocabulary.json": _write(folder / "vocabulary.json", [_indented(vocabulary)]),
        "intent.schema.json": _write(
            folder / "intent.schema.json", [json.dumps(intent_schema(tables), indent=1) + "\n"]
        ),
        "intent.jsonl": _write(folder / "intent.jsonl", map(_line, intents)),
        "corpus.jsonl": _write(folder / "corpus.jsonl", _corpus(catalogue, tables, judge, progress)),
    }
    judged = Counter[int]()
    files["qrels.txt"] = _write(folder / "qrels.txt", _qrels(judge, judged))
    topics = [(record, *listed) for record, listed in zip(records, judge.listed(), strict=True)]
    judged_rows = list(judged_pairs(topics, PairWriter(catalogue, tables, seed=seed), queries=queries))
    files["judgment.jsonl"] = _write(folder / "judgment.jsonl", map(_line, judged_rows))
    counts = {
        "products": products,
        "product_types": len(tables.types),
        "categories": len({kind.category for kind in tables.types.values()}),
        "dictionary": len(vocabulary),
        "judgments": {str(grade): judged[grade] for grade in CAPS},
        "records": _counts(records, "kind"),
        "intent": _counts(intents, "kind"),
        "judgment": _counts(judged_rows, "grade"),
    }
    caps = {str(grade): cap for grade, cap in CAPS.items()}
    card = ShopCard(MADE, seed, counts, caps, judge.capped, files)
    _write(folder / "shop.json", [json.dumps(asdict(card), indent=2) + "\n"])
    return card


def _corpus(catalogue: Catalogue, tables: Tables, judge: Judge, progress: Progress) -> Iterator[str]:
    for number, product in enumerate(catalogue, start=1):
        judge.see(product)
        yield _line(document(product, tables))
        if number % _STEP == 0 or number == len(catalogue):
            progress(number, len(catalogue), "products")


def _qrels(judge: Judge, judged: Counter[int]) -> Iterator[str]:
    for judgment in judge.judgments():
        judged[judgment.grade] += 1
        yield f"{judgment.topic} 0 {judgment.document} {judgment.grade}\n"


def _numbered(letter: str, rows: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    return [{"id": f"{letter}{number:06d}", **row} for number, row in enumerate(rows, start=1)]


def _counts(rows: Iterable[Mapping[str, object]], field: str) -> dict[str, dict[str, int]]:
    """Split -> value of the field -> rows."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["split"]), Counter())[str(row[field])] += 1
    return {split: dict(sorted(values.items())) for split, values in counts.items()}


def _indented(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _write(file: Path, lines: Iterable[str]) -> str:
    """Write and sync; the sha256 of what was written."""
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for line in lines:
            data = line.encode()
            digest.update(data)
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()
