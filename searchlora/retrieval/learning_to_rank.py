"""Learning to rank: features of a query and its candidates, and a model that orders the candidates by them.

The model is LambdaMART (Burges, "From RankNet to LambdaRank to LambdaMART", 2010) of LightGBM, in LightGBM's own text
format. `experiments.tune_ranking` trains it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import DataError, PipelineError
from searchlora.eval.trec import ranked
from searchlora.files import file_sha256, json_object, read_text
from searchlora.records import Document, Hit
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.fusion import Fused, Source

Matrix = NDArray[np.float64]

_WORDS = Analyzer(stopwords=None)

#: Texts whose words are kept in memory.
_TEXTS = 1 << 15


class RankingFeatures:
    """Features of the documents that the parts of a fusion retrieve.

    * Of each part: the score, the score scaled to 0..1 over the part's hits, and 1 / rank; all missing (nan) where it
      does not retrieve the document.
    * Of the texts: the number of words of query, title and text, of the query's words with a digit, the share of the
      query's words in title and in text, and the share of the title's words in the query.
    * Of the document: its fields with numbers.

    Args:
        parts: Names of the parts.
        fields: Fields of documents with numbers; another value is missing.
        document: The document of a hit.

    Raises:
        PipelineError: for two features of one name.

    Examples:
        >>> tent = Document("a", "A red tent.", "Tent", {"votes": "12"})
        >>> features = RankingFeatures(("bm25",), ("votes",), lambda hit: tent)
        >>> features.names[:3], features.names[-1]
        (('bm25.score', 'bm25.scaled', 'bm25.rank'), 'field.votes')
        >>> ids, matrix = features.of("tent", [[Hit("a", 3.0)]])
        >>> ids, matrix[0, :3].tolist()
        (['a'], [3.0, 1.0, 1.0])
    """

    def __init__(self, parts: Sequence[str], fields: Sequence[str], document: Callable[[Any], Document]) -> None:
        self._fields, self._document = tuple(dict.fromkeys(fields)), document
        self.names = (
            *(f"{_plain(part)}.{kind}" for part in parts for kind in ("score", "scaled", "rank")),
            *("query.words", "query.digits", "title.words", "text.words"),
            *("title.covered", "text.covered", "title.asked"),
            *(f"field.{_plain(field)}" for field in self._fields),
        )
        if repeated := [name for name in self.names if self.names.count(name) > 1]:
            raise PipelineError(f"two features are called '{repeated[0]}'", fix="Rename one of the fields or stages.")

    def of(self, query: str, rankings: Sequence[Sequence[Hit] | None]) -> tuple[list[str], Matrix]:
        """The documents in the order of their ids, and their features, shape (documents, features).

        Args:
            rankings: The hits of each part, best first; None for a part that failed.
        """
        hits = {hit.document: hit for ranking in rankings for hit in ranking or ()}
        ids = sorted(hits)
        of_parts = [_of_part(ranking or ()) for ranking in rankings]
        missing = (math.nan,) * 3
        asked = set(_WORDS(query))
        rows = [
            [value for part in of_parts for value in part.get(id_, missing)]
            + self._of_document(asked, self._document(hits[id_]))
            for id_ in ids
        ]
        return ids, np.array(rows, dtype=np.float64).reshape(len(ids), len(self.names))

    def _of_document(self, asked: set[str], document: Document) -> list[float]:
        (in_title, title), (in_text, text) = _words(document.title), _words(document.text)
        shared = len(asked & in_title)
        return [
            len(asked),
            sum(any(map(str.isdigit, word)) for word in asked),
            title,
            text,
            shared / max(1, len(asked)),
            len(asked & in_text) / max(1, len(asked)),
            shared / max(1, len(in_title)),
            *(_number(document.field(field)) for field in self._fields),
        ]


@lru_cache(_TEXTS)
def _words(text: str) -> tuple[frozenset[str], int]:
    """The different words of a text, and the number of all. Popular documents are candidates of many queries."""
    words = _WORDS(text)
    return frozenset(words), len(words)


def _of_part(hits: Sequence[Hit]) -> dict[str, tuple[float, float, float]]:
    if not hits:
        return {}
    scores = [hit.score for hit in hits]
    least, width = min(scores), max(scores) - min(scores)
    return {
        hit.document: (hit.score, (hit.score - least) / width if width > 0 else 1.0, 1 / rank)
        for rank, hit in enumerate(hits, start=1)
    }


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _plain(name: str) -> str:
    """A name without the characters that LightGBM does not store."""
    return re.sub(r"[^\w()-]+", "_", name)


@dataclass(frozen=True)
class RankingCard:
    """What a ranking model learned from, as its card holds it: the file beside it with the ending `.json`.

    Attributes:
        queries: `query_hash` of each query that it learned from.
        judge_lineage: References of the judge that graded the documents, and of its ancestors.
    """

    queries: tuple[str, ...]
    judge_lineage: tuple[str, ...] = ()


def read_ranking_card(model: str | Path) -> RankingCard | None:
    """The card of a ranking model; None without one. Raises `DataError` for a card that is damaged."""
    file = Path(model).with_suffix(".json")
    if not file.is_file():
        return None
    content = json_object(read_text(file), str(file))
    try:
        return RankingCard(tuple(map(str, content["queries"])), tuple(map(str, content["judge_lineage"])))
    except (KeyError, TypeError) as error:
        raise DataError(f"is not the card of a ranking model ({error})", where=str(file)) from None


class RankingModel:
    """A trained model in a file.

    Args:
        path: LightGBM's text format.

    Raises:
        PipelineError: if the file cannot be read as a model.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise PipelineError(
                "there is no such ranking model", where=str(path), fix="Train it: searchlora tune --ranking-model."
            )
        self.sha256 = file_sha256(self.path)

    @cached_property
    def _booster(self) -> Any:
        import lightgbm

        try:
            return lightgbm.Booster(model_file=str(self.path))
        except lightgbm.basic.LightGBMError as error:
            raise PipelineError(f"is not a ranking model ({error})", where=str(self.path)) from None

    def check(self, names: Sequence[str]) -> None:
        """Raise `PipelineError` for a feature that the model has not learned; one that is not given is missing."""
        known = self._booster.feature_name()
        if unknown := [name for name in names if name not in known]:
            raise PipelineError(
                f"the model has not learned the feature '{unknown[0]}'",
                where=str(self.path),
                fix="Train it again for this pipeline: searchlora tune --ranking-model.",
            )

    def scores(self, names: Sequence[str], matrix: Matrix) -> list[float]:
        """A score per row; higher is better.

        Args:
            names: The features in the columns of `matrix`.
        """
        if not len(matrix):
            return []
        columns = {name: column for column, name in enumerate(names)}
        known = self._booster.feature_name()
        full = np.full((len(matrix), len(known)), np.nan)
        for place, name in enumerate(known):
            if name in columns:
                full[:, place] = matrix[:, columns[name]]
        return [float(value) for value in self._booster.predict(full, num_threads=1)]


class LearnedFusion(Fused):
    """A fusion whose documents a model orders.

    Args:
        sources: As of `Fused`; their weights are not used.
        model: Its scores become those of the hits.
        features: Of the documents, for these sources.

    Raises:
        PipelineError: if the model has not learned these features.
    """

    def __init__(self, sources: Sequence[Source], model: RankingModel, features: RankingFeatures) -> None:
        super().__init__(sources)
        model.check(features.names)
        self._model, self._features = model, features

    def _combined(self, query: str, rankings: Sequence[Sequence[Hit] | None]) -> list[Hit]:
        ids, matrix = self._features.of(query, rankings)
        scores: Mapping[str, float] = dict(zip(ids, self._model.scores(self._features.names, matrix), strict=True))
        fetched = {hit.document: hit.fetched for hits in rankings for hit in hits or () if hit.fetched is not None}
        return [Hit(document, scores[document], fetched.get(document)) for document in ranked(scores)]
