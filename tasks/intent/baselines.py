"""Baselines of the intent task: the most frequent answer, and classical models over TF-IDF or over a frozen encoder.

The model is logistic regression where there are labels, and the answer of the nearest training query where the answer
is an object.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchlora.data.dataset import load_dataset
from searchlora.encoder_baseline import Encode, EncoderBaseline
from searchlora.outputs import InvalidOutput, Label
from searchlora.records import Record
from searchlora.tasks.intent.settings import target_text
from searchlora.tasks.intent.tuning import tuned, with_tuning

COMMONEST = "commonest answer"
LINEAR = "TF-IDF + logistic regression"
NEAREST = "nearest training query"

#: Inverse strength of the L2 penalty, for TF-IDF: the best of 1, 10 and 100 in cross-validation on BANKING77's training
#: rows. For vectors of all-MiniLM-L6-v2: within .001 of the best of 1, 10, 30 and 100 at 10, 50 and all rows a label.
C, C_ENCODER = 100.0, 30.0


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


def encoder_baselines(settings: Mapping[str, Any]) -> Sequence[EncoderBaseline]:
    """The baseline over a frozen encoder for a kind of answer."""
    if settings["kind"] == "object":
        return (NearestQueryBaseline(),)
    return ((LogisticRegressionBaseline if settings["kind"] == "label" else SeveralLabelsBaseline)(settings),)


class LogisticRegressionBaseline(EncoderBaseline):
    """Multinomial logistic regression, with temperature and out-of-scope threshold tuned as for an adapter."""

    name = "+ logistic regression"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def fit(self, training: Sequence[Record], validation: Sequence[Record], encode: Encode) -> None:
        from sklearn.dummy import DummyClassifier

        # A dataset may be newer than the adapter's label set; a baseline predicts only labels that the adapter can.
        known = [record for record in training if record.get("label") in self._settings["labels"]]
        labels = [record["label"] for record in known]
        model = _one_label(C_ENCODER) if len(set(labels)) > 1 else DummyClassifier(strategy="prior")
        self._model = model.fit(encode(_queries(known)), labels) if known else None
        rows = [record for record in validation if "label" in record]
        self._tuned = tuned(self._settings, rows, self._scored(rows, encode)) if rows and known else {}

    def predict(self, records: Sequence[Record], encode: Encode) -> Sequence[Label | InvalidOutput]:
        if self._model is None:
            return [InvalidOutput("", "no training row has a label of the adapter")] * len(records)
        return [with_tuning(self._settings, self._tuned, label) for label in self._scored(records, encode)]

    def _scored(self, records: Sequence[Record], encode: Encode) -> list[Label]:
        return _labels(self._model, self._settings["labels"], encode(_queries(records)))


class SeveralLabelsBaseline(EncoderBaseline):
    """One logistic regression per label; labels with a probability above 0.5 are predicted."""

    name = "+ logistic regression"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._labels = settings["labels"]

    def fit(self, training: Sequence[Record], validation: Sequence[Record], encode: Encode) -> None:
        del validation
        known = [record for record in training if "labels" in record]
        self._model = _fit_several(_each_label(C_ENCODER), self._labels, encode(_queries(known)), known)

    def predict(self, records: Sequence[Record], encode: Encode) -> Sequence[list[str]]:
        return _label_sets(self._model, self._labels, encode(_queries(records)))


class NearestQueryBaseline(EncoderBaseline):
    """The object of the training query with the highest cosine."""

    name = "+ nearest training query"

    def fit(self, training: Sequence[Record], validation: Sequence[Record], encode: Encode) -> None:
        del validation
        known = [record for record in training if "object" in record]
        self._objects, self._vectors = [record["object"] for record in known], encode(_queries(known))

    def predict(self, records: Sequence[Record], encode: Encode) -> Sequence[Any]:
        nearest = (encode(_queries(records)) @ self._vectors.T).argmax(axis=1)
        return [self._objects[row] for row in nearest]


def _queries(records: Sequence[Record]) -> list[str]:
    return [str(record["query"]) for record in records]


def _scored(labels: Sequence[str], training: Sequence[Record], queries: Sequence[str]) -> list[Label]:
    """Labels with probabilities, by multinomial logistic regression over TF-IDF of unigrams and bigrams."""
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(_words(), _one_label(C))
    model.fit([record["query"] for record in training], [record["label"] for record in training])
    return _labels(model, labels, queries)


def _several(labels: Sequence[str], training: Sequence[Record], queries: Sequence[str]) -> list[list[str]]:
    """Label sets by TF-IDF and one logistic regression per label."""
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(_words(), _each_label(C))
    return _label_sets(_fit_several(model, labels, _queries(training), training), labels, queries)


def _one_label(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=1000)


def _each_label(c: float) -> Any:
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(_one_label(c))


def _labels(model: Any, labels: Sequence[str], inputs: Any) -> list[Label]:
    """Labels with probabilities of a classifier that may have learned only some of them."""
    columns = [labels.index(label) for label in model.classes_]
    outputs = []
    for row in model.predict_proba(inputs):
        probabilities = np.zeros(len(labels))
        probabilities[columns] = row
        outputs.append(Label(labels[int(probabilities.argmax())], tuple(probabilities.tolist())))
    return outputs


def _fit_several(model: Any, labels: Sequence[str], inputs: Any, training: Sequence[Record]) -> Any:
    from sklearn.preprocessing import MultiLabelBinarizer

    true = MultiLabelBinarizer(classes=labels).fit_transform([record["labels"] for record in training])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label on all rows, or on none, is valid data
        return model.fit(inputs, true)


def _label_sets(model: Any, labels: Sequence[str], inputs: Any) -> list[list[str]]:
    """The labels with a probability above 0.5."""
    return [[label for label, positive in zip(labels, row, strict=True) if positive] for row in model.predict(inputs)]


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
