"""A gate: for each query, the weights of the parts of a fusion, predicted from the query before retrieval.

Ridge regression predicts the measure of each of a number of fixed mixes (Hoerl and Kennard 1970), and the mix with the
highest prediction is taken. Its intercepts are the means of the training queries, so a gate that has learned nothing
about queries takes the best fixed mix for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from searchlora.errors import DataError, PipelineError
from searchlora.files import file_sha256
from searchlora.files.json_text import json_file
from searchlora.retrieval.query_features import (
    OF_TERMS,
    QueryVectors,
    TermStatistics,
    text_features,
    vector_features,
)
from searchlora.retrieval.retriever import Retriever

#: Regularisation of the ridge regression; features have mean 0 and deviation 1.
ALPHAS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)

#: Folds of the cross-validation, and the smallest number of queries to learn from.
FOLDS, SMALLEST = 5, 10

Floats = NDArray[np.float64]


class Gate(BaseModel):
    """A gate as it is stored.

    Attributes:
        parts: Kind and settings of each part of the fusion that it was fitted with, adapters pinned.
        method, constant: Of the fusion.
        measure: What it predicts.
        mixes: Weights of the parts, shape (mixes, parts).
        fixed: The best fixed mix of the training queries.
        features: Names of the features of the text.
        dimensions: Dimensions of the query vector that are further features; 0: none.
        mean, scale: Of the features, over the training queries, shape (features,).
        coefficients: Shape (mixes, features); empty where the gate takes the fixed mix for every query.
        intercepts: Mean measure of the training queries, shape (mixes,).
        validation: How the gate was chosen, see `learn`.
        origin: What it was fitted on: hashes of topics, qrels and corpus, the source of the qrels and why they are
            circular, pinned stages and encoders.
        queries: Hashes of the training queries (`eval.judgments.lineage.query_hash`), so that none is a test query.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    parts: tuple[tuple[str, dict[str, Any]], ...] = Field(min_length=1)
    method: str
    constant: float
    measure: str
    mixes: tuple[tuple[float, ...], ...] = Field(min_length=1)
    fixed: tuple[float, ...]
    features: tuple[str, ...]
    dimensions: int = Field(ge=0)
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    validation: dict[str, float | int | str | None]
    origin: dict[str, Any]
    queries: tuple[str, ...]

    @model_validator(mode="after")
    def _of_one_shape(self) -> Gate:
        mixes, features = len(self.mixes), len(self.features) + self.dimensions
        fits = (
            all(len(mix) == len(self.parts) and min(mix) >= 0 and sum(mix) > 0 for mix in (*self.mixes, self.fixed))
            and len(self.mean) == len(self.scale) == features
            and len(self.intercepts) == mixes
            and len(self.coefficients) in (0, mixes)
            and all(len(row) == features for row in self.coefficients)
            and all(scale > 0 for scale in self.scale)
            and self.fixed in self.mixes
        )
        if not fits:
            raise ValueError("its weights, features and coefficients do not fit together")
        return self

    @property
    def is_fixed(self) -> bool:
        """Whether it takes the best fixed mix for every query."""
        return not self.coefficients

    def choose(self, features: Floats) -> NDArray[np.intp]:
        """The number of the mix for each query.

        Args:
            features: Shape (queries, features), see `features_of`; not read by a gate that `is_fixed`.
        """
        if self.is_fixed:
            return np.full(len(features), self.mixes.index(self.fixed), dtype=np.intp)
        scaled = (features - np.array(self.mean)) / np.array(self.scale)
        chosen: NDArray[np.intp] = np.argmax(scaled @ np.array(self.coefficients).T + np.array(self.intercepts), axis=1)
        return chosen


