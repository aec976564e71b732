"""A shop folder: the same bytes for the same arguments, a card, and nothing after a failure."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.shop import make_shop, read_card
from searchlora.shop import rewriting as rewriting_module
from searchlora.shop.catalogue import make_catalogue
from searchlora.shop.judgments import CAPS
from searchlora.shop.tables import load_tables

#: The files of the demo's shop (2000 products, 2400 queries, seed 13) -> sha256: committed results depend on them.
DEMO = {
    "rewriting.jsonl": "4b39ec0b645dd478f3dd9057779b1ed5092bdce7c3fde39bef63525fe7904dc2",
    "vocabulary.json": "a2d48692e24f81d3648e78c97a09aef1e8a3f2a24914d3cd6395e9b82271c66b",
    "corpus.jsonl": "558d8d07138e58e642227861516f59575da45764f4188f8758da6961d76086ff",
    "qrels.txt": "4a665ef709957b2603334fd5cd1c541d1b1353f473347735f0170f4a98314298",
    "qrels.txt.card.json": "211ba705d2a4f92ddc564367ce10b2b06b86e84646697a45cf26d177c02dc290",
    "intent.jsonl": "0c0618259dabf7dfb6d638480dc3a976d2b351b0622cb51ba1827e1b392068bd",
    "intent.schema.json": "074f9efde12fced9efb87b301ce139552c96d58b665c9c45fe143bbf8c6b80d8",
    "judgment.jsonl": "a7cfe48044789f85f1d5d44b2c283137215397c7551d661fb44a8971dd22310b",
    "embedding.jsonl": "1a6f7a305902030c0200db78ba30e568db9d0785d11e59d9ba9b06833d3a81e1",
    "help/articles.jsonl": "5f74c171bad00f7b2bfacbbd0d70380c21a83c2f25107b1eebaeef95e0623b64",
    "rag_answer.jsonl": "bd7f9a779b07d160381653225a43d3e055897d74a5435b27f71760224d3f1a41",
}

#: Some files of a small shop: 600 products, 120 queries, seed 5.
SMALL = {
    "rewriting.jsonl": "15b2d5212a48c12b3c6cd378048480aa22db0f69787d502d2a4c8a7daea2cff4",
    "qrels.txt": "f7c5b6bae99d86d748b18117d3f30cf3589918fb906dbcd5ad8e4044204937f7",
    "intent.jsonl": "9a814ebd56f005fa0ec53584fd1057c0c00f46f53fdbbb5ffc742ba7666d951e",
    "judgment.jsonl": "03e6e52c32e451cc55bdba00ea2b7767c736deab1172103b8e173e3dc1d2928d",
    "rag_answer.jsonl": "61a84745d2f07d6020910d090d43d3a4d934f3614094079d33af7d097ec465db",
}


def test_the_demo_shop_has_pinned_hashes_and_a_card_that_lists_them(shop):
    card = read_card(shop)
    assert card.files == DEMO
    written = {file.relative_to(shop).as_posix(): file for file in shop.rglob("*") if file.is_file()}
    assert written.keys() == {"shop.json", *DEMO}
    assert {name: hashlib.sha256(written[name].read_bytes()).hexdigest() for name in DEMO} == DEMO
    assert card.seed == 13 and card.capped_queries == 0 and card.statement.startswith("Synthetic data")
    assert card.counts["products"] == 2000
    assert sum(sum(kinds.values()) for kinds in card.counts["records"].values()) == 2400
    assert sum(card.counts["judgments"].values()) == len((shop / "qrels.txt").read_text().splitlines())


def test_another_seed_and_size_give_another_shop_with_pinned_hashes(tmp_path):
    card = make_shop(str(tmp_path / "shop"), products=600, queries=120, seed=5)
    assert {name: card.files[name] for name in SMALL} == SMALL
    assert read_card(tmp_path / "shop") == card


@pytest.mark.slow
def test_shops_of_any_seed_fill_every_file(tmp_path):
    for seed in (1, 2, 3):
        counts = make_shop(tmp_path / str(seed), products=600, queries=100, seed=seed).counts
        for name in ("records", "intent", "judgment", "embedding", "rag_answer"):
            assert counts[name].keys() == {"train", "validation", "test"}, (seed, name)


@pytest.mark.slow
def test_truncated_lists_follow_catalogue_order(tmp_path):
    card = make_shop(tmp_path / "shop", products=30_000, queries=100)
    assert card.capped_queries > 0
    per_topic: dict[str, list[tuple[int, str]]] = {}
    for line in (tmp_path / "shop" / "qrels.txt").read_text().splitlines():
        topic, _, document, grade = line.split()
        per_topic.setdefault(topic, []).append((-int(grade), document))
    for judged in per_topic.values():
        assert judged == sorted(judged)
        assert all(sum(value == -grade for value, _ in judged) <= cap for grade, cap in CAPS.items())


def test_documents_use_catalogue_terms(shop):
    corpus, tables = list(map(json.loads, (shop / "corpus.jsonl").read_text().splitlines())), load_tables()
    product = make_catalogue(tables, size=2000, seed=13)[7]
    assert corpus[7]["title"].endswith(product.type)
    assert all(product.facts[name] in corpus[7]["text"] for name in ("sku", *tables.types[product.type].attributes))


@pytest.mark.parametrize(
    ("products", "queries", "says"),
    [(599, 2400, "600 to 100,000 products"), (2000, 99, "100 to 100,000 queries"), (10**12, 100, "600 to 100,000")],
)
def test_a_shop_of_another_size_is_refused(tmp_path, products, queries, says):
    with pytest.raises(UsageError, match=says):
        make_shop(tmp_path / "shop", products=products, queries=queries)


@pytest.mark.slow
def test_too_many_queries_for_the_products_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rewriting_module, "_PATIENCE", 200)
    with pytest.raises(DataError, match=r"only \d+ different queries of kind 'plain' in train.*more products"):
        make_shop(tmp_path / "shop", products=600, queries=30_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "{", json.dumps({"seed": 1})])
def test_a_folder_without_a_card_is_not_a_shop(tmp_path, content):
    if content is not None:
        (tmp_path / "shop.json").write_text(content)
    with pytest.raises(DataError, match="not a synthetic shop"):
        read_card(tmp_path)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, searchlora.shop; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
