"""ESCI, the Shopping Queries Dataset (Reddy et al. 2022, arXiv:2206.06588; https://github.com/amazon-science/esci-data).

A folder with `shopping_queries_dataset_examples.parquet` (`example_id, query, query_id, product_id, product_locale,
esci_label, split`, and `small_version`) and `shopping_queries_dataset_products.parquet` (`product_id, product_locale`,
and texts). The products, 1.8 million with long texts, are gone through once; what is held in memory are the examples.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from searchlora.errors import DataError, UsageError
from searchlora.eval.text_identity import fingerprint
from searchlora.files import Rows
from searchlora.records import RejectedRow, SourceRow

#: Label -> grade: exact, substitute, complement, irrelevant.
GRADES: Mapping[str, int] = {"E": 3, "S": 2, "C": 1, "I": 0}
OPTIONS: Mapping[str, str] = {
    "locale": "us, es or jp (default us)",
    "small_version": "yes: only the examples of the small version (the queries that are not easy)",
}

_EXAMPLES = ("example_id", "query", "query_id", "product_id", "product_locale", "esci_label", "split")
_PRODUCTS = ("product_id", "product_locale", "product_title")
_TEXTS = ("product_brand", "product_color", "product_bullet_point", "product_description")
_TAG = re.compile(r"<[^>]*>")


def read(source: Path, options: Mapping[str, str]) -> Rows:
    """Examples with their product, in the order of the products.

    Args:
        options: Of `OPTIONS`.

    Yields:
        `topic` (query_id), `query`, `document` (product_id), `title`, `passage` (brand, colour, bullet points,
        description, without mark-up; of a product that has none, its title), `grade`, `split`. An example whose
        product is not there comes last, as `RejectedRow`.

    Raises:
        DataError: when a file is missing, is not Parquet, or lacks a column.
        UsageError: for an option out of range.
    """
    small = options.get("small_version", "no")
    if small not in ("yes", "no"):
        raise UsageError(f"'{small}' is neither yes nor no", where="--option small_version")
    locale = options.get("locale", "us")
    examples, columns = _examples(_one(source, "examples"), locale, small == "yes")
    products = _one(source, "products")
    keys = np.array([fingerprint(product) for product in columns["product_id"]], dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    waiting = np.ones(len(keys), dtype=np.bool_)
    for product in _batches(products, _PRODUCTS, _TEXTS):
        if product["product_locale"] != locale:
            continue
        key = np.uint64(fingerprint(product["product_id"]))
        for place in order[np.searchsorted(ordered, key) : np.searchsorted(ordered, key, side="right")]:
            if waiting[place]:
                waiting[place] = False
                yield _row({name: values[place] for name, values in columns.items()}, product, examples)
    for place in np.flatnonzero(waiting):
        where = f"{examples}, example {columns['example_id'][place]}"
        yield RejectedRow(where, f"the product {columns['product_id'][place]} is not among the products")


def _examples(path: Path, locale: str, small: bool) -> tuple[str, dict[str, list[Any]]]:
    """Name of the file, and the columns of the examples wanted."""
    optional = ("small_version",) if small else ()
    columns: dict[str, list[Any]] = {name: [] for name in _EXAMPLES if name != "product_locale"}
    for example in _batches(path, (*_EXAMPLES, *optional), ()):
        if example["product_locale"] == locale and (not small or example["small_version"]):
            for name, column in columns.items():
                value = example[name]
                # A query stands in some twenty examples; each text is held once.
                column.append(sys.intern(value) if isinstance(value, str) else value)
    if not columns["example_id"]:
        raise DataError(f"has no example of the locale '{locale}'", where=path.name, fix="It is us, es or jp.")
    return path.name, columns


def _row(example: Mapping[str, Any], product: Mapping[str, Any], file: str) -> SourceRow | RejectedRow:
    where = f"{file}, example {example['example_id']}"
    grade = GRADES.get(str(example["esci_label"]))
    if grade is None:
        return RejectedRow(where, f"field 'esci_label': '{example['esci_label']}' is none of E, S, C, I", dict(example))
    title = _plain(product["product_title"])
    text = ". ".join(part for name in _TEXTS if (part := _plain(product.get(name))))
    return SourceRow(
        {
            "topic": str(example["query_id"]),
            "query": example["query"],
            "document": str(example["product_id"]),
            "title": title if text else "",
            "passage": text or title,
            "grade": grade,
            "split": example["split"],
        },
        where,
    )


def _plain(text: str | None) -> str:
    return " ".join(_TAG.sub(" ", text).split()) if text else ""


def _batches(path: Path, required: tuple[str, ...], optional: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, of these columns only."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        there = table.schema_arrow.names
        if missing := [name for name in required if name not in there]:
            raise DataError(f"there is no column '{missing[0]}'", where=path.name, fix="Is it a file of ESCI?")
        for batch in table.iter_batches(columns=[name for name in (*required, *optional) if name in there]):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"is not a sound Parquet file ({error})", where=path.name, fix="Fetch it again.") from None


def _one(source: Path, name: str) -> Path:
    found = sorted(source.glob(f"*{name}*.parquet"))
    if len(found) != 1:
        raise DataError(
            f"has {len(found)} files *{name}*.parquet where one is needed",
            where=str(source),
            fix="Give the folder of the dataset.",
        )
    return found[0]
