"""Small synthetic sources of the rag_answer task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Subject -> text of its passage; subjects share no content words.
SUBJECTS = {
    "tents": "A dome tent weighs 2 kilograms and stands without pegs on rock.",
    "boots": "Leather boots are waxed twice a year against heavy rain.",
    "lamps": "A head torch burns for 40 hours with one battery.",
    "ropes": "Climbing ropes are thrown away after ten years of use.",
    "stoves": "Gas stoves light at once and simmer in the coldest wind.",
    "knives": "Carbon knives rust unless they are dried and oiled.",
    "socks": "Wool socks keep warm while they are wet.",
    "maps": "Paper maps need no charger and never lose their signal.",
    "packs": "A rucksack carries well when its hip belt sits tight.",
    "mats": "Foam mats insulate less than mats filled with air.",
}


def mtrag_row(
    number: int,
    subject: str,
    kind: str = "ANSWERABLE",
    *,
    first: str | None = None,
    document: str | None = None,
    contexts: Sequence[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """A row of `reference.jsonl`; conversations are different ones unless `first` makes their first turn the same."""
    passage = {"document_id": f"{document or f'doc{number}'}-0-{number}", "title": "", "text": SUBJECTS[subject]}
    given = contexts if contexts is not None else ([] if kind == "UNANSWERABLE" else [passage])
    return {
        "task_id": f"conv{number}<::>2",
        "conversation_id": f"conv{number}",
        "input": [
            {"speaker": "user", "text": first or f"Tell me about {subject} {number}"},
            {"speaker": "agent", "text": "Gladly."},
            {"speaker": "user", "text": f"What is there to know of {subject}?"},
        ],
        "contexts": list(given),
        "targets": [{"speaker": "agent", "text": SUBJECTS[subject] if given else "Sorry, I do not know."}],
        "answerability": [kind],
        "Collection": "shop",
    }


def usual_rows() -> list[dict[str, Any]]:
    """An answerable row for each subject, two unanswerable ones, one underspecified, one partly answerable."""
    rows = [mtrag_row(number, subject) for number, subject in enumerate(SUBJECTS)]
    rows += [mtrag_row(20, "tents", "UNANSWERABLE"), mtrag_row(21, "boots", "UNANSWERABLE")]
    return [*rows, mtrag_row(22, "lamps", "UNDERSPECIFIED"), mtrag_row(23, "ropes", "PARTIAL", document="doc3")]
