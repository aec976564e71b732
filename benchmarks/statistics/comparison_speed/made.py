"""Runs and judgments of a stated size, made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from searchlora.eval.trec import write_qrels

#: Documents that a topic's runs choose from, and how many of them are judged.
POOL, JUDGED = 3_000, 100


def make(folder: Path, *, systems: int, topics: int, depth: int, seed: int = 0) -> None:
    """Write `qrels` and `run00`, `run01`, … into a folder.

    A document's score is its quality, as the system sees it, and noise; the later a system, the more noise.
    """
    rng = np.random.default_rng(seed)
    quality = rng.choice(4, size=(topics, POOL), p=[0.97, 0.015, 0.01, 0.005])
    judged = rng.permuted(np.tile(np.arange(POOL), (topics, 1)), axis=1)[:, :JUDGED]
    judged[:, : JUDGED // 2] = np.argsort(-quality, axis=1, kind="stable")[:, : JUDGED // 2]
    qrels = {
        str(topic): {_document(topic, place): int(quality[topic, place]) for place in judged[topic]}
        for topic in range(topics)
    }
    write_qrels(folder / "qrels", qrels)
    for system in range(systems):
        scores = quality + rng.gumbel(0, 1 + system / 10, size=quality.shape)
        best = np.argsort(-scores, axis=1)[:, :depth]
        with (folder / f"run{system:02}").open("w", encoding="utf-8") as out:
            for topic, places in enumerate(best):
                out.writelines(
                    f"{topic} Q0 {_document(topic, place)} {rank} {scores[topic, place]:.6f} run{system:02}\n"
                    for rank, place in enumerate(places.tolist(), start=1)
                )


def _document(topic: int, place: int) -> str:
    return f"D{topic * POOL + place:08}"
