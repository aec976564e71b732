"""What an experiment was made from, by hash, and the refusal to go on where that was changed unsaid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.errors import DataError
from searchlora.eval.judgments.card import card_path
from searchlora.experiments.spec import Experiment
from searchlora.files import tree_sha256


def hashes(spec: Experiment) -> dict[str, str]:
    """Label -> sha256 of each file that is read. Raises `DataError` for one that is not there."""
    files = {"topics": spec.topics.path, "qrels": spec.qrels.path}
    if (card := card_path(spec.qrels.path)).is_file():
        files["card of the qrels"] = card
    if spec.corpus is not None:
        files["corpus"] = spec.corpus
    for name, system in spec.systems.items():
        if system.run is not None:
            files[f"run of {name}"] = system.run.path
    return {label: tree_sha256(path) for label, path in files.items()}


def changes(spec: Experiment, now: Mapping[str, str], earlier: Path) -> tuple[str, ...]:
    """What the figures rest on and was changed since an earlier result, in words.

    That is topics, qrels and who made them, corpus, the baseline, and the way of measuring. That other systems changed
    is what an experiment is for.

    Args:
        now: Label -> sha256: `hashes`, and `system NAME` for each that is made here.
        earlier: Its `experiment.json`.

    Raises:
        DataError: when that file is not a result of an experiment.
    """
    then = _read(earlier)
    watched = ["topics", "qrels", "card of the qrels", "corpus", f"run of {spec.baseline}", f"system {spec.baseline}"]
    found = [
        f"{label} {_told(then['inputs'], label, 'was')}, {_told(now, label, 'is')}"
        for label in watched
        if then["inputs"].get(label) != now.get(label)
    ]
    how = measured_by(spec)
    found += [
        f"'{key}' was {then['measured'].get(key)}, is {value}"
        for key, value in how.items()
        if then["measured"].get(key) != value
    ]
    return tuple(found)


def measured_by(spec: Experiment) -> dict[str, Any]:
    """The settings on which every figure depends, as JSON gives them back."""
    settings: dict[str, Any] = json.loads(
        spec.model_dump_json(
            include={
                **dict.fromkeys(
                    ("measures", "tested", "relevant", "scale", "weight", "cluster", "baseline", "correction"), True
                ),
                "qrels": {"format", "thresholds"},
            }
        )
    )
    return settings


def _told(inputs: Mapping[str, str], label: str, verb: str) -> str:
    return f"{verb} {inputs[label][:12]}" if label in inputs else f"{verb} not there"


def refuse_changes(found: tuple[str, ...], earlier: Path) -> None:
    """Raises `DataError` listing what was changed, where anything was."""
    if found:
        raise DataError(
            f"the inputs are not those of the earlier result: {'; '.join(found)}",
            where=str(earlier),
            fix="Put the inputs back, or accept the new ones with --accept-changes.",
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        inputs = {label: str(digest) for label, digest in values["inputs"].items()}
        measured = dict(values["measured"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"is not the result of an experiment ({error})", where=str(path), fix="Name another, or another --out."
        ) from None
    return {"inputs": inputs, "measured": measured}
