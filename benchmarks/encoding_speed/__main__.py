"""Speed of encoding a corpus compared with sentence-transformers, in fp32 and in bf16, and what bf16 changes.

    python -m benchmarks.encoding_speed [--documents 600] [--repeats 5] [--remote URL MODEL] [--try]

all-MiniLM-L6-v2 encodes movies of MSRD: title, overview, actors and characters. The variants take turns in each repeat.
sentence-transformers computes in bf16 by autocast, as its documentation recommends. Nearest neighbours are the ten best
of each movie among the others, by cosine; the overlap is the mean share of those that fp32 of sentence-transformers
finds. `--remote` also asks a server, such as vLLM's, for the vectors. `--try` prints the figures and stores nothing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import parser, print_or_save_speeds, real_data
from benchmarks.speed import speed_ratio, speed_row, timed
from searchlora.http_client import HttpClient
from searchlora.models.load import computed_in
from searchlora.retrieval.encoder import Encoder
from searchlora.retrieval.encoding import normalised
from searchlora.retrieval.remote_encoder import RemoteEncoder
from searchlora.retrieval.shared_model import Vectors

MODEL, MEASURE = "all-minilm-l6-v2", "documents/s"
PRECISIONS = ("fp32", "bf16")
THEIRS, OURS = "sentence-transformers, {}", "searchlora, {}"


def main() -> None:
    arguments = parser("encoding_speed")
    arguments.add_argument("--documents", type=int, default=600)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--remote", nargs=2, metavar=("URL", "MODEL"), help="also ask this server")
    arguments.add_argument("--try", action="store_true", dest="trial", help="print only")
    options = arguments.parse_args()
    texts = movies(options.documents)
    encoder = Encoder.load(MODEL)
    ways: dict[str, Callable[[], Vectors]] = {}
    for precision in PRECISIONS:
        if computed_in(precision, encoder.model.device.type) == precision:  # else it would be fp32 again
            ways[THEIRS.format(precision)] = partial(_theirs, encoder, texts, precision)
            ways[OURS.format(precision)] = partial(encoder.encode_documents, texts, precision=precision)
    if options.remote is not None:
        url, model = options.remote
        ways["remote"] = partial(RemoteEncoder.open(HttpClient(url), model).encode_documents, texts)
    seconds, vectors = timed(ways, options.repeats)
    rates = {name: [len(texts) / second for second in values] for name, values in seconds.items()}
    comparisons = [
        speed_ratio(OURS.format(precision), theirs, MEASURE, rates[OURS.format(precision)], rates[theirs])
        for precision in PRECISIONS
        if (theirs := THEIRS.format(precision)) in rates
    ]
    more = {
        "documents": len(texts),
        "words per document": sum(len(text.split()) for text in texts) / len(texts),
        "agreement with fp32": agreement(vectors, vectors[THEIRS.format("fp32")]),
    }
    print_or_save_speeds(
        "encoding_speed",
        [speed_row(name, MEASURE, values) for name, values in rates.items()],
        comparisons,
        more,
        trial=options.trial,
    )
    print(json.dumps(more["agreement with fp32"], indent=1))


def movies(count: int) -> list[str]:
    """The texts of the first movies that have an overview."""
    with gzip.open(real_data() / "msrd" / "movies.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["overview"]][:count]
    return [" ".join([row["title"], row["overview"], *row["actors"], *row["characters"]]) for row in rows]


def _theirs(encoder: Encoder, texts: list[str], precision: str) -> Vectors:
    import torch

    with torch.autocast(encoder.model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        vectors: Vectors = encoder.model.encode(texts, batch_size=32, show_progress_bar=False).astype(np.float32)
    return vectors


def agreement(vectors: Mapping[str, Vectors], wanted: Vectors) -> dict[str, dict[str, Any]]:
    """Variant -> smallest cosine of a vector with that of fp32, and overlap of the ten nearest neighbours."""
    best = _nearest(wanted)
    return {
        name: {
            "smallest cosine": float((normalised(found) * normalised(wanted)).sum(axis=1).min()),
            "overlap@10": float(np.mean([len(a & b) / len(b) for a, b in zip(_nearest(found), best, strict=True)])),
        }
        for name, found in vectors.items()
    }


def _nearest(vectors: Vectors) -> list[set[int]]:
    scores = normalised(vectors) @ normalised(vectors).T
    np.fill_diagonal(scores, -np.inf)
    return [set(row[:10]) for row in np.argsort(-scores, axis=1, kind="stable").tolist()]


if __name__ == "__main__":
    main()
