"""Generator of the synthetic shop: writes all files of a shop folder, atomically."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import JudgmentsCard, card_path, write_card
from searchlora.eval.judgments.derived_cards import declared_card
from searchlora.files import atomic_folder, file_sha256, parse_json
from searchlora.progress import Progress, silent
from searchlora.shop.catalogue import Catalogue, document
from searchlora.shop.help_centre import make_answers, make_articles
from searchlora.shop.intents import intent_schema, make_intents, make_titles
from searchlora.shop.judgments import CAPS, Judge, PairWriter, judged_pairs, training_pairs
from searchlora.shop.rewriting import make_drafts
from searchlora.shop.tables import Tables, load_tables
from searchlora.shop.vocabulary import dictionary

MIN_PRODUCTS = 600
MIN_QUERIES = 100
MAX_ROWS = 10_000_000
STATEMENT = (
    "Synthetic data: products, queries and judgments were generated from a seed, no person wrote or judged them. "
    "Report the dictionary baseline beside every result, and rest no claim about quality on this shop alone."
)
_PROGRESS_STEP = 1000


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


def make_shop(
    out: str | Path, *, products: int = 2000, queries: int = 2400, seed: int = 13, progress: Progress | None = None
) -> ShopCard:
    """Generate a shop in the new folder `out`; the same arguments give the same bytes.

    Memory does not grow with `products`.

    Args:
        out: A folder that does not exist, or is empty.
        products: At least 600.
        queries: Records in `rewriting.jsonl`, at least 100; the files of the other tasks grow with it.
        seed: Seed of all random choices.
        progress: Called every thousand products with the products written and their total.

    Raises:
        UsageError: if a number is too small.
        DataError: if the folder is not empty or cannot be written, or the shop is too small for that many different
            queries. No partial folder is left.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     card = make_shop(f"{folder}/shop", products=600, queries=100)
        >>> card.counts["products"], card.counts["categories"]
        (600, 17)
    """
    _check(products, queries)
    with atomic_folder(Path(out)) as folder:
        return _fill(folder, products=products, queries=queries, seed=seed, progress=progress or silent)


def read_card(folder: Path) -> ShopCard:
    """Read the card of a shop folder. Raises `DataError` if there is none."""
    try:
        return ShopCard(**parse_json((folder / "shop.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError("is not a synthetic shop: it has no readable shop.json", where=str(folder)) from error


def _check(products: int, queries: int) -> None:
    for what, number in (("products", products), ("queries", queries)):
        if number > MAX_ROWS:
            raise UsageError(f"a shop has at most {MAX_ROWS:,} {what}, not {number}")
    if products < MIN_PRODUCTS:
        raise UsageError(f"a shop has at least {MIN_PRODUCTS} products, not {products}")
    if queries < MIN_QUERIES:
        raise UsageError(f"a shop has at least {MIN_QUERIES} queries, not {queries}")


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
    files.card("qrels.txt", declared_card("synthetic", judged.total()))
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
    card = ShopCard(STATEMENT, seed, counts, caps, judge.capped, dict(files.sha256))
    files.value("shop.json", asdict(card), indent=2)
    return card


def _corpus(catalogue: Catalogue, tables: Tables, judge: Judge, progress: Progress) -> Iterator[dict[str, str]]:
    for number, product in enumerate(catalogue, start=1):
        judge.see(product)
        yield document(product, tables)
        if number % _PROGRESS_STEP == 0 or number == len(catalogue):
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
    """Split -> value of the field -> number of rows."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["split"]), Counter())[str(row[field])] += 1
    return {split: dict(sorted(values.items())) for split, values in counts.items()}


class ShopFiles:
    """Writes the files of a shop folder, each hashed as it is written.

    Attributes:
        sha256: File name -> hash of the file, for the files written so far.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sha256: dict[str, str] = {}

    def lines(self, name: str, lines: Iterable[str]) -> None:
        """Write text; each line carries its own line end."""
        file = self._folder / name
        file.parent.mkdir(exist_ok=True)
        digest = hashlib.sha256()
        with file.open("wb") as stream:
            for line in lines:
                data = line.encode()
                digest.update(data)
                stream.write(data)
        self.sha256[name] = digest.hexdigest()

    def rows(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Write JSON Lines."""
        self.lines(name, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def card(self, name: str, card: JudgmentsCard) -> None:
        """Write the card of a file of judgments."""
        write_card(self._folder / name, card)
        path = card_path(self._folder / name)
        self.sha256[path.name] = file_sha256(path)

    def value(self, name: str, value: object, *, indent: int = 1) -> None:
        """Write one indented JSON value in ASCII."""
        self.lines(name, [json.dumps(value, indent=indent) + "\n"])
