"""Documents of the shop for a search pipeline: products with their attributes as columns, and the help centre."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from searchlora.files import read_rows, strict
from searchlora.shop.catalogue import Catalogue
from searchlora.shop.tables import load_tables
from searchlora.shop.write import read_card


def search_documents(shop: Path) -> Iterator[dict[str, str]]:
    """The products of `corpus.jsonl` with the columns `brand`, `product_type` and `category`, then the help articles.

    The values of the columns are those of the intent records, so a stage `filter` finds them.

    Args:
        shop: A folder that `make_shop` wrote.

    Raises:
        DataError: if it is not a shop.

    Examples:
        >>> import tempfile
        >>> from searchlora.shop import make_shop
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = make_shop(f"{folder}/shop", products=600, queries=100)
        ...     documents = list(search_documents(Path(folder) / "shop"))
        >>> documents[0]["product_type"] in documents[0]["text"].casefold(), documents[-1]["id"]
        (True, 'h120')
    """
    card, tables = read_card(shop), load_tables()
    catalogue = Catalogue(tables, size=card.counts["products"], seed=card.seed)
    for row in strict(read_rows(shop / "corpus.jsonl")):
        product = catalogue.by_id(str(row.data["id"]))
        columns = {
            "brand": product.facts["brand"],
            "product_type": product.type,
            "category": tables.types[product.type].category,
        }
        yield {**row.data, **columns}
    for row in strict(read_rows(shop / "help" / "articles.jsonl")):
        yield dict(row.data)
