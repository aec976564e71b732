"""Reader of query logs: reformulations that led to a click become training pairs, with personal data masked.

The rules of mining are those of `query_log_mining.Rules`; they and their counts go into the dataset card.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.data.collection import read_documents
from searchlora.data.formats.common import FormatRows, number, pair_id, rows_with_columns, whole_number
from searchlora.data.formats.judged_collections import CORPUS_COLUMNS, corpus_file
from searchlora.data.formats.query_log_mining import COUNTS, LogRow, LogStore, Rules, log_store, mine
from searchlora.data.formats.tables import rewritten
from searchlora.data.grade_sources import rule_card
from searchlora.data.personal_data import mask
from searchlora.errors import UsageError
from searchlora.eval.text_identity import normalised
from searchlora.files.json_text import value_fault
from searchlora.records import Collection, Judgment, Option, RejectedRow, SourceReport, SourceRow

#: Options that name the columns of the log.
COLUMNS: Mapping[str, Option] = {
    "session": Option("the session", "column", "session"),
    "time": Option("the time: seconds or milliseconds since 1970, ISO 8601, or 20261231235959", "column", "time"),
    "query": Option("the query", "column", "query"),
    "clicks": Option("number of clicks, or the clicked ids separated by blanks or commas", "column", "clicks"),
    "clicked": Option("ids of the clicked documents, separated by blanks or commas, in place of clicks", "column"),
    "user": Option("the user; without it, sessions are counted as users", "column", "user, if present"),
}

#: Options that set the thresholds of mining.
THRESHOLDS: Mapping[str, Option] = {
    "window": Option(
        "maximum number of seconds between a failed query and its reformulation", "number ≥ 0", f"{Rules.window:g}"
    ),
    "min_clicks": Option("minimum number of clicks of a successful query", "whole number ≥ 1", f"{Rules.min_clicks}"),
    "similarity": Option(
        "minimum share of common letter triples of related queries without a common word",
        "number from 0 to 1",
        f"{Rules.similarity:g}",
    ),
    "min_users": Option("minimum number of users of a query", "whole number ≥ 1", f"{Rules.min_users}"),
    "max_session": Option("maximum number of queries of a session", "whole number ≥ 1", f"{Rules.max_session}"),
}
OPTIONS: Mapping[str, Option] = {
    **COLUMNS,
    **THRESHOLDS,
    "corpus": Option("the documents of `clicked`: with them, clicks become judgments to evaluate with", "file"),
    **CORPUS_COLUMNS,
    "clicked_sessions": Option(
        "minimum number of sessions that clicked a document for it to be relevant to a query", "whole number ≥ 1", "2"
    ),
    "order_pattern": Option("your order numbers, which are masked too", "regular expression"),
}

#: Clicks of a log row, and milliseconds since 1970, beyond which a value is an error.
MAX_CLICKS = 2**31 - 1
MAX_TIME = 1e14

#: Seconds since 1970 beyond which a time is in milliseconds: the year 5138.
_MOST_SECONDS = 1e11

#: A date, or a date with the time of day, without separators; as a number it would be a moment of 1970 or 2611.
_COMPACT = re.compile(r"(19|20)\d{6}(\d{6})?")

#: Characters of a query, beyond which it is an error: two queries are compared by their letter triples.
MAX_QUERY = 10_000

_BATCH = 1000  # rows stored at once


def read_query_log(source: Path, options: Mapping[str, str]) -> FormatRows:
    """Mine pairs of a failed query and its successful reformulation from a query log.

    Memory does not grow with the log: it is sorted on disk. Personal data is masked in everything that is yielded;
    rejected rows are named by their place only. The rules (`Rules.describe`) and their counts are reported at the end.

    Args:
        options: Values of `OPTIONS`; columns have the names of `COLUMNS` unless an option renames them.

    Yields:
        Records of `tables.rewritten`: `id` is the `pair_id` of query and rewrite, a pass-through row has its query as
        rewrite, `group` is the normalised rewrite, so that all queries with one rewrite go to one split.

    Raises:
        UsageError: for a threshold that is not a number, or a pattern that is not a regular expression.
    """
    counts = Counter[str]()
    with log_store() as store:
        yield from _mine(store, source, options, counts)
        for query, rewrite, group, where in store.best_pairs():
            counts["reformulations kept" if group != normalised(query) else "pass-through rows kept"] += 1
            record = rewritten(id=pair_id(query, rewrite), group=group, history=[], query=query, rewrite=rewrite)
            yield SourceRow(record, where)
        counts.update({name: store.count(name) for name in COUNTS})
    yield SourceReport(_rules(options).describe(), dict(counts))


def clicked_collection(source: Path, options: Mapping[str, str]) -> Collection:
    """The documents of the log, and judgments from its clicks; nothing unless `corpus` and `clicked` are given.

    A document is relevant (grade 1) to a pair of query and rewrite if at least `clicked_sessions` sessions clicked it
    after the rewrite. Clicks depend on the positions at which documents were shown: these judgments are weaker than
    those of people, and their card says so.

    Raises:
        UsageError: for a number of sessions that is none.
        DataError: if a file cannot be read.
    """
    if not options.get("corpus") or not options.get("clicked"):
        return Collection((), ())
    minimum = whole_number(options, "clicked_sessions", 2, minimum=1)
    rule = f"clicked after the rewrite in {minimum} or more sessions; not corrected for positions"
    judgments = list(_clicked_judgments(source, options, minimum))
    card = rule_card("clicks", source, len(judgments), rule)
    return Collection(read_documents(corpus_file(Path(options["corpus"]), options)), judgments, judged_by=card)


def _clicked_judgments(source: Path, options: Mapping[str, str], minimum: int) -> Iterator[Judgment]:
    with log_store() as store:
        for _ in _mine(store, source, options, Counter()):
            pass  # rejected rows are reported by the reader of the records
        for query, rewrite, group, _ in list(store.best_pairs()):
            for document in store.clicked(group, minimum):
                yield Judgment(pair_id(query, rewrite), document, 1)


def _mine(store: LogStore, source: Path, options: Mapping[str, str], counts: Counter[str]) -> Iterator[RejectedRow]:
    """Fill a store with the log and the pairs of its sessions; yields the rejected rows."""
    rules = _rules(options)
    yield from _fill(store, source, options, counts)
    for session, events in store.sessions():
        counts["sessions"] += 1
        if len(events) > rules.max_session:
            counts["sessions left out as too long"] += 1
            continue
        store.add_pairs((query, rewrite, session) for query, rewrite in mine(events, rules))
    store.select_known(rules.min_users)


def _fill(store: LogStore, source: Path, options: Mapping[str, str], counts: Counter[str]) -> Iterator[RejectedRow]:
    names = {name: options.get(name, name) for name in COLUMNS if name != "clicked" or name in options}
    optional = ("user", "clicked", *(("clicks",) if "clicked" in options else ()))
    required = [column for name, column in names.items() if name not in optional or name in options]
    order_pattern = _pattern(options.get("order_pattern"))
    batch: list[LogRow] = []
    for row in rows_with_columns(source, required):
        if isinstance(row, RejectedRow):
            yield RejectedRow(row.where, mask(row.reason, order_pattern))
            continue
        data = {name: row.data.get(column) for name, column in names.items()}
        entry = _log_row(data, row.where, order_pattern, counts)
        if isinstance(entry, str):
            yield RejectedRow(row.where, entry)
        elif entry is not None:
            batch.append(entry)
            if "clicked" in data:
                session, _, query, *_ = entry
                clicked = dict.fromkeys(_clicked_ids(data["clicked"]))
                store.add_clicks((query, document, session) for document in clicked)
            if len(batch) >= _BATCH:
                store.add(batch)
                batch.clear()
    store.add(batch)


def _log_row(
    data: Mapping[str, Any], where: str, order_pattern: re.Pattern[str] | None, counts: Counter[str]
) -> LogRow | str | None:
    """The row with personal data masked; why it is rejected, which quotes nothing of it; None for an empty query."""
    try:
        time = _seconds(data["time"])
    except ValueError:
        return "field 'time' is neither seconds nor ISO 8601"
    try:
        clicks = _clicks(data["clicks"]) if data.get("clicked") is None else len(_clicked_ids(data["clicked"]))
    except ValueError:
        return "field 'clicks' is not a number of clicks"
    if not isinstance(data["query"], str) or data["session"] in (None, ""):
        return "field 'query' is not text, or field 'session' is empty"
    if len(data["query"]) > MAX_QUERY:
        return f"field 'query' has more than {MAX_QUERY:,} characters"
    if fault := value_fault(data):
        return fault
    counts["log rows"] += 1
    typed = " ".join(mask(data["query"], order_pattern).split())
    if not typed:
        counts["rows with an empty query"] += 1
        return None
    counts["rows with something masked"] += typed != " ".join(data["query"].split())
    session = str(data["session"])
    user = str(data["user"]) if data["user"] not in (None, "") else f"session {session}"
    return session, time, normalised(typed), typed, clicks, user, where


def _seconds(value: Any) -> float:
    if _COMPACT.fullmatch(text := str(value).strip()):  # 20240115, or 20240115103000
        with suppress(ValueError):  # no such day: a number
            value = datetime.strptime(f"{text:0<14}", "%Y%m%d%H%M%S")
    try:
        seconds = float(value)
        if abs(seconds) <= MAX_TIME:
            return seconds if abs(seconds) <= _MOST_SECONDS else seconds / 1000
    except (TypeError, ValueError, OverflowError):
        pass
    if isinstance(value, datetime):
        moment = value
    else:
        moment = datetime.fromisoformat(str(value).strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _clicked_ids(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [str(id_) for id_ in value]
    return [part for part in re.split(r"[\s,;|]+", str(value).strip()) if part] if value is not None else []


def _clicks(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, (list, tuple)):
        return len(value)
    try:
        number = float(value)
    except (TypeError, OverflowError):
        raise ValueError("is not a number") from None
    except ValueError:
        return len(_clicked_ids(value))
    if not (0 <= number <= MAX_CLICKS and number.is_integer()):
        raise ValueError("is not a count")
    return int(number)


def _rules(options: Mapping[str, str]) -> Rules:
    return Rules(
        window=number(options, "window", Rules.window, 0, 1e9),
        min_clicks=whole_number(options, "min_clicks", Rules.min_clicks, minimum=1),
        similarity=number(options, "similarity", Rules.similarity, 0, 1),
        min_users=whole_number(options, "min_users", Rules.min_users, minimum=1),
        max_session=whole_number(options, "max_session", Rules.max_session, minimum=1),
    )


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"'{text}' is not a regular expression ({error})", where="option order_pattern") from None
