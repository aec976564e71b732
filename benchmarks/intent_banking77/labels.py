"""What the figures hide: each label's own, which are taken for which, and answers to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from searchlora.outputs import InvalidOutput
from searchlora.records import Record


def per_label(records: Sequence[Record], outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label, the worst F1 first."""
    from sklearn.metrics import precision_recall_fscore_support

    gold = [str(record["label"]) for record in records]
    labels = sorted(set(gold))
    figures = precision_recall_fscore_support(gold, _said(outputs), labels=labels, zero_division=0)
    rows = [
        {"label": label, "precision": float(p), "recall": float(r), "F1": float(f), "n": int(n)}
        for label, p, r, f, n in zip(labels, *figures, strict=True)
    ]
    return sorted(rows, key=lambda row: float(row["F1"]))


def confused(records: Sequence[Record], outputs: Sequence[Any], most: int = 20) -> list[dict[str, Any]]:
    """The pairs of labels most often confused, true and said."""
    pairs = Counter((str(r["label"]), said) for r, said in zip(records, _said(outputs), strict=True))
    wrong = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    return [{"true": true, "said": said, "n": count} for (true, said), count in wrong.most_common(most)]


def to_read(records: Sequence[Record], held: Sequence[Any], free: Sequence[Any], each: int = 10) -> str:
    """So many right answers, wrong ones, and ones invalid without constraint, drawn by chance, as Markdown."""
    rows = list(zip(records, held, free, strict=True))
    parts = {
        "Right": [row for row in rows if row[1].value == row[0]["label"]],
        "Wrong": [row for row in rows if row[1].value != row[0]["label"]],
        "Invalid without constraint": [row for row in rows if isinstance(row[2], InvalidOutput)],
    }
    return "\n".join(line for title, found in parts.items() for line in _listed(title, found, each))


def _listed(title: str, rows: Sequence[tuple[Record, Any, Any]], each: int) -> Iterator[str]:
    yield f"## {title}: {len(rows)} rows, {min(each, len(rows))} of them drawn\n"
    for record, held, free in Random(0).sample(rows, min(each, len(rows))):
        sure = f"{max(held.probabilities):.2f}"
        wrote = repr(free.raw) if isinstance(free, InvalidOutput) else free.value
        yield f"* **{record['query']}** ({record['id']})"
        yield f"  true {record['label']}; said {held.value} at {sure}; without constraint {wrote}"
    yield ""


def _said(outputs: Sequence[Any]) -> list[str]:
    return ["(invalid)" if isinstance(output, InvalidOutput) else str(output.value) for output in outputs]
