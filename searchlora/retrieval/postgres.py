"""PostgreSQL as a search engine: full text by `ts_rank_cd` over a weighted tsvector, vectors by pgvector.

A query matches documents with any of its words. The score is PostgreSQL's cover density ranking (Clarke, Cormack and
Tudhope, "Relevance ranking for one to three term queries", 2000), divided by 1 + the logarithm of the document's
length. It knows no inverse document frequency, so a rare word counts as much as a common one. Vectors are compared by
inner product, exactly or in a graph (HNSW).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import finalize

from searchlora.errors import DataError, DeadlineExceeded, EngineError, RequestRefused, UsageError
from searchlora.records import Document, Hit
from searchlora.retrieval.search_engine import Entry, Filter, Layout, Published, Vector, facets, storable
from searchlora.server_url import check_host, check_text

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

Row = tuple[Any, ...]
Result = TypeVar("Result")

#: Labels of positions in a tsvector, so at most as many fields; the order of `ts_rank_cd`'s weights is the reverse.
_LABELS = "ABCD"

#: Divides by 1 + the logarithm of the length, see "Ranking Search Results" in PostgreSQL's manual.
_NORMALIZATION = 1

#: Limits of pgvector.
_MOST_DIMENSIONS, _MOST_IN_GRAPH, _MOST_EFFORT = 16_000, 2_000, 1_000

#: Keys of a connection that an address may set; files and commands among the others could be anybody's.
_KEYS = frozenset({"host", "hostaddr", "port", "dbname", "user", "sslmode", "sslrootcert"})

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


class Postgres:
    """A database of PostgreSQL with pgvector. Thread-safe; each thread that searches has a connection.

    Args:
        url: `postgresql://user@host:5432/database`, without a password; `postgresql:///database?host=/var/run/socket`
            for a Unix socket.
        password: None: none is sent, whatever PGPASSWORD says.
        timeout_s: Time limit of a search in seconds.

    Raises:
        EngineError: for an address that is none, or with a password or other keys than those of a connection.
    """

    default_analyzer = "simple"

    def __init__(self, url: str, *, password: str | None = None, timeout_s: float = 30.0) -> None:
        self.where = url
        self._parameters = _parameters(url)
        # Given, if empty, so that libpq does not send PGPASSWORD to an address that a file names.
        self._parameters["password"] = password or ""
        self._timeout_s = timeout_s
        self._idle: list[psycopg.Connection[Row]] = []
        self._lock = threading.Lock()
        finalize(self, _close, self._idle)

    def check(self, layout: Layout) -> None:
        """Raise `UsageError` for more than four fields, or more dimensions than pgvector takes."""
        if len(layout.fields) > len(_LABELS):
            raise UsageError(
                f"PostgreSQL weights {len(_LABELS)} fields, and there are {len(layout.fields)}",
                where=", ".join(layout.fields),
                fix="Search fewer fields, or map several columns to one field.",
            )
        most = _MOST_DIMENSIONS if layout.graph is None else _MOST_IN_GRAPH
        if layout.dimensions is not None and layout.dimensions > most:
            raise UsageError(
                f"pgvector takes at most {most:,} dimensions here, and there are {layout.dimensions:,}",
                fix="Set 'dimensions' of an encoder that can be truncated, or search exactly ('structure: flat').",
            )

    def published(self, index: str) -> Published | None:
        """The generation that is published under a name; None if there is none."""

        def read(connection: psycopg.Connection[Row]) -> Published | None:
            if connection.execute("SELECT to_regclass(%s)", [_REGISTRY]).fetchone() == (None,):
                return None
            row = connection.execute(
                "SELECT generation, record FROM searchlora_indexes WHERE index = %s AND published IS NOT NULL"
                " ORDER BY published DESC LIMIT 1",
                [index],
            ).fetchone()
            return Published(row[0], row[1]) if row is not None else None

        return self._run(read)

    def generations(self, index: str) -> list[str]:
        """All generations of a name, complete or not."""

        def read(connection: psycopg.Connection[Row]) -> list[str]:
            connection.execute(_CREATE_REGISTRY)
            rows = connection.execute(
                "SELECT generation FROM searchlora_indexes WHERE index = %s ORDER BY generation", [index]
            ).fetchall()
            return [row[0] for row in rows]

        return self._run(read)

    def create(self, index: str, generation: str, layout: Layout, record: str) -> None:
        """Create an empty generation, a table; of one that exists, only the record is replaced."""
        from psycopg import sql

        vector: sql.Composable = sql.SQL("")
        if layout.dimensions is not None:
            vector = sql.SQL(", vector vector({})").format(sql.Literal(layout.dimensions))

        def create(connection: psycopg.Connection[Row]) -> None:
            if layout.fields:
                self._check_analyzer(connection, layout)
            if layout.dimensions is not None:
                _create_extension(connection, self.where)
            with connection.transaction():
                connection.execute(_CREATE_REGISTRY)
                connection.execute(
                    sql.SQL(
                        'CREATE TABLE IF NOT EXISTS {} (id text COLLATE "C" PRIMARY KEY, title text NOT NULL,'
                        " text text NOT NULL, metadata jsonb NOT NULL, facets jsonb NOT NULL, words tsvector{})"
                    ).format(sql.Identifier(generation), vector)
                )
                connection.execute(
                    "INSERT INTO searchlora_indexes (generation, index, record) VALUES (%s, %s, %s)"
                    " ON CONFLICT (generation) DO UPDATE SET record = excluded.record",
                    [generation, index, record],
                )

        self._run(create)

    def present(self, generation: str, ids: Sequence[str]) -> set[str]:
        """Those of the documents that are stored."""
        from psycopg import sql

        query = sql.SQL("SELECT id FROM {} WHERE id = ANY(%s)").format(sql.Identifier(generation))
        return self._run(lambda connection: {row[0] for row in connection.execute(query, [list(ids)])})

    def put(self, generation: str, layout: Layout, entries: Sequence[Entry]) -> None:
        """Store documents in one transaction. Raises `DataError` naming a document that PostgreSQL cannot hold."""
        import psycopg

        statement, rows = _insertion(generation, layout), [_row(layout, entry) for entry in entries]

        def put(connection: psycopg.Connection[Row]) -> None:
            with connection.cursor() as cursor:
                try:
                    with connection.transaction():
                        cursor.executemany(statement, rows)
                    return
                except (psycopg.errors.ProgramLimitExceeded, psycopg.DataError):
                    pass
                for entry, row in zip(entries, rows, strict=True):  # which one it was
                    try:
                        cursor.execute(statement, row)
                    except (psycopg.errors.ProgramLimitExceeded, psycopg.DataError) as error:
                        raise DataError(
                            f"PostgreSQL cannot hold the document ({_said(error)})",
                            where=f"document {entry.document.id}",
                            fix="Split it into passages.",
                        ) from None

        self._run(put)

    def publish(self, index: str, generation: str, layout: Layout) -> None:
        """Build the indexes of the table, and let the name stand for it."""
        from psycopg import sql

        del index  # the registry has it

        structures = ["facets jsonb_path_ops"]
        if layout.fields:
            structures.append("words")
        table = sql.Identifier(generation)

        def publish(connection: psycopg.Connection[Row]) -> None:
            for number, columns in enumerate(structures):
                name = sql.Identifier(f"{generation}_{number}")
                connection.execute(
                    sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING gin (" + columns + ")").format(name, table)
                )
            if layout.graph is not None:
                connection.execute(
                    sql.SQL(
                        "CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector vector_ip_ops)"
                        " WITH (m = {}, ef_construction = {})"
                    ).format(sql.Identifier(f"{generation}_hnsw"), table, *(sql.Literal(each) for each in layout.graph))
                )
            connection.execute(sql.SQL("ANALYZE {}").format(table))
            connection.execute(
                "UPDATE searchlora_indexes SET published = clock_timestamp() WHERE generation = %s", [generation]
            )

        self._run(publish)

    def drop(self, generation: str) -> None:
        """Delete the table of a generation."""
        from psycopg import sql

        def drop(connection: psycopg.Connection[Row]) -> None:
            with connection.transaction():
                connection.execute("DELETE FROM searchlora_indexes WHERE generation = %s", [generation])
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(generation)))

        self._run(drop)

    def search_text(
        self, generation: str, layout: Layout, query: str, boosts: Mapping[str, float], where: Filter, k: int
    ) -> list[Hit]:
        """The k best documents that contain a word of the query in one of the fields, with their texts."""
        from psycopg import sql

        label_of = dict(zip(layout.fields, _LABELS, strict=False))
        largest = max(boosts.values())  # ts_rank_cd takes weights up to 1; only their ratios matter
        weights = {label_of[field]: boost / largest for field, boost in boosts.items()}
        condition, values = _condition(where)
        statement = sql.SQL(
            "WITH query AS MATERIALIZED (" + _QUERY + ")"
            " SELECT id, title, text, metadata,"
            " ts_rank_cd(%(weights)s::real[], d.words, query.words, %(norm)s) AS score"
            " FROM {} AS d, query WHERE d.words @@ query.words"
            + condition
            + " ORDER BY score DESC, id DESC LIMIT %(k)s"
        ).format(sql.Identifier(generation))
        parameters = {
            "query": query,
            "analyzer": layout.analyzer or self.default_analyzer,
            "labels": "".join(sorted(weights)),
            "weights": [weights.get(label, 0.0) for label in reversed(_LABELS)],
            "norm": _NORMALIZATION,
            "k": k,
            **values,
        }
        return self._search(statement, parameters)

    def search_vectors(
        self, generation: str, layout: Layout, vector: Vector, where: Filter, k: int, effort: int
    ) -> list[Hit]:
        """The k documents whose vectors have the largest inner products with a vector, with their texts."""
        from psycopg import sql

        condition, values = _condition(where)
        table = sql.Identifier(generation)
        parameters = {"vector": _literal(vector), "k": k, "count": max(k, effort), **values}
        columns = "SELECT id, title, text, metadata, (-(vector <#> %(vector)s::vector))::real AS score FROM "
        if layout.graph is None:
            return self._search(
                sql.SQL(
                    columns + "{} WHERE vector IS NOT NULL" + condition + " ORDER BY score DESC, id DESC LIMIT %(k)s"
                ).format(table),
                parameters,
            )
        # Whatever k is, the graph returns as many candidates, so that the hits for a smaller k are a prefix.
        candidates = (
            "(SELECT * FROM {} WHERE vector IS NOT NULL" + condition + " ORDER BY vector <#> %(vector)s::vector"
            " LIMIT %(count)s) AS candidates"
        )
        statement = sql.SQL(columns + candidates + " ORDER BY score DESC, id DESC LIMIT %(k)s").format(table)
        settings = {"hnsw.ef_search": min(effort, _MOST_EFFORT), "hnsw.iterative_scan": "strict_order"}
        return self._search(statement, parameters, settings)

    def close(self) -> None:
        """Close the connections that no thread uses."""
        with self._lock:
            _close(self._idle)

    def _search(
        self, statement: sql.Composed, parameters: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        limits = {"statement_timeout": f"{max(int(1000 * self._timeout_s), 1)}", **(settings or {})}

        def search(connection: psycopg.Connection[Row]) -> list[Row]:
            with connection.transaction():
                for name, value in limits.items():
                    connection.execute("SELECT set_config(%s, %s, true)", [name, str(value)])
                return connection.execute(statement, parameters).fetchall()

        return [_hit(row) for row in self._run(search)]

    def _check_analyzer(self, connection: psycopg.Connection[Row], layout: Layout) -> None:
        name = layout.analyzer or self.default_analyzer
        known = [row[0] for row in connection.execute("SELECT cfgname FROM pg_ts_config ORDER BY cfgname")]
        if name.rpartition(".")[2] not in known:
            raise UsageError(
                f"the database has no text search configuration '{name}'",
                where=self.where,
                fix=f"Set 'analyzer' to one of: {', '.join(known)}.",
            )

    def _run(self, work: Callable[[psycopg.Connection[Row]], Result]) -> Result:
        """Do something with a connection; with a new one again if an idle one turns out to be broken."""
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        with _errors(self.where, self._timeout_s):
            if idle is not None:
                import psycopg

                try:
                    return self._with(idle, work)
                except psycopg.OperationalError:
                    if not idle.closed:
                        raise
            return self._with(self._connect(), work)

    def _with(self, connection: psycopg.Connection[Row], work: Callable[[psycopg.Connection[Row]], Result]) -> Result:
        try:
            return work(connection)
        finally:
            if not connection.closed:
                with self._lock:
                    self._idle.append(connection)

    def _connect(self) -> psycopg.Connection[Row]:
        import psycopg

        seconds = max(int(self._timeout_s), 2)  # libpq's least
        connection = psycopg.connect(**self._parameters, connect_timeout=seconds, autocommit=True)
        connection.execute("SET client_min_messages = warning")
        return connection


def _close(connections: list[psycopg.Connection[Row]]) -> None:
    while connections:
        connections.pop().close()


def _parameters(url: str) -> dict[str, Any]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if not re.match(r"postgres(ql)?://", url):
        raise EngineError(
            f"{url!r} is not the address of a database", fix="Write it as in postgresql://user@host:5432/database."
        )
    try:
        check_text(url)
        parameters = dict(conninfo_to_dict(url))
        for host in str(parameters.get("host", "")).split(","):
            if host and not host.startswith(("/", "@")) and ":" not in host:  # no folder of a socket, no IPv6 address
                check_host(host)
    except (ProgrammingError, ValueError) as error:
        raise EngineError(f"{url!r} is not the address of a database ({_said(error)})") from None
    if "password" in parameters:
        raise EngineError("the address holds a password", fix="Give it in an environment variable: 'api_key_env'.")
    if unknown := sorted(parameters.keys() - _KEYS):
        raise EngineError(f"the address sets '{unknown[0]}'", where=url, fix=f"It may set {', '.join(sorted(_KEYS))}.")
    return parameters


def _create_extension(connection: psycopg.Connection[Row], where: str) -> None:
    import psycopg

    if connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
        return
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.Error as error:
        raise EngineError(
            f"pgvector cannot be used ({_said(error)})",
            where=where,
            fix="Install pgvector on the database's machine, and let its administrator run CREATE EXTENSION vector.",
        ) from None


def _insertion(generation: str, layout: Layout) -> sql.Composed:
    """The statement that stores a document; parameters as `_row` makes them."""
    from psycopg import sql

    parts = [
        f"setweight(to_tsvector(%s::regconfig, %s), '{label}')"
        for _, label in zip(layout.fields, _LABELS, strict=False)
    ]
    words = " || ".join(parts) or "NULL"
    columns, values = ["id", "title", "text", "metadata", "facets", "words"], ["%s"] * 5 + [words]
    if layout.dimensions is not None:
        columns.append("vector")
        values.append("%s::vector")
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    return sql.SQL(
        f"INSERT INTO {{}} ({', '.join(columns)}) VALUES ({', '.join(values)}) ON CONFLICT (id) DO UPDATE SET {updates}"
    ).format(sql.Identifier(generation))


def _row(layout: Layout, entry: Entry) -> list[Any]:
    from psycopg.types.json import Jsonb

    document = entry.document
    metadata = {storable(name): storable(value) for name, value in document.metadata.items()}
    row: list[Any] = [document.id, storable(document.title), storable(document.text), Jsonb(metadata)]
    row.append(Jsonb(facets(document)))
    for field in layout.fields:
        row += [layout.analyzer or Postgres.default_analyzer, storable(document.field(field))]
    if layout.dimensions is not None:
        row.append(None if entry.vector is None else _literal(entry.vector))
    return row


def _condition(where: Filter) -> tuple[str, dict[str, Any]]:
    """A condition on facets, which the index on them answers, and its parameters."""
    from psycopg.types.json import Jsonb

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


def _hit(row: Row) -> Hit:
    identifier, title, text, metadata, score = row
    return Hit(identifier, float(score), Document(identifier, text, title, metadata))


@contextmanager
def _errors(where: str, timeout_s: float) -> Iterator[None]:
    """Errors of psycopg as `EngineError`."""
    import psycopg

    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise DeadlineExceeded(
            f"the database did not answer within {timeout_s:g} seconds", where=where, fix="Set a longer timeout_s."
        ) from None
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
        raise RequestRefused(f"the database refuses the query ({_said(error)})", where=where) from None
    except psycopg.errors.UndefinedTable as error:
        raise EngineError(
            f"the index is no longer there ({_said(error)})",
            where=where,
            fix="If it was loaded again, load the pipeline again, too.",
        ) from None
    except psycopg.Error as error:
        reached = "the database cannot be reached" if error.sqlstate is None else "the database refuses"
        fix = "Check the address, and that the server runs."
        if "password" in _said(error):
            fix = "Name the environment variable with the password as 'api_key_env' of the stage."
        raise EngineError(f"{reached} ({_said(error)})", where=where, fix=fix) from None


def _said(error: BaseException) -> str:
    """The message of an error in one line."""
    text = str(error)
    with suppress(AttributeError):
        text = error.diag.message_primary or text  # type: ignore[attr-defined]
    return " ".join(text.split())[:300] or type(error).__name__
