"""Baselines of the intent task: the most frequent answer, and TF-IDF with logistic regression or nearest neighbour."""

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
from searchlora.tasks.intent.settings import target_text
from searchlora.tasks.intent.tuning import tuned, with_tuning

COMMONEST = "commonest answer"
LINEAR = "TF-IDF + logistic regression"
NEAREST = "nearest training query"

#: Inverse strength of the L2 penalty: the best of 1, 10 and 100 in cross-validation on BANKING77's training rows.
C = 100.0


def baseline_outputs(
    settings: Mapping[str, Any], records: Sequence[Record], dataset: Path
) -> Mapping[str, Sequence[Any]]:
    """Baseline name -> one output per record, fitted on the dataset's training split.

    Temperature and threshold are tuned on the validation split, as for an adapter.
    """
    built = load_dataset(dataset)
    kind = settings["kind"]
    training = [record for record in built.iter_records("train") if kind in record]
    if not training:
        return {}
    queries = [str(record["query"]) for record in records]
    commonest, _ = Counter(map(target_text, training)).most_common(1)[0]
    answer = next(record[kind] for record in training if target_text(record) == commonest)
    outputs: dict[str, Sequence[Any]] = {COMMONEST: [Label(answer) if kind == "label" else answer] * len(queries)}
    if kind == "object":
        outputs[NEAREST] = _nearest(training, queries)
        return outputs
    if kind == "labels":
        outputs[LINEAR] = _several(settings["labels"], training, queries)
        return outputs
    validation = [record for record in built.iter_records("validation") if kind in record]
    # A dataset may be newer than the adapter's label set; a baseline predicts only labels that the adapter can.
    known = [record for record in training if record["label"] in settings["labels"]]
    if len({record["label"] for record in known}) < 2:
        return outputs
    scored = _scored(settings["labels"], known, [*queries, *(str(record["query"]) for record in validation)])
    values = tuned(settings, validation, scored[len(queries) :])
    outputs[LINEAR] = [with_tuning(settings, values, output) for output in scored[: len(queries)]]
    return outputs


def learned(kind: str) -> frozenset[str]:
    """The names of the baselines of a kind of answer, all of which learn."""
    return frozenset({COMMONEST, NEAREST if kind == "object" else LINEAR})


def _scored(labels: Sequence[str], training: Sequence[Record], queries: Sequence[str]) -> list[Label]:
    """Labels with probabilities, by multinomial logistic regression over TF-IDF of unigrams and bigrams."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(_words(), LogisticRegression(C=C, max_iter=1000))
    model.fit([record["query"] for record in training], [record["label"] for record in training])
    columns = [labels.index(label) for label in model.classes_]
    outputs = []
    for row in model.predict_proba(queries):
        probabilities = np.zeros(len(labels))
        probabilities[columns] = row
        outputs.append(Label(labels[int(probabilities.argmax())], tuple(probabilities.tolist())))
    return outputs


def _several(labels: Sequence[str], training: Sequence[Record], queries: Sequence[str]) -> list[list[str]]:
    """Label sets, by one logistic regression per label; labels with a probability above 0.5 are predicted."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MultiLabelBinarizer

    true = MultiLabelBinarizer(classes=labels).fit_transform([record["labels"] for record in training])
    model = make_pipeline(_words(), OneVsRestClassifier(LogisticRegression(C=C, max_iter=1000)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label on all rows, or on none, is valid data
        model.fit([record["query"] for record in training], true)
    return [[label for label, positive in zip(labels, row, strict=True) if positive] for row in model.predict(queries)]


def _nearest(training: Sequence[Record], queries: Sequence[str]) -> list[Any]:
    """The object of the nearest training query, by cosine similarity of TF-IDF vectors."""
    words = _words()
    known = words.fit_transform([record["query"] for record in training])
    outputs = []
    for start in range(0, len(queries), 256):
        similar = words.transform(queries[start : start + 256]) @ known.T
        outputs += [training[row]["object"] for row in np.asarray(similar.argmax(axis=1)).ravel()]
    return outputs


def _words() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
