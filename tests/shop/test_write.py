from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from searchlora.errors import DataError, UsageError
from searchlora.shop import make_shop, read_card
from searchlora.shop.catalogue import Catalogue
from searchlora.shop.tables import load_tables
from tests.memory import PEAK

FILES = {
    "corpus.jsonl",
    "rewriting.jsonl",
    "qrels.txt",
    "qrels.txt.card.json",
    "vocabulary.json",
    "intent.jsonl",
    "intent.schema.json",
    "judgment.jsonl",
    "embedding.jsonl",
    "categories.jsonl",
    "help/articles.jsonl",
    "rag_answer.jsonl",
    "shop.json",
}

#: Prints seconds and the peak of resident memory in MiB of making a shop.
MEASURED = f"""{PEAK}
import sys, time
from pathlib import Path
from searchlora.shop import make_shop
start = time.perf_counter()
make_shop(Path(sys.argv[1]), products=int(sys.argv[2]))
print(time.perf_counter() - start, peak())
"""


def made(folder: Path, products: int) -> tuple[float, float]:
    command = [sys.executable, "-c", MEASURED, str(folder), str(products)]
    seconds, mebibytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(mebibytes)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_process(shop: Path, tmp_path: Path):
    made(tmp_path / "again", 2000)
    assert {str(file.relative_to(shop)) for file in shop.rglob("*") if file.is_file()} == FILES
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (shop / name).read_bytes(), name


def test_the_folder_may_be_a_string(tmp_path: Path):
    card = make_shop(str(tmp_path / "shop"), products=600, queries=100)
    assert read_card(tmp_path / "shop") == card


@pytest.mark.slow
def test_another_seed_gives_another_shop(tmp_path: Path):
    cards = [make_shop(tmp_path / str(seed), products=600, queries=100, seed=seed) for seed in (1, 2)]
    for name in ("corpus.jsonl", "rewriting.jsonl", "qrels.txt"):
        assert cards[0].files[name] != cards[1].files[name]


def test_the_card_describes_the_folder(shop: Path, corpus: list[dict[str, str]]):
    card = read_card(shop)
    assert card.seed == 13
    assert card.counts["products"] == len(corpus) == 2000
    assert sum(sum(kinds.values()) for kinds in card.counts["records"].values()) == 2400
    assert sum(card.counts["judgments"].values()) == len((shop / "qrels.txt").read_text().splitlines())
    assert card.capped_queries == 0
    assert card.statement.startswith("Synthetic data")
    assert set(card.files) == FILES - {"shop.json"}
    for name, digest in card.files.items():
        assert hashlib.sha256((shop / name).read_bytes()).hexdigest() == digest


def test_documents_use_catalogue_terms(corpus: list[dict[str, str]]):
    assert all(set(document) == {"id", "title", "text"} for document in corpus)
    assert len({document["id"] for document in corpus}) == len(corpus)
    tables = load_tables()
    product = Catalogue(tables, size=2000, seed=13).product(7)
    assert corpus[7]["title"].endswith(product.type)
    assert all(product.facts[name] in corpus[7]["text"] for name in tables.types[product.type].attributes)
    assert product.facts["sku"] in corpus[7]["text"]


def test_children_products_use_the_sizes_for_children():
    products = [p for p in Catalogue(load_tables(), size=6000, seed=1) if p.facts.get("wearer") == "children's"]
    sizes = {product.facts["shoe_size"] for product in products if "shoe_size" in product.facts}
    assert sizes == {"size 38", "size 40"}


@pytest.mark.slow
def test_progress_is_reported_to_the_end(tmp_path: Path):
    reported: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None, note: str = "") -> None:
        assert note == "products"
        reported.append((done, total))

    make_shop(tmp_path / "shop", products=2500, queries=100, progress=progress)
    assert reported == [(1000, 2500), (2000, 2500), (2500, 2500)]


@pytest.mark.parametrize(("products", "queries"), [(599, 2400), (2000, 99)])
def test_a_too_small_shop_is_refused(tmp_path: Path, products: int, queries: int):
    with pytest.raises(UsageError, match="at least"):
        make_shop(tmp_path / "shop", products=products, queries=queries)


@pytest.mark.parametrize(("products", "queries"), [(10**12, 100), (600, 10**30)])
def test_a_too_large_shop_is_refused(tmp_path: Path, products: int, queries: int):
    with pytest.raises(UsageError, match="at most 10,000,000"):
        make_shop(tmp_path / "shop", products=products, queries=queries)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="already exists"):
        make_shop(tmp_path, products=600, queries=100)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left on device"):
        make_shop(tmp_path / "shop", products=600, queries=100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "{", json.dumps({"seed": 1})])
def test_a_folder_without_a_card_is_not_a_shop(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "shop.json").write_text(content)
    with pytest.raises(DataError, match="not a synthetic shop"):
        read_card(tmp_path)


@pytest.mark.slow
def test_600_products_are_generated_quickly(tmp_path: Path):
    seconds, _ = made(tmp_path / "shop", 600)
    assert seconds < 15


@pytest.mark.slow
def test_memory_does_not_grow_with_100_000_products(tmp_path: Path):
    _, small = made(tmp_path / "small", 600)
    seconds, large = made(tmp_path / "large", 100_000)
    assert seconds < 60
    # The judgments are capped for each query; 100,000 products kept as objects would be some 100 MiB.
    assert large < small + 40


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, searchlora.shop; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
