"""What a model must beat: the commonest answer, and words counted."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchlora.data.dataset import load_dataset
from searchlora.outputs import Label
from searchlora.records import Record
from searchlora.tasks.intent.answers import written
from searchlora.tasks.intent.calibration import settled, tuned_on

COMMONEST = "commonest answer"
LINEAR = "TF-IDF + logistic regression"
NEAREST = "nearest training query"

#: Inverse strength of the L2 penalty; of 1, 10 and 100 the best on BANKING77's training rows, cross-validated.
C = 100.0


def all_of(settings: Mapping[str, Any], records: Sequence[Record], dataset: Path) -> Mapping[str, Sequence[Any]]:
    """Baseline answers by name, fitted on the dataset's training split; temperature and threshold as for an adapter."""
    built = load_dataset(dataset)
    kind = settings["kind"]
    training = [record for record in built.iter_records("train") if kind in record]
    queries = [str(record["query"]) for record in records]
    commonest, _ = Counter(map(written, training)).most_common(1)[0]
    answer = next(record[kind] for record in training if written(record) == commonest)
    found: dict[str, Sequence[Any]] = {COMMONEST: [Label(answer) if kind == "label" else answer] * len(queries)}
    if kind == "object":
        found[NEAREST] = _nearest(training, queries)
        return found
    if kind == "labels":
        found[LINEAR] = _several(settings["labels"], training, queries)
        return found
    validation = [record for record in built.iter_records("validation") if kind in record]
    # A dataset may be newer than the adapter's labels; what the adapter cannot say, no baseline of it says either.
    known = [record for record in training if record["label"] in settings["labels"]]
    if len({record["label"] for record in known}) < 2:
        return found
    scored = _scored(settings["labels"], known, [*queries, *(str(record["query"]) for record in validation)])
    tuned = tuned_on(settings, validation, scored[len(queries) :])
    found[LINEAR] = [settled(settings, tuned, output) for output in scored[: len(queries)]]
    return found


def _scored(labels: Sequence[str], training: Sequence[Record], queries: Sequence[str]) -> list[Label]:
    """By multinomial logistic regression over TF-IDF of words and pairs of words."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(_words(), LogisticRegression(C=C, max_iter=1000))
    model.fit([record["query"] for record in training], [record["label"] for record in training])
    places = [labels.index(label) for label in model.classes_]
    outputs = []
    for row in model.predict_proba(queries):
        given = np.zeros(len(labels))
        given[places] = row
        outputs.append(Label(labels[int(given.argmax())], tuple(given.tolist())))
    return outputs


def _several(labels: Sequence[str], training: Sequence[Record], queries: Sequence[str]) -> list[list[str]]:
    """A logistic regression per label; those above one half are said."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MultiLabelBinarizer

    true = MultiLabelBinarizer(classes=labels).fit_transform([record["labels"] for record in training])
    model = make_pipeline(_words(), OneVsRestClassifier(LogisticRegression(C=C, max_iter=1000)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a label is on all rows, or on none, is how data may be
        model.fit([record["query"] for record in training], true)
    return [[label for label, said in zip(labels, row, strict=True) if said] for row in model.predict(queries)]


def _nearest(training: Sequence[Record], queries: Sequence[str]) -> list[Any]:
    """The object of the training query with the highest cosine of TF-IDF vectors."""
    words = _words()
    known = words.fit_transform([record["query"] for record in training])
    outputs = []
    for start in range(0, len(queries), 256):
        similar = words.transform(queries[start : start + 256]) @ known.T
        outputs += [training[place]["object"] for place in np.asarray(similar.argmax(axis=1)).ravel()]
    return outputs


def _words() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
