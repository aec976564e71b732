"""PostgreSQL as a search engine: full text by `ts_rank_cd` over a weighted tsvector, vectors by pgvector.

A query matches documents with any of its words. The score is PostgreSQL's cover density ranking (Clarke, Cormack and
Tudhope, "Relevance ranking for one to three term queries", 2000), divided by 1 + the logarithm of the document's
length. It knows no inverse document frequency, so a rare word counts as much as a common one. Vectors are compared by
inner product, exactly or in a graph (HNSW).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import finalize

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from searchlora.errors import DataError, DeadlineExceeded, RequestRefused, UsageError
from searchlora.records import Hit
from searchlora.retrieval.search_engine import (
    GRAPH_CANDIDATES,
    GRAPH_M,
    Entry,
    Filter,
    Layout,
    Published,
    SearchEngine,
    Vector,
    engine_failure,
    fetched_hit,
    one_line,
    stored_fields,
)
from searchlora.server_url import postgres_parameters

#: What PostgreSQL says of a document, or of a query, that is too large or that it cannot hold.
_REFUSED = (psycopg.errors.ProgramLimitExceeded, psycopg.DataError)

#: Labels of positions in a tsvector, so at most as many fields; the order of `ts_rank_cd`'s weights is the reverse.
_LABELS = "ABCD"

_REGISTRY = "searchlora_indexes"
_CREATE_REGISTRY = """
    CREATE TABLE IF NOT EXISTS searchlora_indexes (
        generation text PRIMARY KEY, index text NOT NULL, record text NOT NULL, published timestamptz
    )"""

#: The query as a tsquery: its words as the analyser gives them, joined by OR, in fields with one of the labels.
_QUERY = """
    SELECT string_agg(
        '''' || replace(replace(word, '\\', '\\\\'), '''', '''''') || ''':' || %(labels)s, ' | '
    )::tsquery AS words
    FROM unnest(tsvector_to_array(to_tsvector(%(analyzer)s::regconfig, %(query)s))) AS word"""


class Postgres(SearchEngine):
    """A database of PostgreSQL with pgvector. Thread-safe; each thread that searches has a connection.

    The address has no password: `postgresql://user@host:5432/database`, or `postgresql:///database?host=/var/run/socket`
    for a Unix socket. Without a password none is sent, whatever PGPASSWORD says. The time limit is that of a search.
    """

    default_analyzer = "simple"

    def __init__(self, url: str, *, password: str | None = None, timeout_s: float = 30.0) -> None:
        self.where = url
        self._parameters = postgres_parameters(url)
        # Given, if empty, so that libpq does not send PGPASSWORD to an address that a file names.
        self._parameters["password"] = password or ""
        self._parameters |= {"connect_timeout": int(timeout_s), "options": "-c client_min_messages=warning"}
        self._timeout_s = timeout_s
        self._idle: list[psycopg.Connection] = []
        finalize(self, _close, self._idle)

    def published(self, index: str) -> Published | None:
        with self._connected() as connection:
            if connection.execute("SELECT to_regclass(%s)", [_REGISTRY]).fetchone() == (None,):
                return None
            select = "SELECT generation, record FROM searchlora_indexes WHERE index = %s AND published IS NOT NULL"
            row = connection.execute(select + " ORDER BY published DESC LIMIT 1", [index]).fetchone()
        return Published(*row) if row is not None else None

    def generations(self, index: str) -> list[str]:
        with self._connected() as connection:
            connection.execute(_CREATE_REGISTRY)
            rows = connection.execute("SELECT generation FROM searchlora_indexes WHERE index = %s", [index])
            return [row[0] for row in rows]

    def create(self, index: str, generation: str, layout: Layout, record: str) -> None:
        columns = (
            'id text COLLATE "C" PRIMARY KEY, title text NOT NULL, text text NOT NULL, metadata jsonb NOT NULL,'
            " facets jsonb NOT NULL, words tsvector"
        )
        if layout.dimensions is not None:
            columns += f", vector vector({layout.dimensions})"
        if len(layout.fields) > len(_LABELS):
            what = f"PostgreSQL weights {len(_LABELS)} fields, and there are {len(layout.fields)}"
            raise UsageError(what, where=", ".join(layout.fields), fix="Map several columns to one field.")
        with self._connected() as connection, connection.transaction():
            if layout.dimensions is not None:
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(_CREATE_REGISTRY)
            connection.execute(_of_table("CREATE TABLE {} (" + columns + ")", generation))
            insert = "INSERT INTO searchlora_indexes (generation, index, record) VALUES (%s, %s, %s)"
            connection.execute(insert, [generation, index, record])

    def put(self, generation: str, layout: Layout, entries: Sequence[Entry]) -> None:
        statement, rows = _insertion(generation, layout), [_row(layout, entry) for entry in entries]
        with self._connected() as connection, connection.cursor() as cursor:
            with suppress(*_REFUSED):
                with connection.transaction():
                    cursor.executemany(statement, rows)
                return
            for entry, row in zip(entries, rows, strict=True):  # which one it was
                try:
                    cursor.execute(statement, row)
                except _REFUSED as error:
                    what, where = (
                        f"PostgreSQL cannot hold the document ({_said(error)})",
                        f"document {entry.document.id}",
                    )
                    raise DataError(what, where=where, fix="Split it into passages.") from None

    def publish(self, index: str, generation: str, layout: Layout) -> None:
        del index  # the registry has it
        structures = {"0": "gin (facets jsonb_path_ops)", "1": "gin (words)"}
        if layout.graph:
            options = f"m = {GRAPH_M}, ef_construction = {GRAPH_CANDIDATES}"
            structures["hnsw"] = f"hnsw (vector vector_ip_ops) WITH ({options})"
        with self._connected() as connection:
            for name, structure in structures.items():
                create = "CREATE INDEX IF NOT EXISTS {} ON {} USING " + structure
                connection.execute(_of_table(create, f"{generation}_{name}", generation))
            connection.execute(_of_table("ANALYZE {}", generation))
            update = "UPDATE searchlora_indexes SET published = clock_timestamp() WHERE generation = %s"
            connection.execute(update, [generation])

    def drop(self, generation: str) -> None:
        with self._connected() as connection, connection.transaction():
            connection.execute("DELETE FROM searchlora_indexes WHERE generation = %s", [generation])
            connection.execute(_of_table("DROP TABLE IF EXISTS {}", generation))

    def search_text(
        self, generation: str, layout: Layout, query: str, boosts: Mapping[str, float], where: Filter, k: int
    ) -> list[Hit]:
        label_of = dict(zip(layout.fields, _LABELS, strict=False))
        largest = max(boosts.values())  # ts_rank_cd takes weights up to 1; only their ratios matter
        weights = {label_of[field]: boost / largest for field, boost in boosts.items()}
        condition, values = _condition(where)
        statement = (
            "WITH query AS MATERIALIZED (" + _QUERY + ")"
            " SELECT id, title, text, metadata,"
            " ts_rank_cd(%(weights)s::real[], d.words, query.words, 1) AS score"
            " FROM {} AS d, query WHERE d.words @@ query.words"
            + condition
            + " ORDER BY score DESC, id DESC LIMIT %(k)s"
        )
        parameters = {
            "query": query,
            "analyzer": layout.analyzer or self.default_analyzer,
            "labels": "".join(sorted(weights)),
            "weights": [weights.get(label, 0.0) for label in reversed(_LABELS)],
            "k": k,
            **values,
        }
        return self._search(_of_table(statement, generation), parameters)

    def search_vectors(
        self, generation: str, layout: Layout, vector: Vector, where: Filter, k: int, effort: int
    ) -> list[Hit]:
        condition, values = _condition(where)
        candidates, settings = "{} WHERE vector IS NOT NULL" + condition, {}
        if layout.graph:
            # Whatever k is, the graph returns as many candidates, so that the hits for a smaller k are a prefix.
            order = " ORDER BY vector <#> %(vector)s::vector LIMIT %(count)s"
            candidates = "(SELECT * FROM " + candidates + order + ") AS candidates"
            settings = {"hnsw.ef_search": effort, "hnsw.iterative_scan": "strict_order"}
        columns = "id, title, text, metadata, (-(vector <#> %(vector)s::vector))::real AS score"
        statement = "SELECT " + columns + " FROM " + candidates + " ORDER BY score DESC, id DESC LIMIT %(k)s"
        parameters = {"vector": _literal(vector), "k": k, "count": max(k, effort), **values}
        return self._search(_of_table(statement, generation), parameters, settings)

    def close(self) -> None:
        _close(self._idle)

    def _search(
        self, statement: sql.Composed, parameters: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        limits = {"statement_timeout": int(1000 * self._timeout_s), **(settings or {})}
        with self._connected() as connection, connection.transaction():
            for name, value in limits.items():
                connection.execute("SELECT set_config(%s, %s, true)", [name, str(value)])
            rows = connection.execute(statement, parameters).fetchall()
        return [
            fetched_hit(name, score, {"title": title, "text": text, "metadata": metadata})
            for name, title, text, metadata, score in rows
        ]

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        """A connection: an idle one that the server has not closed, or a new one."""
        with _errors(self.where, self._timeout_s):
            connection = None
            with suppress(IndexError, psycopg.OperationalError):
                idle = self._idle.pop()
                idle.execute("")
                connection = idle
            if connection is None:
                connection = psycopg.connect(**self._parameters, autocommit=True)
            try:
                yield connection
            finally:
                self._idle.append(connection)


def _close(connections: list[psycopg.Connection]) -> None:
    while connections:
        connections.pop().close()


def _of_table(statement: str, *names: str) -> sql.Composed:
    """A statement with quoted names of tables and indexes in place of `{}`."""
    return sql.SQL(statement).format(*map(sql.Identifier, names))


def _insertion(generation: str, layout: Layout) -> sql.Composed:
    """The statement that stores a document; parameters as `_row` makes them."""
    words = [
        f"setweight(to_tsvector(%(analyzer)s::regconfig, %(field_{number})s), '{label}')"
        for number, label in enumerate(_LABELS[: len(layout.fields)])
    ]
    columns = {name: f"%({name})s" for name in ("id", "title", "text", "metadata", "facets")}
    columns["words"] = " || ".join(words) or "NULL"
    if layout.dimensions is not None:
        columns["vector"] = "%(vector)s::vector"
    return _of_table(f"INSERT INTO {{}} ({', '.join(columns)}) VALUES ({', '.join(columns.values())})", generation)


def _row(layout: Layout, entry: Entry) -> dict[str, Any]:
    stored = stored_fields(layout, entry.document)
    row = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in stored.items()}
    vector = None if entry.vector is None else _literal(entry.vector)
    return {**row, "analyzer": layout.analyzer or Postgres.default_analyzer, "vector": vector}


def _condition(where: Filter) -> tuple[str, dict[str, Any]]:
    """A condition on facets, which the index on them answers, and its parameters."""
    condition = ""
    parameters: dict[str, Any] = {}
    for number, (field, values) in enumerate(where.items()):
        names = [f"filter_{number}_{place}" for place in range(len(values))]
        parameters |= {name: Jsonb({field: value}) for name, value in zip(names, values, strict=True)}
        condition += f" AND ({' OR '.join(f'facets @> %({name})s' for name in names)})"
    return condition, parameters


def _literal(vector: Vector) -> str:
    """A vector as pgvector reads it; the decimal digits of single precision lose nothing."""
    return f"[{','.join(map(str, vector.tolist()))}]"


@contextmanager
def _errors(where: str, timeout_s: float) -> Iterator[None]:
    """Errors of psycopg as `EngineError`."""
    try:
        yield
    except psycopg.errors.QueryCanceled:
        what = f"the database did not answer within {timeout_s:g} seconds"
        raise DeadlineExceeded(what, where=where, fix="Set a longer timeout_s.") from None
    except _REFUSED as error:
        raise RequestRefused(f"the database refuses the query ({_said(error)})", where=where) from None
    except psycopg.Error as error:
        said, gone = _said(error), isinstance(error, psycopg.errors.UndefinedTable)
        what = "the database cannot be reached" if error.sqlstate is None else "the database refuses"
        raise engine_failure(where, f"{what} ({said})", key="password" in said, gone=gone) from None


def _said(error: psycopg.Error) -> str:
    return one_line(error.diag.message_primary or error)
