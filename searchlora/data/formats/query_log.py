"""Reader of query logs: reformulations that led to a click become training pairs, with personal data masked.

The rules of mining are those of `query_log_mining.Rules`; they and their counts go into the dataset card.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.data.collection import read_documents
from searchlora.data.formats.common import FormatRows, pair_id, rows_with_columns, whole_number
from searchlora.data.formats.judged_collections import CORPUS_COLUMNS, corpus_file
from searchlora.data.formats.query_log_mining import COUNTS, LogRow, LogStore, Rules, log_store, mine
from searchlora.data.formats.tables import rewritten
from searchlora.data.personal_data import mask, mask_all
from searchlora.errors import UsageError
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.text_identity import normalised
from searchlora.files import EXCERPT, file_sha256
from searchlora.files.json_text import value_fault
from searchlora.records import Collection, Judgment, Option, RejectedRow, SourceReport, SourceRow

#: Options that name the columns of the log.
COLUMNS: Mapping[str, Option] = {
    "session": Option("the session", "column", "session"),
    "time": Option("the time, in seconds or milliseconds since 1970, or ISO 8601", "column", "time"),
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

#: Option -> lowest and highest value of a threshold, if not 1 to 2**31 - 1.
_RANGES = {"window": (0, 1e9), "similarity": (0, 1)}

#: Clicks of a log row, and milliseconds since 1970, beyond which a value is an error.
MAX_CLICKS = 2**31 - 1
MAX_TIME = 1e14

#: Seconds since 1970 beyond which a time is in milliseconds: the year 5138.
_MOST_SECONDS = 1e11

#: Characters of a query, beyond which it is an error: two queries are compared by their letter triples.
MAX_QUERY = 10_000

_BATCH = 1000  # rows stored at once


def read_query_log(source: Path, options: Mapping[str, str]) -> FormatRows:
    """Mine pairs of a failed query and its successful reformulation from a query log.

    Memory does not grow with the log: it is sorted on disk. Personal data is masked in everything that is yielded,
    rejected rows included. The rules (`Rules.describe`) and their counts are reported at the end.

    Args:
        options: Values of `OPTIONS`; columns have the names of `COLUMNS` unless an option renames them.

    Yields:
        Records of `tables.rewritten`: `id` is the `pair_id` of query and rewrite, a pass-through row has its query as
        rewrite, `group` is the normalised rewrite, so that all queries with one rewrite go to one split. Before them
        the rejected rows of the log, after them the report.

    Raises:
        UsageError: for a threshold that is not a number, or a pattern that is not a regular expression.
    """
    rules, order_pattern = _rules(options), _pattern(options.get("order_pattern"))
    counts: Counter[str] = Counter()
    with log_store() as store:
        yield from _fill(store, source, options, order_pattern, counts)
        _mine_sessions(store, rules, counts)
        store.select_known(rules.min_users)
        for query, rewrite, group, where in store.best_pairs():
            counts["reformulations kept" if group != normalised(query) else "pass-through rows kept"] += 1
            record = rewritten(id=pair_id(query, rewrite), group=group, history=[], query=query, rewrite=rewrite)
            yield SourceRow(record, where)
        counts.update({name: store.count(name) for name in COUNTS})
    yield SourceReport(rules.describe(), dict(counts))


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
    written = datetime.fromtimestamp(source.stat().st_mtime, UTC).isoformat(timespec="seconds")
    rule = f"clicked after the rewrite in {minimum} or more sessions; not corrected for positions"
    judgments = list(_clicked_judgments(source, options, minimum))
    made_from = {source.name: file_sha256(source)}
    card = JudgmentsCard("clicks", written, counts={"clicks": len(judgments)}, rule=rule, made_from=made_from)
    return Collection(read_documents(corpus_file(Path(options["corpus"]), options)), judgments, judged_by=card)


def _clicked_judgments(source: Path, options: Mapping[str, str], minimum: int) -> Iterator[Judgment]:
    rules, order_pattern = _rules(options), _pattern(options.get("order_pattern"))
    with log_store() as store:
        for _ in _fill(store, source, options, order_pattern, Counter()):
            pass  # rejected rows are reported by the reader of the records
        _mine_sessions(store, rules, Counter())
        store.select_known(rules.min_users)
        for query, rewrite, group, _ in list(store.best_pairs()):
            for document in store.clicked(group, minimum):
                yield Judgment(pair_id(query, rewrite), document, 1)


def _fill(
    store: LogStore,
    source: Path,
    options: Mapping[str, str],
    order_pattern: re.Pattern[str] | None,
    counts: Counter[str],
) -> Iterator[RejectedRow]:
    names = {name: options.get(name, name) for name in COLUMNS if name != "clicked" or name in options}
    optional = ("user", "clicked", *(("clicks",) if "clicked" in options else ()))
    required = [column for name, column in names.items() if name not in optional or name in options]
    rejects = MaskedRejects(names["time"], order_pattern)
    batch: list[LogRow] = []
    for row in rows_with_columns(source, required):
        if isinstance(row, RejectedRow):
            yield rejects.row(row.where, mask(row.reason, order_pattern), row.data)
            continue
        entry = _log_row(row, names, rejects, counts)
        if isinstance(entry, RejectedRow):
            yield entry
        elif entry is not None:
            batch.append(entry)
            if "clicked" in options:
                session, _, query, *_ = entry
                ids = _clicked_ids(row.data.get(names["clicked"]))
                store.add_clicks((query, document, session) for document in dict.fromkeys(ids))
            if len(batch) >= _BATCH:
                store.add(batch)
                batch.clear()
    store.add(batch)


def _log_row(
    row: SourceRow, names: Mapping[str, str], rejects: MaskedRejects, counts: Counter[str]
) -> LogRow | RejectedRow | None:
    data = {name: row.data.get(column) for name, column in names.items()}
    try:
        time = _seconds(data["time"])
    except ValueError:
        excerpt = _shortened(str(rejects.moment(data["time"])))
        return rejects.row(row.where, f"field 'time': '{excerpt}' is neither seconds nor ISO 8601", row.data)
    try:
        clicks = _clicks(data["clicks"]) if data.get("clicked") is None else len(_clicked_ids(data["clicked"]))
    except ValueError:
        excerpt = _shortened(mask(str(data["clicks"]), rejects.order_pattern))
        return rejects.row(row.where, f"field 'clicks': {excerpt} is not a number of clicks", row.data)
    if not isinstance(data["query"], str) or data["session"] in (None, ""):
        return rejects.row(row.where, "field 'query' is not text, or field 'session' is empty", row.data)
    if len(data["query"]) > MAX_QUERY:
        return rejects.row(row.where, f"field 'query' has more than {MAX_QUERY:,} characters", row.data)
    if fault := value_fault(data):
        return rejects.row(row.where, fault, row.data)
    counts["log rows"] += 1
    typed = " ".join(mask(data["query"], rejects.order_pattern).split())
    if not typed:
        counts["rows with an empty query"] += 1
        return None
    counts["rows with something masked"] += typed != " ".join(data["query"].split())
    session = str(data["session"])
    user = str(data["user"]) if data["user"] not in (None, "") else f"session {session}"
    return session, time, normalised(typed), typed, clicks, user, row.where


def _mine_sessions(store: LogStore, rules: Rules, counts: Counter[str]) -> None:
    for session, events in store.sessions():
        counts["sessions"] += 1
        if len(events) > rules.max_session:
            counts["sessions left out as too long"] += 1
            continue
        store.add_pairs((query, rewrite, session) for query, rewrite in mine(events, rules))


def _seconds(value: Any) -> float:
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


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def _rules(options: Mapping[str, str]) -> Rules:
    values: dict[str, Any] = {}
    for name in THRESHOLDS:
        if name in options:
            kind = type(getattr(Rules, name)) if name not in ("window", "similarity") else float
            try:
                values[name] = kind(options[name])
            except ValueError:
                raise UsageError(f"'{options[name]}' is not a number", where=f"option {name}") from None
            low, high = _RANGES.get(name, (1, 2**31 - 1))
            if not low <= values[name] <= high:
                raise UsageError(f"{options[name]} is out of range", where=f"option {name}", fix=f"{low} to {high:g}.")
    return Rules(**values)


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"'{text}' is not a regular expression ({error})", where="option order_pattern") from None


#: Values of the time column that are shown unmasked: Unix seconds of these decades, or a date with an optional time of
#: day. Both have the form of a phone number.
_TIME = re.compile(
    r"""1\d{9}(?:\.\d+)?
      | (?:\d{4}[-./]\d{1,2}[-./]\d{1,2} | \d{1,2}[-./]\d{1,2}[-./]\d{2,4})
        (?:[T,\ ]+\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,6})?\s*(?:[AP]M|Z|[+-]\d\d:?\d\d)?)?""",
    re.IGNORECASE | re.VERBOSE,
)

# In JSON that cannot be parsed an escape separates words; its letter must not become part of the next word.
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)")
_CUT = 40  # characters dropped at the end of a truncated text, where half a number would not be recognised


@dataclass(frozen=True)
class MaskedRejects:
    """Makes rejected rows with personal data masked.

    Args:
        time: The name of the time column.
        order_pattern: The form of the shop's order numbers.
    """

    time: str
    order_pattern: re.Pattern[str] | None

    def row(self, where: str, reason: str, data: Any) -> RejectedRow:
        """A rejected row; only `data` may quote what a user typed."""
        if isinstance(data, Mapping):
            excerpt: Any = {
                column: self.moment(value) if column == self.time else mask_all(value, self.order_pattern)
                for column, value in data.items()
            }
        elif isinstance(data, str):
            excerpt = self._unread(data)
        else:
            excerpt = mask_all(data, self.order_pattern)
        return RejectedRow(where, reason, excerpt)

    def moment(self, value: Any) -> Any:
        """A value of the time column as shown in a message."""
        return value if _TIME.fullmatch(str(value).strip()) else mask_all(value, self.order_pattern)

    def _unread(self, text: str) -> str:
        masked = mask(_ESCAPE.sub(" ", text), self.order_pattern)
        # Readers truncate bytes or characters; the longer measure tells whether they may have.
        was_cut = len(text.encode("utf-8", "replace")) >= EXCERPT
        return f"{masked[:-_CUT]}..." if was_cut else masked
