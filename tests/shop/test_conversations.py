from __future__ import annotations

from typing import Any

import pytest

from searchlora.shop.rewriting import plural
from searchlora.shop.tables import load_tables


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("dome tent", "dome tents"),
        ("running shoes", "running shoes"),
        ("climbing harness", "climbing harnesses"),
        ("garden bench", "garden benches"),
        ("brolly", "brollies"),
        ("holiday", "holidays"),
        ("cook's knife", "cook's knives"),
    ],
)
def test_plural_forms(one: str, many: str):
    assert plural(one) == many


def test_later_turns_depend_on_the_first(records: list[dict[str, Any]]):
    types = set(load_tables().types)
    depending = [r for r in records if r["kind"] == "conversation" and r["needs_rewrite"]]
    rewritten_to = {next(kind for kind in types if record["rewrite"].endswith(kind)) for record in depending}
    assert len(rewritten_to) > 50
    # All but those that ask for another product type leave the product to the history.
    silent = [r for r in depending if not any(kind in r["query"] for kind in types)]
    assert len(silent) > 0.8 * len(depending)
    assert all(record["history"][0]["role"] == "user" for record in depending)


def test_a_topic_change_names_another_product_in_catalogue_terms(records: list[dict[str, Any]]):
    topics = [r for r in records if r["kind"] == "conversation" and not r["needs_rewrite"]]
    assert topics
    assert all(any(record["query"].endswith(kind) for kind in load_tables().types) for record in topics)
