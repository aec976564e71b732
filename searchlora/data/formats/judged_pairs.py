"""Readers of graded query-passage pairs: ESCI and TREC Deep Learning.

* ESCI, the Shopping Queries Dataset (Reddy et al. 2022, arXiv:2206.06588; https://github.com/amazon-science/esci-data):
  a folder with `shopping_queries_dataset_examples.parquet` (`example_id, query, query_id, product_id, product_locale,
  esci_label, split`, and `small_version`) and `shopping_queries_dataset_products.parquet` (`product_id,
  product_locale`, and texts). Also one file of pairs with the texts of their products (CSV, TSV, JSONL, Parquet), as
  samples are published: `query, product_id, product_locale, esci_label, product_title`, where `esci_label` may be a
  word, and optionally `query_id, query_locale, split` and further texts.
* TREC Deep Learning topics with BM25 passages, as published by RankGPT and rank_llm
  (https://github.com/sunnweiwei/RankGPT, https://github.com/castorini/rank_llm): a folder with one JSON file, an array
  of `{"query", "hits": [{"qid", "docid", "content", "score"}]}`, and one qrels file (`qrels*`, TREC lines).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from searchlora.data.formats.common import Converted, FormatRows, converted, no_text, pair_id, yes_or_no
from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import has_card, is_sidecar, sources_of
from searchlora.eval.text_identity import fingerprint
from searchlora.files import Rows, as_text, open_bytes, read_rows
from searchlora.files.rows import parquet_rows
from searchlora.records import Option, Options, Record, RejectedRow, SourceReport, SourceRow

#: ESCI label, a letter or a word -> grade.
ESCI_GRADES: Mapping[str, int] = {
    label: grade
    for grade, labels in enumerate((("I", "irrelevant"), ("C", "complement"), ("S", "substitute"), ("E", "exact")))
    for label in labels
}
ESCI_OPTIONS: Mapping[str, Option] = {
    "locale": Option("locale of the examples; all: every one, from a file of pairs", "us, es, jp or all", "us"),
    "small_version": Option("read only the small version, which leaves out easy queries", "yes or no", "no"),
}

_EXAMPLES = ("example_id", "query", "query_id", "product_id", "product_locale", "esci_label", "split")
_PRODUCTS = ("product_id", "product_locale", "product_title")
_TEXTS = ("product_brand", "product_color", "product_color_name", "product_bullet_point", "product_description")
_PAIRS = ("query", "product_id", "product_locale", "esci_label", "product_title")
_TAG = re.compile(r"<[^>]*>")


def read_esci(source: Path, options: Options) -> FormatRows:
    """Examples of ESCI with their product, in the order of the products; of a file of pairs in file order.

    The products, 1.8 million with long texts, are read once; the examples are held in memory.

    Args:
        options: See `ESCI_OPTIONS`.

    Yields:
        `topic` (query_id), `query`, `document` (product_id), `title`, `passage` (brand, colour, bullet points,
        description, without mark-up; the title if there is none), `grade`, `split`. Examples without their
        product come last, as `RejectedRow`.

    Raises:
        DataError: if a file is missing, is not Parquet, or lacks a column.
        UsageError: for an option out of range.
    """
    if source.is_file():
        yield from _esci_pairs(source, options)
        return
    small = yes_or_no(options, "small_version", "no")
    yield from converted(_joined(source, options.get("locale", "us"), small), lambda row: _esci_row(row.data))


def _joined(source: Path, locale: str, small: bool) -> Rows:
    """The examples of a locale, each with the fields of its product."""
    examples, columns, faulty = _esci_examples(_one_parquet(source, "examples"), locale, small)
    yield from faulty
    keys = np.array([fingerprint(str(product)) for product in columns["product_id"]], dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    waiting = np.ones(len(keys), dtype=np.bool_)
    for row in _columns_of(_one_parquet(source, "products"), _PRODUCTS, _TEXTS):
        if isinstance(row, RejectedRow):
            yield row
            continue
        if row.data["product_locale"] != locale:
            continue
        key = np.uint64(fingerprint(str(row.data["product_id"])))
        for index in order[np.searchsorted(ordered, key) : np.searchsorted(ordered, key, side="right")]:
            if waiting[index]:
                waiting[index] = False
                example = {name: values[index] for name, values in columns.items()}
                yield SourceRow({**row.data, **example}, f"{examples}, example {example['example_id']}")
    for index in np.flatnonzero(waiting):
        where = f"{examples}, example {columns['example_id'][index]}"
        yield RejectedRow(where, f"the product {columns['product_id'][index]} is not among the products")


def _esci_pairs(path: Path, options: Options) -> FormatRows:
    """The examples of a file that holds the texts of the products too."""
    locale = options.get("locale", "us")
    seen: dict[int, str] = {}
    counts = Counter[str]()

    def example(row: SourceRow) -> Converted:
        data = row.data
        if locale not in ("all", data["product_locale"]):
            counts["pairs of other locales left out"] += 1
        elif data.get("query_locale") not in (None, "", data["product_locale"]):
            counts["pairs of a query and a product of two locales left out"] += 1
        elif (key := fingerprint(f"{data['product_locale']}\n{data['product_id']}\n{data['query']}")) not in seen:
            seen[key] = str(data["esci_label"])
            # pandas writes a number in a column with gaps as "7.0"
            query_id = str("" if data.get("query_id") is None else data["query_id"]).removesuffix(".0")
            topic = query_id or pair_id(str(data["query"]))
            return _esci_row({**data, "query_id": topic, "split": SPLIT_NAMES.get(str(data.get("split")))})
        elif seen[key] == data["esci_label"]:
            counts["repeated pairs left out"] += 1
        else:
            return f"the pair has the label '{seen[key]}' in an earlier row"
        return None

    yield from converted(read_rows(path, _PAIRS), example)
    if not seen:
        raise DataError(f"has no pair of the locale '{locale}'", where=path.name, fix="It is us, es, jp or all.")
    if counts:
        yield SourceReport((), dict(counts))


def _esci_examples(path: Path, locale: str, small: bool) -> tuple[str, dict[str, list[Any]], list[RejectedRow]]:
    """Name of the file, the columns of the selected examples, and the rows that cannot be read."""
    optional = ("small_version",) if small else ()
    columns: dict[str, list[Any]] = {name: [] for name in _EXAMPLES if name != "product_locale"}
    faulty: list[RejectedRow] = []
    for row in _columns_of(path, (*_EXAMPLES, *optional), ()):
        if isinstance(row, RejectedRow):
            faulty.append(row)
            continue
        example = row.data
        if example["product_locale"] == locale and (not small or example["small_version"]):
            for name, column in columns.items():
                value = example[name]
                # A query occurs in some twenty examples; each text is held once.
                column.append(sys.intern(value) if isinstance(value, str) else value)
    if not columns["example_id"]:
        raise DataError(f"has no example of the locale '{locale}'", where=path.name, fix="It is us, es or jp.")
    return path.name, columns, faulty


def _esci_row(example: Record) -> Converted:
    """The graded pair of an example with the fields of its product."""
    label = str(example["esci_label"]).strip()
    grade = ESCI_GRADES.get(label, ESCI_GRADES.get(label.lower()))
    if grade is None:
        return f"field 'esci_label': '{label}' is none of E, S, C, I"
    title = _without_markup(example["product_title"])
    text = ". ".join(part for name in _TEXTS if (part := _without_markup(example.get(name))))
    return no_text(example, ("query",)) or {
        "topic": str(example["query_id"]),
        "query": example["query"],
        "document": str(example["product_id"]),
        "title": title if text else "",
        "passage": text or title,
        "grade": grade,
        "split": example["split"],
    }


def _without_markup(value: Any) -> str:
    return " ".join(_TAG.sub(" ", as_text(value)).split())


def _columns_of(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Rows:
    """The rows of a Parquet file with these columns only."""
    with open_bytes(path) as file:
        yield from parquet_rows(file, path.name, required, (*required, *optional))


def _one_parquet(source: Path, name: str) -> Path:
    files = sorted(source.glob(f"*{name}*.parquet"))
    if len(files) != 1:
        raise DataError(
            f"has {len(files)} files *{name}*.parquet where one is needed",
            where=str(source),
            fix="Give the folder of the dataset.",
        )
    return files[0]


def read_trecdl(source: Path, *, unjudged: int = 0) -> Rows:
    """The graded pairs of a TREC DL folder, in file order.

    Args:
        unjudged: Number of ungraded passages per query to add with grade 0, those ranked lowest.

    Yields:
        `topic`, `query`, `document`, `passage`, `grade`, `score` (of BM25).
    """
    qrels = _one_file(source, "qrels*")
    sources = sources_of(qrels) if has_card(qrels) else None
    for row in trecdl_hits(source):
        if isinstance(row, RejectedRow):
            yield row
            continue
        pairs = row.data["pairs"]
        lowest = [pair["document"] for pair in pairs if pair["grade"] is None][-unjudged:] if unjudged else []
        for pair in pairs:
            where = f"{row.where}, document {pair['document']}"
            if pair["grade"] is not None:
                yield SourceRow(pair, where, sources and sources.of(pair["topic"], pair["document"]))
            elif pair["document"] in lowest:
                yield SourceRow({**pair, "grade": 0}, where, "synthetic")


def trecdl_hits(source: Path) -> Rows:
    """One row per query of a TREC DL folder with all its passages, best first; `grade` is None for an ungraded pair.

    Yields:
        `topic`, `query`, `pairs` (`topic`, `query`, `document`, `passage`, `grade`, `score` each).

    Raises:
        DataError: unless the folder has one JSON file and one qrels file.
    """
    qrels = read_qrels(_one_file(source, "qrels*"))

    def graded(row: SourceRow) -> Converted:
        hits = row.data["hits"]
        if not isinstance(hits, list) or not hits or not all(_is_hit(hit) for hit in hits):
            return "field 'hits': is not a list of objects with qid, docid, content and score"
        if len({str(hit["qid"]) for hit in hits}) > 1:
            return "field 'hits': its entries belong to several queries (qid)"
        topic, query = str(hits[0]["qid"]), row.data["query"]
        grades = qrels.get(topic, {})
        pairs = [
            {
                "topic": topic,
                "query": query,
                "document": str(hit["docid"]),
                "passage": hit["content"],
                "grade": grades.get(str(hit["docid"])),
                "score": float(hit["score"]),
            }
            for hit in hits
        ]
        return {"topic": topic, "query": query, "pairs": pairs}

    yield from converted(read_rows(_one_file(source, "*.json", "*.json.gz"), ("query", "hits")), graded)


def _is_hit(hit: object) -> bool:
    return (
        isinstance(hit, dict)
        and {"qid", "docid", "content", "score"} <= set(hit)
        and isinstance(hit["content"], str)
        and isinstance(hit["score"], int | float)
    )


def _one_file(source: Path, *patterns: str) -> Path:
    paths = [path for pattern in patterns for path in sorted(source.glob(pattern))]
    names = [path for path in paths if path.is_file() and not is_sidecar(path)]
    if len(names) != 1:
        raise DataError(
            f"has {len(names)} files like '{patterns[0]}' where one is needed",
            where=str(source),
            fix="Give the folder with the JSON file of passages and the qrels.",
        )
    return names[0]
