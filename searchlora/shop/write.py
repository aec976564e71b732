"""Generator of the synthetic shop: writes all files of a shop folder, atomically."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import write_card
from searchlora.eval.judgments.derived_cards import declared_card
from searchlora.eval.trec import write_qrels
from searchlora.files import atomic_folder, file_sha256, parse_json, read_rows, strict
from searchlora.shop.catalogue import document, make_catalogue
from searchlora.shop.help_centre import make_answers, make_articles
from searchlora.shop.intents import intent_schema, make_intents
from searchlora.shop.judgments import CAPS, EXACT, PairWriter, judged_pairs, matching_products, training_pairs
from searchlora.shop.rewriting import make_rewriting
from searchlora.shop.sampling import Sampler
from searchlora.shop.tables import load_tables
from searchlora.shop.vocabulary import dictionary

MIN_PRODUCTS = 600
MIN_QUERIES = 100
MAX_ROWS = 100_000
STATEMENT = (
    "Synthetic data: products, queries and judgments were generated from a seed, no person wrote or judged them. "
    "Report the dictionary baseline beside every result, and rest no claim about quality on this shop alone."
)


@dataclass(frozen=True)
class ShopCard:
    """The card of a shop, stored in its folder as `shop.json`.

    Args:
        statement: States that the data is synthetic.
        counts: Products, product types, categories, dictionary entries, judgments, help articles; the rows of the file
            of each task (those of rewriting as `records`) by split and kind, pairs by grade.
        caps: Grade -> maximum number of products that a query lists.
        capped_queries: Records with more exact matches than `qrels.txt` lists (see `judgments`).
        files: File name -> sha256.
    """

    statement: str
    seed: int
    counts: dict[str, Any]
    caps: dict[str, int]
    capped_queries: int
    files: dict[str, str]


def make_shop(out: str | Path, *, products: int = 2000, queries: int = 2400, seed: int = 13) -> ShopCard:
    """Generate a shop in the new folder `out`; the same arguments give the same bytes.

    Args:
        out: A folder that does not exist, or is empty.
        products: 600 to 100,000.
        queries: Records in `rewriting.jsonl`, 100 to 100,000; the files of the other tasks grow with it.
        seed: Seed of all random choices.

    Raises:
        UsageError: if a number is out of range.
        DataError: if the folder is not empty or cannot be written, or the shop is too small for that many different
            queries. No partial folder is left.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     card = make_shop(f"{folder}/shop", products=600, queries=100)
        >>> card.counts["products"], card.counts["categories"]
        (600, 17)
    """
    for what, number, lowest in (("products", products, MIN_PRODUCTS), ("queries", queries, MIN_QUERIES)):
        if not lowest <= number <= MAX_ROWS:
            raise UsageError(f"a shop has {lowest} to {MAX_ROWS:,} {what}, not {number}")
    with atomic_folder(Path(out)) as folder:
        return _fill(folder, products=products, queries=queries, seed=seed)


def read_card(folder: Path) -> ShopCard:
    """Read the card of a shop folder. Raises `DataError` if there is none."""
    try:
        return ShopCard(**parse_json((folder / "shop.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError("is not a synthetic shop: it has no readable shop.json", where=str(folder)) from error


def _fill(folder: Path, *, products: int, queries: int, seed: int) -> ShopCard:
    tables = load_tables()
    catalogue, vocabulary = make_catalogue(tables, size=products, seed=seed), dictionary(tables)
    sampler = Sampler(catalogue, seed=seed)
    drawn = make_rewriting(catalogue, tables, total=queries, seed=seed)
    needs = [row.pop("need") for row in drawn]
    records = _numbered("q", drawn)
    matching = [matching_products(need, sampler, tables) for need in needs]
    listed = [{value: products[: CAPS[value]] for value, products in by_grade.items()} for by_grade in matching]
    topics = list(zip(records, needs, listed, strict=True))
    writer, articles = PairWriter(sampler, tables, seed=seed), make_articles(seed)
    rows = {
        "rewriting": records,
        "intent": _numbered("i", make_intents(catalogue, tables, total=queries, seed=seed)),
        "judgment": list(judged_pairs(topics, writer, queries=queries)),
        "embedding": list(training_pairs(topics, writer)),
        "rag_answer": _numbered("a", make_answers(articles, queries=queries, seed=seed)),
    }
    for name, of_task in rows.items():
        _write_rows(folder / f"{name}.jsonl", of_task)
    _write_rows(folder / "corpus.jsonl", (document(product, tables) for product in catalogue))
    (folder / "help").mkdir()
    _write_rows(folder / "help" / "articles.jsonl", (article.document for article in articles))
    _write_value(folder / "vocabulary.json", vocabulary)
    _write_value(folder / "intent.schema.json", intent_schema(tables))
    qrels = {
        str(record["id"]): {product.id: grade for grade, listed in by_grade.items() for product in listed}
        for record, _, by_grade in topics
    }
    write_qrels(folder / "qrels.txt", qrels)
    judged = Counter(grade for grades in qrels.values() for grade in grades.values())
    write_card(folder / "qrels.txt", declared_card("synthetic", judged.total()))
    counts = {
        "products": products,
        "product_types": len(tables.types),
        "categories": len(tables.categories),
        "dictionary": len(vocabulary),
        "judgments": {str(grade): judged[grade] for grade in CAPS},
        "records": _counts(records, "kind"),
        "intent": _counts(rows["intent"], "kind"),
        "judgment": _counts(rows["judgment"], "grade"),
        "embedding": _counts(rows["embedding"], "kind"),
        "articles": len(articles),
        "rag_answer": _counts(rows["rag_answer"], "kind"),
    }
    files = {
        file.relative_to(folder).as_posix(): file_sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()
    }
    capped = sum(len(by_grade[EXACT]) > CAPS[EXACT] for by_grade in matching)
    card = ShopCard(STATEMENT, seed, counts, {str(grade): cap for grade, cap in CAPS.items()}, capped, files)
    _write_value(folder / "shop.json", asdict(card), indent=2)
    return card


def _numbered(letter: str, rows: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    return [{"id": f"{letter}{number:06d}", **row} for number, row in enumerate(rows, start=1)]


def _counts(rows: Iterable[Mapping[str, object]], field: str) -> dict[str, dict[str, int]]:
    """Split -> value of the field -> number of rows."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["split"]), Counter())[str(row[field])] += 1
    return {split: dict(sorted(values.items())) for split, values in counts.items()}


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_value(path: Path, value: object, indent: int = 1) -> None:
    path.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8", newline="\n")


def search_documents(shop: Path) -> Iterator[dict[str, str]]:
    """Documents for a search pipeline: the products with columns `brand`, `product_type` and `category`, then the help.

    The values of the columns are those of the intent records, so a stage that filters finds them.

    Args:
        shop: A folder that `make_shop` wrote.

    Raises:
        DataError: if it is not a shop.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = make_shop(f"{folder}/shop", products=600, queries=100)
        ...     documents = list(search_documents(Path(folder) / "shop"))
        >>> documents[0]["product_type"] in documents[0]["text"].casefold(), documents[-1]["id"]
        (True, 'h120')
    """
    card, tables = read_card(shop), load_tables()
    for product in make_catalogue(tables, size=card.counts["products"], seed=card.seed):
        category = tables.types[product.type].category
        columns = {"brand": product.facts["brand"], "product_type": product.type, "category": category}
        yield {**document(product, tables), **columns}
    yield from (dict(row.data) for row in strict(read_rows(shop / "help" / "articles.jsonl")))
