"""An intent adapter for Chorus, learned from the catalogue alone: the brand and the product type that a query names.

    python -m benchmarks.slot_ablation.intents

Chorus has no queries with intents. A training query is a few words of a product's title, in lower case, half of them
without the brand; its intent is the product's supplier and type where the words name them, else null. No query of the
test set is read. The adapter is in `benchmarks/work/slot_ablation/intents/store`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import WORK, native_dataset, real_data
from searchlora.adapters.store import Store
from searchlora.cli.terminal import progress_bars
from searchlora.eval.formatting import write_json
from searchlora.eval.text_identity import normalised
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.files import read_rows, strict

NAME = "chorus-intent"
SEED = 13

#: Number of training queries: about 170,000 tokens.
ROWS = 2400

#: Values of fewer products are no brand and no type.
PRODUCTS = 15

#: Field of the intent -> column of the products.
COLUMNS = {"brand": "supplier", "category": "attr_t_product_type"}

#: Share of the queries that are drawn from titles with a product type: few products have one.
TYPED = 0.4

#: Longest query in words.
WORDS = 5


def main() -> None:
    folder = WORK / "slot_ablation" / "intents"
    products = [row.data for row in strict(read_rows(real_data() / "chorus" / "products.jsonl.gz"))]
    schema, rows = intents(products, ROWS)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "schema.json", schema)
    options = {"schema": str(folder / "schema.json")}
    data = native_dataset(folder / "data", "intent", rows, options=options, split_ratios=(0.95, 0.05, 0)).folder
    with progress_bars() as steps:
        stored = train(
            "intent",
            data,
            NAME,
            TrainingOptions(overrides=("optim.epochs=1",), reuse=True),
            store=Store(folder / "store"),
            steps=steps,
            log=print,
        )
    print(f"{stored.reference}: {json.dumps(dict(stored.manifest.metrics))}")


def intents(products: Sequence[Mapping[str, Any]], count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The schema of the intents, and at most `count` records with different queries; the same call gives the same."""
    values = {field: _frequent(products, column) for field, column in COLUMNS.items()}
    typed = [
        product for product in products if _named(product.get(COLUMNS["category"]), _lower(product), values["category"])
    ]
    chance = random.Random(SEED)
    rows: dict[str, dict[str, Any]] = {}
    for _ in range(5 * count):
        if len(rows) == count:
            break
        of_type = bool(typed) and chance.random() < TYPED
        product = chance.choice(typed if of_type else products)
        words = _lower(product).split()
        brand = str(product.get("supplier") or "").casefold().split()
        if chance.random() < 0.5:
            words = [word for word in words if word not in brand]
        length = chance.randint(1, WORDS)
        start = chance.choice([0, 0, max(0, len(words) - length)])
        if of_type and (first := str(product[COLUMNS["category"]]).casefold().split()[0]) in words:
            start = max(0, words.index(first) - chance.randint(0, length - 1))
        query = " ".join(words[start : start + length])
        if query:
            stated = {field: _named(product.get(column), query, values[field]) for field, column in COLUMNS.items()}
            row = {"id": f"i{len(rows)}", "group": normalised(query), "query": query, "object": stated}
            rows.setdefault(query, row)
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": list(COLUMNS),
        "properties": {field: {"enum": [*values[field], None]} for field in COLUMNS},
    }
    return schema, list(rows.values())


def _lower(product: Mapping[str, Any]) -> str:
    return " ".join(str(product["title"]).casefold().split())


def _frequent(products: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """Values of a column that enough products have, sorted; numbers are left out."""
    found = Counter(str(row[column]) for row in products if row.get(column))
    return sorted(value for value, count in found.items() if count >= PRODUCTS and not value.isdigit())


def _named(value: Any, query: str, known: Sequence[str]) -> str | None:
    """The value if it is a known one whose words the query has in their order."""
    text = " ".join(str(value or "").casefold().split())
    return str(value) if value in known and f" {text} " in f" {query} " else None


if __name__ == "__main__":
    main()
