"""Sample data and adapters for the other examples: made when they are first asked for, then used again.

The adapters are trained for a few steps only, so that every example runs in about a minute on two cores.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import searchlora
from searchlora.adapters.store import Store
from searchlora.adapters.stored import StoredAdapter

WORDS = {"telly": "television", "fridge": "refrigerator", "sofa": "couch", "mobile": "phone", "kicks": "shoes"}
COLOURS = ("red", "blue", "green", "grey", "pink", "black", "white", "brown")
STORE = Store("store")


def rewriting_data() -> Path:
    """A dataset of rewrites with products and judgments."""
    folder = Path("rewriting-data")
    if not folder.exists():
        rewrites, products, judgments = ["id,query,rewrite"], [], []
        for n, (colour, (short, long)) in enumerate(itertools.product(COLOURS, WORDS.items())):
            rewrites.append(f"q{n},{colour} {short},{colour} {long}")
            products.append(json.dumps({"id": f"p{n}", "title": f"{colour} {long}", "text": f"A {long}."}))
            judgments.append(f"q{n} 0 p{n} 1")
        for name, lines in (("pairs.csv", rewrites), ("products.jsonl", products), ("judgments.txt", judgments)):
            Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        where = {"corpus": "products.jsonl", "qrels": "judgments.txt"}
        searchlora.data.build("rewriting", "pairs.csv", format="pairs", out=folder, judgments_source="human", **where)
    return folder


def rewriter() -> StoredAdapter:
    """A query rewriter, trained for a few steps."""
    options = searchlora.TrainingOptions(["optim.max_steps=20", "lora.r=8"], reuse=True)
    return searchlora.train("rewriting", rewriting_data(), "shop-rewriter", options, store=STORE)


def intent() -> StoredAdapter:
    """An intent classifier, trained for a few steps."""
    if STORE.versions("shop-intent"):
        return STORE.get("shop-intent")
    labels = {"buy": "buy a {} {}", "return": "return my {} {}", "repair": "my {} {} is broken"}
    rows = [
        f"{pattern.format(colour, thing)},{label}"
        for colour, thing, (label, pattern) in itertools.product(COLOURS, WORDS, labels.items())
    ]
    Path("intents.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    searchlora.data.build("intent", "intents.csv", format="csv", out="intent-data")
    options = searchlora.TrainingOptions(["optim.max_steps=20"])
    return searchlora.train("intent", "intent-data", "shop-intent", options, store=STORE)
