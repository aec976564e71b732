"""A query log: who searched for what, when, and what was clicked. Reformulations that led to a click become pairs.
Personal data is masked in everything that leaves this module, rows that cannot be read among it.

The rules are those of `sessions.Rules.told()`; they and their counts go into the dataset card.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from searchlora.data.formats.log_rejects import Rejects
from searchlora.data.formats.log_store import COUNTS, LogRow, LogStore, log_store
from searchlora.data.formats.pair_ids import pair_id
from searchlora.data.formats.sessions import Rules, mine
from searchlora.data.privacy import mask
from searchlora.errors import UsageError
from searchlora.eval.text_identity import normalised
from searchlora.files import read_rows
from searchlora.records import RejectedRow, SourceReport, SourceRow

#: Option -> meaning.
COLUMNS: Mapping[str, str] = {
    "session": "the column with the session",
    "time": "the column with the time, in seconds or ISO 8601",
    "query": "the column with the query",
    "clicks": "the column with the number of clicks, or the clicked ids between blanks or commas",
    "user": "the column with the user, if there is one",
}
THRESHOLDS: Mapping[str, str] = {
    "window": f"seconds between a failed query and its reformulation ({Rules.window:g})",
    "min_clicks": f"clicks that make a success ({Rules.min_clicks})",
    "similarity": f"share of letter triples that relates queries without a common word ({Rules.similarity:g})",
    "min_users": f"users who must have issued a query ({Rules.min_users})",
    "max_session": f"queries of a session, above which it is left out ({Rules.max_session})",
}
OPTIONS: Mapping[str, str] = {
    **COLUMNS,
    **THRESHOLDS,
    "order_pattern": "a regular expression for your order numbers, masked too",
}

BATCH = 1000  # rows stored at once


def read(source: Path, options: Mapping[str, str]) -> Iterator[SourceRow | RejectedRow | SourceReport]:
    """Pairs mined from a log. Memory does not grow with the log, it is sorted on disk.

    Args:
        options: Values of `OPTIONS`; columns go by their own names unless told otherwise.

    Yields:
        `id` (`pair_id` of query and rewrite), `query`, `rewrite` (the same for a pass-through row), `group`
        (the normalised rewrite, so that all ways to one rewrite go to one split), `sessions` in which it was seen;
        rejected rows of the log before them; the rules and counts at the end.

    Raises:
        UsageError: for a threshold that is not a number, or a pattern that is not one.
    """
    rules, own_orders = _rules(options), _pattern(options.get("order_pattern"))
    counts: Counter[str] = Counter()
    with log_store() as store:
        yield from _fill(store, source, options, own_orders, counts)
        _mine_all(store, rules, counts)
        store.choose(rules.min_users)
        for query, rewrite, group, sessions, place in store.best():
            counts["reformulations kept" if group != normalised(query) else "pass-through rows kept"] += 1
            pair = pair_id(query, rewrite)
            terms = {"id": pair, "query": query, "rewrite": rewrite, "group": group, "sessions": sessions}
            yield SourceRow(terms, place)
        counts.update({name: store.count(name) for name in COUNTS})
    yield SourceReport(rules.told(), dict(counts))


def _fill(
    store: LogStore,
    source: Path,
    options: Mapping[str, str],
    own_orders: re.Pattern[str] | None,
    counts: Counter[str],
) -> Iterator[RejectedRow]:
    names = {name: options.get(name, name) for name in COLUMNS}
    needed = [names[name] for name in COLUMNS if name != "user" or "user" in options]
    rejects = Rejects(names["time"], own_orders)
    batch: list[LogRow] = []
    for row in read_rows(source, needed):
        if isinstance(row, RejectedRow):
            yield rejects.row(row.where, row.reason, row.data)
            continue
        taken = _taken(row, names, rejects, counts)
        if isinstance(taken, RejectedRow):
            yield taken
        elif taken is not None:
            batch.append(taken)
            if len(batch) >= BATCH:
                store.add(batch)
                batch.clear()
    store.add(batch)


def _taken(
    row: SourceRow, names: Mapping[str, str], rejects: Rejects, counts: Counter[str]
) -> LogRow | RejectedRow | None:
    data = {name: row.data.get(column) for name, column in names.items()}
    try:
        time = _seconds(data["time"])
    except ValueError:
        shown = rejects.moment(data["time"])
        return rejects.row(row.where, f"field 'time': '{shown}' is neither seconds nor ISO 8601", row.data)
    try:
        clicks = _clicks(data["clicks"])
    except ValueError:
        shown = mask(str(data["clicks"]), rejects.own_orders)
        return rejects.row(row.where, f"field 'clicks': {shown} is not a number of clicks", row.data)
    if not isinstance(data["query"], str) or data["session"] in (None, ""):
        return rejects.row(row.where, "field 'query' is not text, or field 'session' is empty", row.data)
    counts["log rows"] += 1
    typed = " ".join(mask(data["query"], rejects.own_orders).split())
    if not typed:
        counts["rows with an empty query"] += 1
        return None
    counts["rows with something masked"] += typed != " ".join(data["query"].split())
    session = str(data["session"])
    user = str(data["user"]) if data["user"] not in (None, "") else f"session {session}"
    return session, time, normalised(typed), typed, clicks, user, row.where


def _mine_all(store: LogStore, rules: Rules, counts: Counter[str]) -> None:
    for session, events in store.sessions():
        counts["sessions"] += 1
        if len(events) > rules.max_session:
            counts["sessions left out as too long"] += 1
            continue
        store.add_pairs((query, rewrite, session) for query, rewrite in mine(events, rules))


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
        if math.isfinite(seconds):
            return seconds
    except (TypeError, ValueError):
        pass
    if isinstance(value, datetime):
        moment = value
    else:
        moment = datetime.fromisoformat(str(value).strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _clicks(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, (list, tuple)):
        return len(value)
    try:
        number = float(value)
    except TypeError:
        raise ValueError("is an object") from None
    except ValueError:
        return len(re.split(r"[\s,;|]+", str(value).strip())) if str(value).strip() else 0
    if not (math.isfinite(number) and number >= 0 and number == int(number)):
        raise ValueError("is no count")
    return int(number)


def _rules(options: Mapping[str, str]) -> Rules:
    values: dict[str, Any] = {}
    for name in THRESHOLDS:
        if name in options:
            kind = type(getattr(Rules, name)) if name not in ("window", "similarity") else float
            try:
                values[name] = kind(options[name])
            except ValueError:
                raise UsageError(f"'{options[name]}' is not a number", where=f"option {name}") from None
    return Rules(**values)


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"'{text}' is not a regular expression ({error})", where="option order_pattern") from None
