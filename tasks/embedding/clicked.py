"""A click log with positions: what was clicked more than its position explains is what a query shall find.

**Second class.** See `searchlora.eval.judgments.clicks` for the correction and for what it does not correct. The
dataset's judgments carry a card that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from searchlora.data.collection import read_documents
from searchlora.data.formats.clicks import COLUMNS, read_clicks
from searchlora.data.formats.judged import Judged
from searchlora.errors import UsageError
from searchlora.eval.files import file_sha256
from searchlora.eval.judgments.card import JudgmentsCard
from searchlora.eval.judgments.clicks import MINIMUM, ClickCounts, ClickJudgments, clean_query, click_qrels, topic_id
from searchlora.records import Options

#: The grade from which on a document counts: clicked at least as often as any document at its positions.
RELEVANT = 2

OPTIONS: Mapping[str, str] = {
    "documents": "the file with the documents (id, text, title) that the log names; must be given",
    "minimum": f"impressions that a query and a document need together to be judged (default {MINIMUM})",
    **{name: f"the column with '{name}' (default: {column})" for name, column in COLUMNS.items()},
}


def judged(source: Path, options: Options) -> Judged:
    """The queries of a log as topics, its documents, and grades 0 to 3 from clicks over expected clicks.

    Raises:
        UsageError: when no documents are named, or the minimum is no number.
        DataError, RowError: for a file that cannot be read, or a row that is malformed.
    """
    if "documents" not in options:
        raise UsageError("a click log names documents only", fix="Give their file with --option documents=FILE.")
    found = _counted(source, options)
    documents = Path(options["documents"])
    queries = {topic_id(each.query): clean_query(each.query) for each in found.judgments}
    return Judged(source.name, queries, lambda: read_documents(documents), {None: click_qrels(found)})


def card(source: Path, options: Options) -> JudgmentsCard:
    """What is told of the judgments; `created` is when the log was written."""
    found = _counted(source, options)
    written = datetime.fromtimestamp(source.stat().st_mtime, UTC).isoformat(timespec="seconds")
    made_from = {source.name: file_sha256(source)}
    return JudgmentsCard(
        "clicks", written, counts={"clicks": len(found.judgments)}, rule=found.rule, made_from=made_from
    )


def _counted(source: Path, options: Options) -> ClickJudgments:
    minimum = options.get("minimum", str(MINIMUM))
    if not minimum.isdigit():
        raise UsageError(f"minimum is a number, not '{minimum}'", where="--option")
    counts = ClickCounts()
    for impression in read_clicks(source, {name: options[name] for name in COLUMNS if name in options}):
        counts.add(impression)
    return counts.judge(minimum=int(minimum))
