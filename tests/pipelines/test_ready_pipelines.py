"""The built-in search pipelines on samples of the real data, built by commands, with tiny models."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from searchlora.adapters.store import Store
from searchlora.data.dataset import load_dataset
from searchlora.files import open_text
from searchlora.models.resolve import BaseModel
from searchlora.task import load_generation_task, load_task
from tests.conftest import Called
from tests.factories import native_dataset, random_adapter, random_encoder_adapter, write_jsonl

DOCUMENTS = 120
QUERIES = 3
SPLIT = ("--split-ratios", "0.5,0.1,0.4")
LARGE_TEST = ("--split-ratios", "0.4,0.1,0.5")

Cli = Callable[..., Called]


@pytest.fixture(scope="module")
def store(tiny_base: BaseModel, encoder_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an adapter of random weights for each slot but the intent, whose schema depends on the data."""
    folder = tmp_path_factory.mktemp("ready")
    store = Store(folder / "store")
    for seed, (name, task) in enumerate(
        {"rewriter": "rewriting", "judge": "judgment", "answers": "rag_answer"}.items(), 1
    ):
        random_adapter(store, name, load_generation_task(task), tiny_base, folder / name, seed=seed)
    random_encoder_adapter(store, "embedder", load_task("embedding"), encoder_base, folder / "embedder")  # type: ignore[arg-type]
    return store.root