def read_gate(path: Path, sha256: str | None = None) -> Gate:
    """Read a gate.

    Args:
        sha256: Of the file, as it was pinned; None: any.

    Raises:
        DataError: if the file is missing, is no gate, or is another one.
    """
    if sha256 is not None and path.is_file() and file_sha256(path) != sha256:
        raise DataError("the gate has changed since it was pinned", where=str(path), fix="Load the pipeline again.")
    try:
        return Gate.model_validate(json_file(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(
            f"is no gate ({f'{key}: ' if key else ''}{first['msg'].lower()})",
            where=str(path),
            fix="Write one with `searchlora gate fit`.",
        ) from None


# Features


def features_of(
    queries: Sequence[str], retrievers: Sequence[Retriever], *, vectors: bool
) -> tuple[tuple[str, ...], Floats, Floats]:
    """The features of queries that the parts of a fusion allow: terms by the first BM25 index, a vector by a dense one.

    Returns:
        Names of the features of the text; their values, shape (queries, features); and the query vectors, shape
        (queries, dimensions), with 0 dimensions without `vectors` or a dense part.
    """
    inner = [_unwrapped(retriever) for retriever in retrievers]
    terms = next((each for each in inner if isinstance(each, TermStatistics)), None)
    dense = next((each for each in inner if isinstance(each, QueryVectors)), None) if vectors else None
    names, values = text_features(queries, terms)
    return names, values, vector_features(queries, dense) if dense is not None else np.zeros((len(queries), 0))


class GateWeigher:
    """The weights of a fusion by a gate, see `fusion.Weigher`.

    Args:
        retrievers: The parts of the fusion.
        places: Which of the gate's parts they are; the weights of the others are left out.

    Raises:
        PipelineError: if a part that the gate's features come from is left out, or for a part that it does not have.
    """

    def __init__(self, gate: Gate, retrievers: Sequence[Retriever], places: Sequence[int] | None = None) -> None:
        self._gate = gate
        self._retrievers = tuple(retrievers)
        self._places = list(range(len(gate.parts)) if places is None else places)
        if len(self._places) != len(self._retrievers) or not all(0 <= each < len(gate.parts) for each in self._places):
            raise PipelineError(f"the gate is for {len(gate.parts)} parts", fix="Fit a gate for these parts.")
        self._sources = list(self._feature_sources()) if len(self._places) > 1 and not gate.is_fixed else []

    def _feature_sources(self) -> Iterator[Retriever]:
        """The parts that the gate's features come from, as when it was fitted: the first that has them."""
        of_place = dict(zip(self._places, self._retrievers, strict=True))
        for what, is_needed, kinds, interface in (
            ("BM25 index", bool(set(self._gate.features) & set(OF_TERMS)), ("bm25",), TermStatistics),
            ("encoder", self._gate.dimensions > 0, ("dense", "vector_search"), QueryVectors),
        ):
            if not is_needed:
                continue
            first = next((place for place, (kind, _) in enumerate(self._gate.parts) if kind in kinds), None)
            source = None if first is None else of_place.get(first)
            if source is None or not isinstance(_unwrapped(source), interface):
                raise PipelineError(
                    f"the gate needs the first {what} that it was fitted with among the parts of the fusion",
                    fix="Fit a gate for these parts, or fuse them with fixed weights.",
                )
            yield source

    def weights(self, queries: Sequence[str]) -> list[tuple[float, ...]]:
        """The weights of the parts for each query, adding up to 1; equal ones if the gate wants none of these parts."""
        if len(self._places) == 1:
            return [(1.0,)] * len(queries)
        if self._gate.is_fixed:
            features = np.zeros((len(queries), 0))
        else:
            _, values, vectors = features_of(queries, self._sources, vectors=self._gate.dimensions > 0)
            if not vectors.size:  # no query has a text, or the gate wants no vectors
                vectors = np.zeros((len(queries), self._gate.dimensions))
            features = np.hstack([values, vectors])
        chosen = [self._gate.mixes[number] for number in self._gate.choose(features)]
        kept = [[mix[place] for place in self._places] for mix in chosen]
        return [
            tuple(weight / sum(mix) for weight in mix) if sum(mix) > 0 else (1 / len(mix),) * len(mix) for mix in kept
        ]


def _unwrapped(retriever: object) -> object:
    """The retriever that another one measures or caches."""
    while (inner := getattr(retriever, "retriever", None)) is not None:
        retriever = inner
    return retriever


# Learning


@dataclass(frozen=True)
class Learned:
    """What `learn` found, as a gate stores it.

    Attributes:
        with_vectors: Whether the query vector is among the features.
        mean, scale, coefficients, intercepts: See `Gate`; the coefficients are empty for a fixed mix.
        fixed: Number of the best fixed mix.
        validation: `alpha`, null for a fixed mix; the cross-validated measure of the best fixed mix (`fixed`) and of
            the best gate (`gate`), the standard error of their difference by groups, and the numbers of queries and
            folds.
    """

    with_vectors: bool
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    fixed: int
    validation: Mapping[str, float | int | None]


def learn(text: Floats, vectors: Floats, values: Floats, groups: Sequence[str]) -> Learned:
    """Learn to choose a mix for each query.

    Regularisation and features (those of the text, or with the vector) are chosen by cross-validation over whole
    groups, by the measure of the chosen mixes. The gate takes one fixed mix for all queries unless its cross-validated
    gain over the best fixed mix of the same folds exceeds the standard error of that gain.

    Args:
        text: Features of the texts, shape (queries, features).
        vectors: Query vectors, shape (queries, dimensions); 0 dimensions: none.
        values: The measure of each mix, shape (queries, mixes).
        groups: The group of each query; dependent queries share one.

    Raises:
        DataError: for fewer than ten queries, or fewer than two groups.

    Examples:
        >>> half = np.tile([[0.0], [1.0]], (20, 1))  # the feature says which of two mixes is right
        >>> learned = learn(half, np.zeros((40, 0)), np.hstack([half, 1 - half]), [str(n) for n in range(40)])
        >>> learned.validation["fixed"], learned.validation["gate"]
        (0.5, 1.0)
    """
    from sklearn.model_selection import GroupKFold

    folds = min(FOLDS, len(set(groups)))
    if len(text) < SMALLEST or folds < 2:
        raise DataError(
            f"there are {len(text)} judged queries in {len(set(groups))} groups, too few to learn from",
            fix=f"Give {SMALLEST} or more, in two groups or more.",
        )
    splits = list(GroupKFold(folds).split(text, groups=list(groups)))
    fixed = np.zeros(len(text))
    for train, test in splits:
        fixed[test] = values[test, int(np.argmax(values[train].mean(axis=0)))]
    sets = [False, *([True] if vectors.shape[1] else [])]
    tried: list[tuple[float, bool, float, Floats]] = []
    for with_vectors in sets:
        features = np.hstack([text, vectors]) if with_vectors else text
        for alpha in ALPHAS:
            found = np.zeros(len(text))
            for train, test in splits:
                mean, scale, coefficients, intercepts = _ridge(features[train], values[train], alpha)
                predicted = (features[test] - mean) / scale @ coefficients.T + intercepts
                found[test] = values[test, np.argmax(predicted, axis=1)]
            tried.append((float(found.mean()), with_vectors, alpha, found))
    best, with_vectors, alpha, found = max(tried, key=lambda each: each[0])  # the first of equal ones
    gain = found - fixed
    error = _standard_error(gain, groups)
    learned = gain.mean() > error
    features = np.hstack([text, vectors]) if with_vectors and learned else text
    mean, scale, coefficients, intercepts = _ridge(features, values, alpha)
    return Learned(
        with_vectors and learned,
        tuple(mean.tolist()),
        tuple(scale.tolist()),
        tuple(tuple(row) for row in coefficients.tolist()) if learned else (),
        tuple(intercepts.tolist()),
        int(np.argmax(values.mean(axis=0))),
        {
            "alpha": alpha if learned else None,
            "fixed": float(fixed.mean()),
            "gate": best,
            "standard_error": error,
            "queries": len(text),
            "folds": folds,
        },
    )


def _standard_error(gain: Floats, groups: Sequence[str]) -> float:
    """The standard error of the mean gain, shape (queries,), where queries of a group depend on each other.

    The ratio estimator of single-stage cluster sampling: Cochran, Sampling Techniques (3rd edition, 1977), chapter 9A.
    """
    names, of_query = np.unique(list(groups), return_inverse=True)
    deviations = np.bincount(of_query, gain - gain.mean())
    return float(np.sqrt(len(names) / (len(names) - 1) * (deviations**2).sum()) / len(gain))


def _ridge(features: Floats, values: Floats, alpha: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean and scale of the features; coefficients, shape (mixes, features); intercepts, shape (mixes,)."""
    from sklearn.linear_model import Ridge

    mean, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 1e-12, deviation, 1.0)  # a feature that does not vary says nothing
    model = Ridge(alpha=alpha).fit((features - mean) / scale, values)
    coefficients = np.asarray(model.coef_, dtype=np.float64).reshape(values.shape[1], features.shape[1])
    return mean, scale, coefficients, np.asarray(model.intercept_, dtype=np.float64).reshape(-1)
