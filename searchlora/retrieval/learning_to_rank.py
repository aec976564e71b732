"""Learning to rank: features of a query and its candidates, and a model that orders the candidates by them.

The model is LightGBM's LambdaMART (Burges, "From RankNet to LambdaRank to LambdaMART", 2010).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchlora.errors import PipelineError
from searchlora.eval.trec import ranked
from searchlora.files import json_object, read_text
from searchlora.records import Document, Hit
from searchlora.retrieval.analysis import Analyzer
from searchlora.retrieval.fusion import Fused, Source

Matrix = NDArray[np.float64]

_WORDS = Analyzer(stopwords=None)


class RankingFeatures:
    """Features of the documents that the parts of a fusion retrieve.

    * Of each part: the score, the score scaled to 0..1 over the part's hits, and 1 / rank; all missing (nan) where it
      does not retrieve the document.
    * Of the texts: the number of words of query, title and text, of the query's words with a digit, the share of the
      query's words in title and in text, and the share of the title's words in the query.
    * Of the document: its fields with numbers; another value is missing.
    """

    def __init__(self, parts: Sequence[str], fields: Sequence[str], document: Callable[[Any], Document]) -> None:
        self._fields, self._document = tuple(fields), document
        self.names = (
            *(f"{_plain(part)}.{kind}" for part in parts for kind in ("score", "scaled", "rank")),
            *("query.words", "query.digits", "title.words", "text.words"),
            *("title.covered", "text.covered", "title.asked"),
            *(f"field.{_plain(field)}" for field in fields),
        )

    def of(self, query: str, rankings: Sequence[Sequence[Hit] | None]) -> tuple[list[str], Matrix]:
        """The documents by id, and their features, shape (documents, features). A part that failed has no ranking."""
        hits = {hit.document: hit for ranking in rankings for hit in ranking or ()}
        of_parts, asked = [_of_part(ranking or ()) for ranking in rankings], set(_WORDS(query))
        rows = [
            [value for part in of_parts for value in part.get(id_, (math.nan,) * 3)]
            + self._of_document(asked, self._document(hits[id_]))
            for id_ in sorted(hits)
        ]
        return sorted(hits), np.array(rows, dtype=np.float64).reshape(len(hits), len(self.names))

    def _of_document(self, asked: set[str], document: Document) -> list[float]:
        (in_title, title), (in_text, text) = _words(document.title), _words(document.text)
        shared = len(asked & in_title)
        digits = sum(any(map(str.isdigit, word)) for word in asked)
        covered = shared / max(1, len(asked)), len(asked & in_text) / max(1, len(asked)), shared / max(1, len(in_title))
        return [len(asked), digits, title, text, *covered, *(_number(document.field(name)) for name in self._fields)]


@lru_cache(1 << 15)
def _words(text: str) -> tuple[frozenset[str], int]:
    """The different words of a text, and the number of all. Popular documents are candidates of many queries."""
    words = _WORDS(text)
    return frozenset(words), len(words)


def _of_part(hits: Sequence[Hit]) -> dict[str, tuple[float, float, float]]:
    scores = [hit.score for hit in hits]
    least, width = min(scores, default=0.0), max(scores, default=0.0) - min(scores, default=0.0)
    return {
        hit.document: (hit.score, (hit.score - least) / width if width > 0 else 1.0, 1 / rank)
        for rank, hit in enumerate(hits, start=1)
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _plain(name: str) -> str:
    """A name without the characters that LightGBM does not store."""
    return re.sub(r"[^\w()-]+", "_", name)


def ranking_card(model: str | Path) -> dict[str, Any] | None:
    """The card beside a ranking model: the hashes of its `queries`, and its `judge_lineage`; None without one."""
    file = Path(model).with_suffix(".json")
    return json_object(read_text(file), str(file)) if file.is_file() else None


class LearnedFusion(Fused):
    """A fusion whose documents a model orders, in a file of LightGBM's text format; weights are not used."""

    def __init__(self, sources: Sequence[Source], model: str, features: RankingFeatures) -> None:
        import lightgbm

        super().__init__(sources)
        self._features, again = features, "Train it: searchlora tune --ranking-model."
        try:
            self._booster = lightgbm.Booster(model_file=model)
        except lightgbm.basic.LightGBMError as error:
            raise PipelineError(f"is not a ranking model ({error})", where=model, fix=again) from None
        self._known = self._booster.feature_name()
        if unknown := [name for name in features.names if name not in self._known]:
            raise PipelineError(f"the model has not learned the feature '{unknown[0]}'", where=model, fix=again)

    def _combined(self, query: str, rankings: Sequence[Sequence[Hit] | None]) -> list[Hit]:
        ids, matrix = self._features.of(query, rankings)
        full = np.full((len(ids), len(self._known)), np.nan)  # features that are not given are missing
        full[:, [self._known.index(name) for name in self._features.names]] = matrix
        values = self._booster.predict(full, num_threads=1) if ids else []
        scores = dict(zip(ids, map(float, values), strict=True))
        fetched = {hit.document: hit.fetched for hits in rankings for hit in hits or () if hit.fetched is not None}
        return [Hit(document, scores[document], fetched.get(document)) for document in ranked(scores)]