@pytest.fixture
def ready(cli: Cli, store: Path, encoder_base: BaseModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Index a corpus for a pipeline with adapters in its slots, and execute it over queries; returns the results."""
    monkeypatch.setenv("SEARCHLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def called(*words: object) -> Called:
        done = cli(*words)
        assert done.code == 0, done
        return done

    def execute(pipeline: str, queries: Path, corpus: Path, *columns: str, **slots: str | int) -> list[dict[str, Any]]:
        settings = ["--store", str(store), "--set", f"encoder={encoder_base.path}"]
        settings += [word for slot, value in slots.items() for word in ("--set", f"{slot}={value}")]
        mapped = [word for column in columns for word in ("--map", column)]
        called("index", "build", corpus, *mapped, "--out", "index", "--pipeline", pipeline, *settings)
        out = ("--out", "run.trec", "--out", "results.jsonl", "--trace", "trace.jsonl")
        called("run", pipeline, "--queries", queries, "--corpus", "index", *out, *settings)
        return rows_of(Path("results.jsonl"))

    execute.called = called  # type: ignore[attr-defined]
    return execute


def rows_of(path: Path, count: int | None = None) -> list[dict[str, Any]]:
    """The first rows of a JSONL file, packed or not."""
    with open_text(path) as lines:
        return [json.loads(line) for line in islice(lines, count)]


def check_stages(results: list[dict[str, Any]], adapters: list[str], *, graded: int, passages: int) -> None:
    """Every query has the output of every stage; the trace and the run name the versions."""
    trace = rows_of(Path("trace.jsonl"))
    run = [line.split() for line in Path("run.trec").read_text(encoding="utf-8").splitlines()]
    for result in results:
        stages = [row for row in trace if row["id"] == result["id"]]
        assert [row["label"] for row in stages] == result["stages"]
        assert [row["adapter"] for row in stages if row["kind"] == "adapter"] == adapters
        assert all(row["output"] or row["flags"] for row in stages), stages
        assert len(result["hits"]) > passages and len(result["passages"]) == passages
        assert len(result.get("grades", ())) == graded
        hits = [(each["document"], each["rank"]) for each in result["hits"]]
        assert [(line[2], int(line[3])) for line in run if line[0] == result["id"]] == hits
        assert "embedder@1" in " ".join(result["stages"])
    assert all(adapter in run[0][5] for adapter in [*adapters, "embedder@1"])


@pytest.mark.slow
def test_product_search_on_chorus(ready: Any, store: Path, tiny_base: BaseModel, real_data: Path) -> None:
    products = rows_of(real_data / "chorus" / "products.jsonl.gz", DOCUMENTS)
    corpus = write_jsonl(Path("products.jsonl"), products)
    brands, types = ({str(row[name]) for row in products if row.get(name)} for name in ("supplier", "attr_t_type"))
    schema = {
        "type": "object",
        "properties": {"brand": {"enum": sorted(brands)}, "category": {"enum": [*sorted(types), None]}},
        "required": ["brand", "category"],
        "additionalProperties": False,
    }
    Path("schema.json").write_text(json.dumps(schema), encoding="utf-8")
    intents = []
    for row in products:
        wanted = {"brand": row["supplier"], "category": row.get("attr_t_type")}
        intents.append({"id": row["id"], "group": row["title"], "query": row["title"], "object": wanted})
    native_dataset("intent", Path("data"), intents, options={"schema": "schema.json"})
    task = load_generation_task("intent").bound(load_dataset(Path("data")).settings)
    random_adapter(Store(store), "intent", task, tiny_base, Path("intent"), seed=4)
    with (real_data / "chorus" / "rated.csv").open(encoding="utf-8") as file:
        queries = list(dict.fromkeys(row["query"] for row in csv.DictReader(file)))[:QUERIES]
    topics = write_jsonl(Path("queries.jsonl"), ({"id": f"q{n}", "query": query} for n, query in enumerate(queries)))
    columns = ("text=short_description", "brand=supplier", "category=attr_t_type")
    slots = {"intent": "intent", "rewriter": "rewriter", "embedder": "embedder", "judge": "judge"}
    results = ready("product_search", topics, corpus, *columns, **slots)
    check_stages(results, ["intent@1", "rewriter@1", "judge@1"], graded=20, passages=20)
    assert all(result["intent"]["brand"] in brands for result in results)

    # The same attributes as a filter, in a file of one's own.
    shown = ready.called("pipelines", "show", "product_search").out
    boosted = "filter: {boost: {brand: intent.brand, category: intent.category}, factor: $factor}"
    assert boosted in shown
    Path("mine.yaml").write_text(shown.replace(boosted, "filter: {filter: {brand: intent.brand}}"), encoding="utf-8")
    supplier = {row["id"]: row["supplier"] for row in products}
    filtered = ready("mine.yaml", topics, Path("index"), **slots)
    for result in filtered:
        assert {supplier[hit["document"]] for hit in result["hits"]} <= {result["intent"]["brand"]}

    # The whole corpus filtered, by a parameter: as many hits of the brand as it has products, up to k.
    of_brand = Counter(supplier.values())
    for result in ready("product_search", topics, Path("index"), **slots, filter_by="{brand: intent.brand}"):
        brand = result["intent"]["brand"]
        assert {supplier[hit["document"]] for hit in result["hits"]} == {brand}
        assert len(result["hits"]) == min(of_brand[brand], 100)


@pytest.mark.slow
def test_conversational_search_on_mtrag(ready: Any, real_data: Path) -> None:
    rows = rows_of(real_data / "mtrag" / "reference.jsonl", 60)
    source = write_jsonl(Path("reference.jsonl"), rows)
    ready.called("data", "build", "rewriting", source, "--format", "mtrag", "--out", "data", *LARGE_TEST)
    ready.called("data", "export", "data", "--split", "test", "--out", "test")
    asked = [topic for topic in rows_of(Path("test/topics.jsonl")) if topic.get("history")][:QUERIES]
    assert len(asked) == QUERIES
    topics = write_jsonl(Path("topics.jsonl"), asked)
    slots = {"rewriter": "rewriter", "embedder": "embedder", "judge": "judge", "answers": "answers", "depth": 4}
    results = ready("conversational_search", topics, Path("data/corpus.jsonl"), **slots)
    check_stages(results, ["rewriter@1", "judge@1", "answers@1"], graded=4, passages=3)
    turns = json.loads(asked[0]["history"])
    prompt = next(row for row in rows_of(Path("trace.jsonl")) if row["adapter"] == "rewriter@1")["requests"][0]
    assert " ".join(turns[0]["text"].split()) in json.dumps(prompt, ensure_ascii=False)
    assert all(result["answer"].keys() >= {"text", "citations", "abstained"} for result in results)


@pytest.mark.slow
def test_each_works_before_there_is_an_adapter(cli: Cli, encoder_base: BaseModel, tmp_path: Path) -> None:
    documents = write_jsonl(tmp_path / "documents.jsonl", ({"id": f"d{n}", "text": f"tent {n}"} for n in range(4)))
    for name in ("product_search", "movie_search", "faq_answers", "conversational_search"):
        found = cli("search", name, "tent", "--corpus", documents, "--set", f"encoder={encoder_base.path}", "--json")
        assert found.code == 0, found.err
        assert len(json.loads(found.out)["hits"]) == 4
    command = ("search", "product_search", "tent", "--corpus", documents, "--store", tmp_path / "store")
    assert "no adapter 'shop-judge'" in cli(*command, "--set", "judge=shop-judge").err
