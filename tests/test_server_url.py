"""An address of a server is parsed in one place: a malformed one is one error, whoever would ask it."""

from __future__ import annotations

import pytest

from searchlora.errors import EngineError
from searchlora.http_client import HttpClient
from searchlora.retrieval.http import HttpRetriever, engine_defaults
from searchlora.server_url import server_url

MALFORMED = [
    *("http://[", "http://]", "http://[::1", "http://[zz]", "http://me:pw@[::1", "http://[::1]:70000", "http://[::1]x"),
    *("http://127.0.0.1:99999", "http://127.0.0.1:-1", "http://127.0.0.1:0", "http://h:a", "http://h:\u0663"),
    *("", "http://h:1:2", "http:", "http://", "http:///x", "http://:80", "//h", "h:80", "ftp://h", "data:,x"),
    *("http://a b", "http://a\tb", "http://a\nb", "http://a\0b", "http://\ud800", "http://h/\udfff", "http://\u200b"),
    *("http://a..b", "http://.", "http://" + "a" * 64, "http://" + "a." * 200, "http://xn--a", "http://xn--\u0fff"),
    *("http://%00", "http://a%20b", "http://a\\b", "http://256.256.256.256", "http://\u2460", "http://h/" + "a" * 5000),
]  # fmt: skip
WELL_FORMED = [
    *("http://localhost", "https://search.example.org:9200/", "http://127.0.0.1:8000/v1", "http://[::1]:8000"),
    *("http://my_service:80", "http://bücher.example", "http://xn--bcher-kva.example", "http://h.", "HTTP://h"),
]  # fmt: skip


@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_a_malformed_address_is_refused_wherever_it_is_given(url):
    with pytest.raises(EngineError, match=r"is not the address of a server|holds a password") as refused:
        server_url(url)
    assert len(str(refused.value)) < 1000 and "pw" not in str(refused.value)
    with pytest.raises(EngineError):
        HttpClient(url)
    with pytest.raises(EngineError):
        HttpRetriever(url, *engine_defaults("opensearch"))


@pytest.mark.parametrize("url", WELL_FORMED)
def test_a_well_formed_address_is_taken(url):
    assert server_url(url).hostname
    HttpClient(url).close()


def test_the_address_of_each_search_engine_is_parsed_there():
    from searchlora.retrieval.milvus import Milvus
    from searchlora.retrieval.opensearch import OpenSearch
    from searchlora.retrieval.postgres import Postgres

    for url in MALFORMED:
        for engine in (OpenSearch, Milvus):
            with pytest.raises(EngineError):
                engine(url)
    for host in ("\ud800", "a..b", "a" * 64, ".", "\u200b", "h/\udfff", "xn--\u0fff", "a\0b"):
        with pytest.raises(EngineError, match="is not the address of a database"):
            Postgres(f"postgresql://{host}")
