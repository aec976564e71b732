"""The inputs of an experiment as hashes, and their comparison with those of an earlier result.

Figures are comparable only if topics, judgments, corpus, baseline and measurement settings are equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchlora.data.collection import corpus_path, index_folder, mapped_sha256
from searchlora.errors import DataError
from searchlora.eval.judgments.card import card_path
from searchlora.experiments.spec import Experiment
from searchlora.files import parse_json, tree_sha256
from searchlora.pipelines.config import CorpusSettings
from searchlora.retrieval.index_manifest import read_manifest


def hashes(spec: Experiment) -> dict[str, str]:
    """Label -> sha256 of every input file. Raises `DataError` for a missing file."""
    files = {"topics": spec.topics.path, "qrels": spec.qrels.path}
    if (card := card_path(spec.qrels.path)).is_file():
        files["card of the qrels"] = card
    if spec.documents is not None:
        files["corpus"] = corpus_path(spec.documents)
    for name, system in spec.systems.items():
        if system.run is not None:
            files[f"run of {name}"] = system.run.path
    columns = spec.corpus.map if isinstance(spec.corpus, CorpusSettings) else {}
    indexed: dict[str, str] = {}
    if spec.documents is not None and (folder := index_folder(spec.documents)) is not None:
        source = read_manifest(folder).corpus  # so that an index and the file that it was built from are one corpus
        columns = {name: each[0] if len(each) == 1 else list(each) for name, each in source.columns.items()}
        indexed = {"corpus": source.sha256}
    digests = {label: indexed.get(label) or tree_sha256(path) for label, path in files.items()}
    if columns:
        digests["corpus"] = mapped_sha256(digests["corpus"], columns)
    return digests


def changes(spec: Experiment, now: Mapping[str, str], earlier: Path) -> tuple[str, ...]:
    """Descriptions of the inputs that changed since an earlier result.

    Compared are topics, qrels and their card, corpus, the baseline and the measurement settings, since figures are
    comparable only if these are equal. Other systems are expected to change.

    `now`: Label -> sha256, from `hashes`, and `system NAME` for each system whose run is computed.
    """
    then = _read_result(earlier)
    watched = ["topics", "qrels", "card of the qrels", "corpus", f"run of {spec.baseline}", f"system {spec.baseline}"]
    changed = [
        f"{label} {_described(then['inputs'], label, 'was')}, {_described(now, label, 'is')}"
        for label in watched
        if then["inputs"].get(label) != now.get(label)
    ]
    changed += [
        f"'{key}' was {then['measured'].get(key)}, is {value}"
        for key, value in measured_by(spec).items()
        if then["measured"].get(key) != value
    ]
    return tuple(changed)


def measured_by(spec: Experiment) -> dict[str, Any]:
    """The settings on which every figure depends, as JSON values."""
    settings: dict[str, Any] = json.loads(
        spec.model_dump_json(
            include={
                **dict.fromkeys(("measures", "tested", "relevant", "scale", "cluster", "baseline", "correction"), True),
                "qrels": {"format", "thresholds"},
            }
        )
    )
    return settings


def _described(inputs: Mapping[str, str], label: str, verb: str) -> str:
    return f"{verb} {inputs[label][:12]}" if label in inputs else f"{verb} absent"


def refuse_changes(changed: tuple[str, ...], earlier: Path) -> None:
    """Raise `DataError` with the list of changes, if there are any."""
    if changed:
        raise DataError(
            f"the inputs differ from those of the earlier result: {'; '.join(changed)}",
            where=str(earlier),
            fix="Restore the inputs, or accept the new ones with --accept-changes.",
        )


def _read_result(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        inputs = {label: str(digest) for label, digest in values["inputs"].items()}
        measured = dict(values["measured"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"is not the result of an experiment ({error})",
            where=str(path),
            fix="Give another result, or another --out.",
        ) from None
    return {"inputs": inputs, "measured": measured}
