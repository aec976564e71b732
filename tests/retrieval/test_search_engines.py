"""Indexes in PostgreSQL and Milvus: fields, filters, resumed loads, replacement, and what is refused.

The retriever contract of the same engines is in `tests/contract`; OpenSearch's requests are in `test_opensearch.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from searchlora.errors import DataError, EngineError, StaleIndex, UsageError
from searchlora.records import Document
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.engine_index import BATCH, TextKeys, load_index, open_index
from searchlora.retrieval.field_filter import FieldTest
from searchlora.retrieval.milvus import Milvus
from searchlora.retrieval.opensearch import OpenSearch
from searchlora.retrieval.postgres import Postgres
from searchlora.retrieval.search_engine import OpenIndex, TextSearch, VectorSearch
from tests.retrieval.vectorizers import found, identity, numbered, vectorizer_of

pytestmark = pytest.mark.slow

FIELDS = ("title", "text", "brand")
SHOP = [
    Document("d1", "trail running shoes for women", "Swift tent", {"brand": "Acme", "colour": "Red"}),
    Document("d2", "hiking boots, waterproof", metadata={"brand": "acme \\ \"x'", "size.eu": "42"}),
    Document("d3", "a green tent for two", "Northway", {"brand": "North  Way"}),
    Document("d4", "a tent, a tent, a tent", "", {"brand": "Acme"}),
    Document("d5", "tent\0s o'neil \\x \ud83d", "it's & | ! <-> a/b:*"),
    Document("blank", "  "),
]


@pytest.fixture(scope="module", params=["postgres", "milvus"])
def engine(request):
    opened = {"postgres": Postgres, "milvus": Milvus}[request.param](request.getfixturevalue(f"{request.param}_url"))
    yield opened
    opened.close()


def keys(engine, fields=FIELDS):
    return TextKeys(fields=fields, analyzer=engine.default_analyzer)


@pytest.fixture(scope="module")
def shop(engine, encoder) -> OpenIndex:
    """All of the shop, with full text and vectors."""
    loaded = load_index(engine, "shop", lambda: SHOP, text=keys(engine), vectorizer=vectorizer_of(encoder))
    assert loaded.loaded and (loaded.record.documents, loaded.record.facets) == (6, ("brand", "colour", "size.eu"))
    return open_index(engine, "shop", text=keys(engine), vectors=loaded.record.vectors.keys, filters=["brand"])


def test_the_score_is_a_weighted_sum_over_fields(shop):
    def scores(**boosts):
        return {hit.document: hit.score for hit in TextSearch(shop, boosts=boosts).search(["swift tent running"], 9)[0]}

    assert scores(brand=1) == {} and set(scores(title=1)) == {"d1"}
    title, text, both = scores(title=1), scores(text=1), scores(title=2, text=1)
    largest = 2 if isinstance(shop.engine, Postgres) else 1  # ts_rank_cd takes weights up to 1
    for document, score in both.items():
        expected = (2 * title.get(document, 0) + text.get(document, 0)) / largest
        assert score == pytest.approx(expected, rel=1e-5)


def test_filters_compare_whole_values_in_any_case(shop, encoder):
    cases = [
        ({"brand": "ACME"}, {"d1", "d4"}),
        ({"brand": "north way"}, {"d3"}),
        ({"brand": "north"}, set()),
        ({"brand": "Acme \\ \"X'"}, {"d2"}),
        ({"brand": ["acme", "North Way"]}, {"d1", "d3", "d4"}),
        ({"brand": "acme", "colour": "red"}, {"d1"}),
        ({"size.eu": "42"}, {"d2"}),
        ({"brand": 'x"] or true or facets["a'}, set()),
    ]
    for filter, expected in cases:
        assert set(found(TextSearch(shop, filter=filter), "tent boots shoes")) == expected, filter
        assert set(found(VectorSearch(shop, encoder, filter=filter), "tent boots shoes")) == expected, filter


def test_each_query_has_its_filter_beside_that_of_the_stage(shop, encoder):
    acme, north = ({"brand": FieldTest((("equals", frozenset({value})),))} for value in ("acme", "north way"))
    for searching in (
        TextSearch(shop, filter={"brand": ["ACME", "x"]}),
        VectorSearch(shop, encoder, filter={"brand": ["ACME", "x"]}),
    ):
        queries, filters = ["tent shoes", "tent", " ", "tent shoes"], [acme, north, acme, {}]
        first, second, blank, last = searching.search(queries, 10, filters=filters)
        assert {hit.document for hit in first} == {hit.document for hit in last} == {"d1", "d4"}
        assert second == blank == []  # no document can be of both brands; a blank query
    plain = TextSearch(shop)
    assert {hit.document for hit in plain.search(["tent boots shoes"], 10, filters=[north])[0]} == {"d3"}


def test_a_query_is_words_and_never_syntax(shop):
    search = TextSearch(shop)
    assert found(search, "it's & | ! :* <-> o'neil \\x")[0] == "d5"
    assert "d5" in found(search, "neil'; DROP TABLE x; --") or found(search, "o'neil")[0] == "d5"
    for query in ("<->", "!", "& |", ":*", "\\", "'", '"', "()", "%s %(k)s {}", "\0", "\ud83d"):
        search.search([query], 3)


def test_texts_and_further_fields_come_with_the_hits(shop, encoder):
    for search in (TextSearch(shop), VectorSearch(shop, encoder)):
        fetched = {hit.document: hit.fetched for hit in search.search(["running shoes for women"], 9)[0]}
        assert fetched["d1"] == SHOP[0] and fetched["d1"].field("brand") == "Acme"
    (hit,) = TextSearch(shop).search(["neil"], 1)[0] or TextSearch(shop).search(["o'neil"], 1)[0]
    assert hit.fetched.text == "tent s o'neil \\x ?"  # what no engine stores


def test_vectors_are_compared_by_inner_product(shop, encoder):
    hits = VectorSearch(shop, encoder).search(["hiking boots, waterproof", ""], 9)
    assert hits[0][0].document == "d2" and hits[0][0].score == pytest.approx(1, abs=1e-5)
    assert {hit.document for hit in hits[0]} == {"d1", "d2", "d3", "d4", "d5"} and hits[1] == []


def test_milvus_scores_one_field_by_bm25_as_defined(milvus_url):
    documents = [
        Document(f"d{number}", "tent " * (number % 4) + "green boots " * (number % 3) + "x") for number in range(20)
    ]
    engine = Milvus(milvus_url)
    load_index(engine, "defined", lambda: documents, text=keys(engine, ("text",)))
    (hits,) = TextSearch(open_index(engine, "defined")).search(["green tent"], 20)
    local = BM25Index(documents, k1=1.2, b=0.75, analyzer=Analyzer(stopwords=None, shortest=1))
    (expected,) = local.search(["green tent"], 20)
    scores = {hit.document: hit.score for hit in hits}
    assert scores.keys() == {hit.document for hit in expected}
    ratios = [scores[hit.document] / hit.score for hit in expected]
    assert ratios == pytest.approx([1 + 1.2] * len(ratios), rel=1e-4)  # bm25s leaves the constant factor k1 + 1 out


#: Ids that mean something in a filter, a request or a pattern, and pairs that only some comparisons tell apart.
ODD_IDS = [
    *("x']or(id!='q')or(id)in['", 'x"]or(id!="q")or(id)in["', "a'b", 'a"b', "a\\b", "c\\", "\\n", "\\'", "{x}", "%s"),
    *("A", "a", "é", "e\u0301", "x\x1by", "\x7f", "\U0001f600", "\u200b", "1", "01", "null", "[]", "_", "%", "i" * 512),
]


def test_documents_are_stored_whatever_their_ids_are(engine):
    # The odd ids come in a batch after others, which a filter that they broke out of would match.
    documents = [*numbered(BATCH), *(Document(each, "tent", "odd") for each in ODD_IDS)]
    load_index(engine, "odd", lambda: documents, text=keys(engine, ("title", "text")))
    ids = {document.id for document in documents}
    search = TextSearch(open_index(engine, "odd"), boosts={"title": 2, "text": 1})
    assert set(found(search, "tent odd", len(ids))) == ids and set(found(search, "odd", 99)) == set(ODD_IDS)


def test_names_and_values_of_filters_are_never_syntax(engine):
    names = ['x"] == "y" or facets["a', "a'b", "c\\", "\x1b", "é", "size.eu", "a/b~c", "nul\0", "\ud83d"]
    documents = [Document(f"d{number}", "tent", metadata={name: name}) for number, name in enumerate(names)]
    load_index(engine, "syntax", lambda: documents, text=keys(engine, ("text",)))
    opened = open_index(engine, "syntax")
    for number, name in enumerate(names):
        assert found(TextSearch(opened, filter={name: name}), "tent") == [f"d{number}"], name
        assert found(TextSearch(opened, filter={name: [names[0], "x"]}), "tent") == ["d0"][number:], name


# Loading


def test_an_index_is_searched_until_another_load_is_complete(engine, tmp_path):
    load_index(engine, "replaced", lambda: numbered(3), corpus=identity(tmp_path), text=keys(engine, ("text",)))
    old = open_index(engine, "replaced")
    publish, seen, second = engine.publish, [], identity(tmp_path, "b", "b.jsonl")

    def looked(index, generation, layout):
        seen.append(found(TextSearch(open_index(engine, index)), "tent"))
        publish(index, generation, layout)

    engine.publish = looked
    try:
        load_index(engine, "replaced", lambda: numbered(2, "sofa"), corpus=second, text=keys(engine, ("text",)))
    finally:
        del engine.publish
    assert seen == [["d2", "d1", "d0"]]
    assert found(TextSearch(open_index(engine, "replaced")), "sofa tent") == ["d1", "d0"]
    with pytest.raises(EngineError, match="load the pipeline again, too"):
        TextSearch(old).search(["tent"], 3)


def test_a_document_that_the_engine_cannot_hold_is_named(engine):
    long = Document("long", " ".join(f"word{number}" for number in range(200_000)))
    with pytest.raises(DataError, match=r"document long: .*cannot hold the document.*Split it into passages"):
        load_index(engine, "toolong", lambda: [*numbered(3), long], text=keys(engine, ("text",)))


def test_an_analyser_that_the_engine_does_not_have_is_refused(engine):
    with pytest.raises((UsageError, EngineError), match="nonsense"):
        load_index(engine, "unanalysed", lambda: numbered(2), text=TextKeys(fields=("text",), analyzer="nonsense"))


def test_a_language_of_postgres_stems(postgres_url):
    engine = Postgres(postgres_url)
    english = TextKeys(fields=("text",), analyzer="english")
    load_index(engine, "stemmed", lambda: [Document("d1", "the boots")], text=english)
    search = TextSearch(open_index(engine, "stemmed", text=english))
    assert (found(search, "boot"), found(search, "the")) == (["d1"], [])


# What one engine does


@pytest.mark.parametrize(
    ("engine", "url", "says"),
    [
        (Postgres, "mysql://host/shop", "is not the address of a database"),
        (Postgres, "postgresql://user:secret@host/shop", "the address holds a password"),
        (Postgres, "postgresql://host/shop?passfile=/etc/passwd", "the address sets 'passfile'"),
        (Postgres, "postgresql://host/shop?service=x", "the address sets 'service'"),
        (Milvus, "http://user:secret@host:19530", "the address holds a password"),
        (Milvus, "shop.sqlite", "A file ends with .db"),
        (OpenSearch, "https://user:secret@host:9200", "holds a password"),
    ],
)
def test_an_address_that_cannot_be_used(engine, url, says):
    with pytest.raises(EngineError, match=says) as raised:
        engine(url)
    assert "secret" not in str(raised.value)


def test_searching_creates_no_file_of_milvus(tmp_path):
    with pytest.raises(StaleIndex, match="there is no such index"):
        open_index(Milvus(str(tmp_path / "shop.db")), "shop")
    assert not list(tmp_path.iterdir())


def test_each_request_to_milvus_has_a_time_limit(tmp_path):
    engine = Milvus(str(tmp_path / "limits.db"), timeout_s=20)
    client, limits = engine._client, {}

    class Limited:
        def __getattr__(self, name):
            def call(*given, **more):
                limits.setdefault(name, set()).add(more.get("timeout"))
                return getattr(client, name)(*given, **more)

            return call

    engine.__dict__["_client"] = Limited()
    load_index(engine, "limits", lambda: numbered(3), text=keys(engine, ("text",)))
    load_index(engine, "limits", lambda: numbered(2), text=keys(engine, ("text",)))
    assert len(found(TextSearch(open_index(engine, "limits")), "tent")) == 2
    client.close()
    lookups, writes = ("has_collection", "query", "search"), ("upsert", "flush", "delete")
    assert limits == {
        **{name: {20} for name in lookups},
        **{name: {600} for name in (*writes, "create_collection", "drop_collection")},
        "load_collection": {20},
    }


def test_a_file_of_milvus_is_searched_by_a_process_that_did_not_load_it(tmp_path):
    pipeline = tmp_path / "files.yaml"
    stage = f"  - text_search: {{engine: milvus, url: {tmp_path}/shop.db, index: shop, fields: {{text: 1}}, k: 5}}"
    pipeline.write_text(f"name: files\nstages:\n{stage}\n", encoding="utf-8")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "a", "text": "a red couch"}\n{"id": "b", "text": "a green tent"}\n', encoding="utf-8")
    for command in (["index", "load", corpus, "--pipeline", pipeline], ["search", pipeline, "tent", "--json"]):
        program = [sys.executable, "-m", "searchlora", *map(str, command)]
        ended = subprocess.run(program, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    assert [hit["document"] for hit in json.loads(ended.stdout)["hits"]] == ["b"]


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(EngineError, match="the database cannot be reached"):
        Postgres(f"postgresql:///shop?host={tmp_path}").published("shop")


def test_a_password_of_the_environment_is_not_sent_to_an_address_of_a_file(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret")
    engine = Postgres("postgresql://user@localhost/shop")
    assert engine._parameters["password"] == ""
    assert Postgres("postgresql://user@localhost/shop", password="given")._parameters["password"] == "given"


def test_too_many_fields_of_postgres_are_refused(postgres_url):
    engine = Postgres(postgres_url)
    document = Document("d", "x", metadata=dict.fromkeys("abc", "x"))
    with pytest.raises(UsageError, match="PostgreSQL weights 4 fields, and there are 5"):
        load_index(engine, "many", lambda: [document], text=keys(engine, ("title", "text", "a", "b", "c")))


def test_a_connection_that_the_server_closed_is_opened_again(postgres_url):
    engine = Postgres(postgres_url)
    load_index(engine, "closed", lambda: numbered(2), text=keys(engine, ("text",)))
    search = TextSearch(open_index(engine, "closed"))
    (idle,) = engine._idle
    process = idle.info.backend_pid
    with Postgres(postgres_url)._connected() as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [process])
    assert found(search, "tent") == ["d1", "d0"]


def test_a_search_that_takes_too_long_is_ended(postgres_url):
    engine = Postgres(postgres_url, timeout_s=0.05)
    from psycopg import sql

    with pytest.raises(EngineError, match=r"did not answer within 0.05 seconds"):
        engine._search(sql.SQL("SELECT pg_sleep(5)::text, '', '', '{{}}'::jsonb, 0").format(), {})
