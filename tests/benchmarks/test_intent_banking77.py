"""Tables of the intent benchmark: figures per label."""

from __future__ import annotations

from benchmarks.intent_banking77.__main__ import confused, per_label
from searchlora.outputs import InvalidOutput, Label

RECORDS = [
    {"id": f"t{n}", "group": f"t{n}", "query": f"query {n}", "label": label}
    for n, label in enumerate(["a", "a", "a", "b", "b"])
]
HELD = [
    Label("a", (0.9, 0.1)),
    Label("b", (0.4, 0.6)),
    Label("b", (0.3, 0.7)),
    Label("b", (0.2, 0.8)),
    Label("a", (0.8, 0.2)),
]
FREE = [*HELD[:4], InvalidOutput("a b", "not one of the labels")]


def test_precision_recall_and_confusions_per_label():
    worst, best = per_label(RECORDS, FREE)
    assert (worst["label"], worst["precision"], worst["recall"], worst["n"]) == ("b", 1 / 3, 0.5, 2)
    assert (best["label"], best["F1"]) == ("a", 0.5)
    assert confused(RECORDS, FREE)[0] == {"gold": "a", "predicted": "b", "n": 2}
    assert {"gold": "b", "predicted": "(invalid)", "n": 1} in confused(RECORDS, FREE)
