"""Reader of ESCI, the Shopping Queries Dataset (Reddy et al. 2022, arXiv:2206.06588), as one table.

The table (CSV, TSV, JSONL, Parquet) joins the published examples with their products: `query, product_id,
product_locale, esci_label, product_title`, where `esci_label` may be a word, and optionally `query_id, query_locale,
split` and further texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.formats.common import Converted, FormatRows, converted, no_text, pair_id
from searchlora.data.splits import SPLIT_NAMES
from searchlora.errors import DataError
from searchlora.eval.text_identity import fingerprint
from searchlora.files import as_text, read_rows
from searchlora.records import Option, Options, Record, SourceReport, SourceRow

#: Label, a letter or a word -> grade.
GRADES: Mapping[str, int] = {
    label: grade
    for grade, labels in enumerate((("i", "irrelevant"), ("c", "complement"), ("s", "substitute"), ("e", "exact")))
    for label in labels
}
OPTIONS: Mapping[str, Option] = {
    "locale": Option("locale of the examples; all: every one", "us, es, jp or all", "us"),
}

_REQUIRED = ("query", "product_id", "product_locale", "esci_label", "product_title")
_TEXTS = ("product_brand", "product_color", "product_color_name", "product_bullet_point", "product_description")
_TAG = re.compile(r"<[^>]*>")


def read_esci(source: Path, options: Options) -> FormatRows:
    """Graded pairs in file order; repeated pairs and those of other locales are left out and counted.

    Yields:
        `topic` (query_id), `query`, `document` (product_id), `title`, `passage` (brand, colour, bullet points,
        description, without mark-up; the title if there is none), `grade`, `split`.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has no pair of the locale.
    """
    locale = options.get("locale", "us")
    seen: dict[int, str] = {}
    counts = Counter[str]()

    def graded(row: SourceRow) -> Converted:
        data = row.data
        if locale not in ("all", data["product_locale"]):
            counts["pairs of other locales left out"] += 1
        elif data.get("query_locale") not in (None, "", data["product_locale"]):
            counts["pairs of a query and a product of two locales left out"] += 1
        elif (key := fingerprint(f"{data['product_locale']}\n{data['product_id']}\n{data['query']}")) not in seen:
            seen[key] = str(data["esci_label"])
            return _pair(data)
        elif seen[key] == data["esci_label"]:
            counts["repeated pairs left out"] += 1
        else:
            return f"the pair has the label '{seen[key]}' in an earlier row"
        return None

    yield from converted(read_rows(source, _REQUIRED), graded)
    if not seen:
        raise DataError(f"has no pair of the locale '{locale}'", where=source.name, fix="It is us, es, jp or all.")
    if counts:
        yield SourceReport((), dict(counts))


def _pair(data: Record) -> Converted:
    label = str(data["esci_label"]).strip()
    grade = GRADES.get(label.lower())
    if grade is None:
        return f"field 'esci_label': '{label}' is none of E, S, C, I"
    # pandas writes a number in a column with gaps as "7.0"
    query_id = str("" if data.get("query_id") is None else data["query_id"]).removesuffix(".0")
    title = _without_markup(data["product_title"])
    text = ". ".join(part for name in _TEXTS if (part := _without_markup(data.get(name))))
    return no_text(data, ("query",)) or {
        "topic": query_id or pair_id(str(data["query"])),
        "query": data["query"],
        "document": str(data["product_id"]),
        "title": title if text else "",
        "passage": text or title,
        "grade": grade,
        "split": SPLIT_NAMES.get(str(data.get("split"))),
    }


def _without_markup(value: Any) -> str:
    return " ".join(_TAG.sub(" ", as_text(value)).split())
