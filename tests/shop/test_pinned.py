"""Pinned hashes of generated shops: committed results depend on these files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from searchlora.shop import make_shop

#: File -> sha256 at 600 products, 120 queries, seed 5.
SMALL = {
    "rewriting.jsonl": "15b2d5212a48c12b3c6cd378048480aa22db0f69787d502d2a4c8a7daea2cff4",
    "vocabulary.json": "a2d48692e24f81d3648e78c97a09aef1e8a3f2a24914d3cd6395e9b82271c66b",
    "corpus.jsonl": "2d61f28ec29132fa2ed828646db67c4d104512d0027cfa623379685a5b807fa1",
    "qrels.txt": "f7c5b6bae99d86d748b18117d3f30cf3589918fb906dbcd5ad8e4044204937f7",
}

#: The same of the demo's shop: 2000 products, 2400 queries, seed 13.
DEMO = {
    "rewriting.jsonl": "4b39ec0b645dd478f3dd9057779b1ed5092bdce7c3fde39bef63525fe7904dc2",
    "vocabulary.json": "a2d48692e24f81d3648e78c97a09aef1e8a3f2a24914d3cd6395e9b82271c66b",
    "corpus.jsonl": "558d8d07138e58e642227861516f59575da45764f4188f8758da6961d76086ff",
    "qrels.txt": "4a665ef709957b2603334fd5cd1c541d1b1353f473347735f0170f4a98314298",
}


def sha256(folder: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_a_small_shop_has_pinned_hashes(tmp_path: Path):
    make_shop(tmp_path / "shop", products=600, queries=120, seed=5)
    assert sha256(tmp_path / "shop", SMALL) == SMALL


def test_the_demo_shop_has_pinned_hashes(shop: Path):
    assert sha256(shop, DEMO) == DEMO
