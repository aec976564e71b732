"""Field maps: a user's column names for the fields that a reader needs."""

from __future__ import annotations

import json

import pytest

from searchlora.data.collection import CorpusFile, read_documents
from searchlora.errors import DataError, UsageError
from searchlora.files import mapped, parse_field_map
from searchlora.pipelines.pipeline import Pipeline
from searchlora.records import Document
from searchlora.retrieval import BM25Index


@pytest.mark.parametrize("pair", ["text", "=title", "text=", "text=a,,b", " =a"])
def test_a_malformed_map_is_refused(pair):
    with pytest.raises(UsageError, match="--map text=title,description"):
        parse_field_map([pair])


def test_a_field_is_mapped_once():
    with pytest.raises(UsageError, match="'text' is mapped twice"):
        parse_field_map(["text=a", "text=b"])


def test_two_fields_may_swap_their_columns():
    assert mapped({"title": "a", "text": "b"}, {"title": ("text",), "text": ("title",)}) == {"title": "b", "text": "a"}


@pytest.fixture
def products(tmp_path):
    rows = [
        {"sku": 7, "name": "Red couch", "short": "for two", "brand": "Acme", "colours": ["red", "blue"], "price": 9.5},
        {"sku": 8, "name": "Tent", "brand": None, "stock": {"berlin": 3}},
    ]
    (tmp_path / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "products.jsonl"


def test_documents_are_read_from_mapped_columns_with_metadata(products):
    fields = parse_field_map(["id=sku", "title=name", "text=name,short"])
    first, second = read_documents(CorpusFile(products, fields))
    assert (first.id, first.title, first.text) == ("7", "Red couch", "Red couch for two")
    assert (first.field("brand"), first.field("colours"), first.field("price")) == ("Acme", "red blue", "9.5")
    assert (second.id, second.text, second.field("brand"), second.field("nothing")) == ("8", "Tent", "", "")
    assert json.loads(second.field("stock")) == {"berlin": 3}
    assert hash(first) != hash(second)


def test_a_title_alone_is_the_text(tmp_path):
    (tmp_path / "c.csv").write_text("id,title,text\n1,Tent,\n2,,pegs\n")
    assert [(d.text, d.title) for d in read_documents(tmp_path / "c.csv")] == [("Tent", ""), ("pegs", "")]


def test_an_empty_text_is_a_document_and_a_missing_one_is_not(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "1", "text": "", "name": null}\n')
    assert [document.text for document in read_documents(tmp_path / "c.jsonl")] == [""]
    mapped_file = CorpusFile(tmp_path / "c.jsonl", {"text": ("name",)})
    assert [document.text for document in read_documents(mapped_file)] == [""]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["id=sku"], r"line 1: the document field 'text' is missing.*Columns: sku, name.*--map text=COLUMN"),
        (["text=name"], r"line 1: the document field 'id' is missing.*--map id=COLUMN"),
        (["id=sku", "text=name,shrt"], "no row has the column 'shrt', which the map"),
        (["id=price", "text=name"], "line 1: id, text and title of a document must be text"),
    ],
)
def test_a_missing_column_is_named(products, fields, says):
    with pytest.raises(DataError, match=says):
        list(read_documents(CorpusFile(products, parse_field_map(fields))))


def test_the_hint_is_of_the_verb_that_reads_the_corpus(products, tmp_path):
    with pytest.raises(DataError, match=r"Say which holds it: rename the column to id\."):
        list(read_documents(CorpusFile(products, {}, "rename the column to {field}")))
    (tmp_path / "own.yaml").write_text(f"name: own\ncorpus: {products}\nstages: [{{bm25: {{k: 1}}}}]\n")
    with pytest.raises(DataError, match=r"Say which holds it: map: \{id: COLUMN\}"):
        Pipeline.load(tmp_path / "own.yaml")


def test_bm25_fields_count_as_often_as_their_boost():
    documents = [
        Document("a", "tent", "couch", {"brand": "Acme"}),
        Document("b", "couch couch couch", "tent"),
        Document("c", "pegs", "", {"brand": "tent"}),
    ]
    repeated = [Document(d.id, " ".join([d.title] * 3 + [d.text] + [d.field("brand")] * 2)) for d in documents]
    weighted = BM25Index(documents, fields={"title": 3, "text": 1, "brand": 2})
    assert weighted.search(["tent", "acme couch"], 9) == BM25Index(repeated).search(["tent", "acme couch"], 9)
    for fields in ({}, {"title": 0}):
        with pytest.raises(UsageError, match="boost"):
            BM25Index(documents, fields=fields)


@pytest.mark.slow
def test_fields_and_boosts_stand_in_the_pipeline(tmp_path, products, cli, refused):
    (tmp_path / "shop.yaml").write_text("name: shop\nstages: [{bm25: {fields: {title: 3, brand: 1}}}]\n")
    corpus = CorpusFile(products, parse_field_map(["id=sku", "title=name", "text=name"]))
    shop = Pipeline.load(tmp_path / "shop.yaml", corpus=corpus)
    assert shop.tag == "shop_bm25(fields=title^3:brand^1)"
    assert [hit["document"] for hit in shop.search("acme")["hits"]] == ["7"]
    maps = ("--map", "id=sku", "--map", "text=name,short")
    found = json.loads(cli("search", "bm25", "two", "--corpus", products, *maps, "--json").out)
    assert [hit["document"] for hit in found["hits"]] == ["7"]
    assert "'id' is missing" in refused("search", "bm25", "two", "--corpus", products)
    assert "Give --corpus, too" in refused("search", "bm25", "two", *maps)
