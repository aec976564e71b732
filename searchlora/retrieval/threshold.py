"""The k best documents by a weighted sum of scores, from engines that return the best of each single score.

An engine that ranks by one field at a time, and breaks ties as it likes, is asked for more hits of each field until no
document that was not seen can be among the k best, ties included: the threshold algorithm of Fagin, Lotem and Naor
("Optimal aggregation algorithms for middleware", PODS 2001). With one field it only settles ties at rank k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from searchlora.eval.trec import ranked
from searchlora.records import Hit

#: Returns the n best hits by one field, best first.
BestOf: TypeAlias = Callable[[str, int], Sequence[Hit]]

#: Returns the scores by one field of those of the documents that it matches.
ScoresOf: TypeAlias = Callable[[str, Sequence[str]], Mapping[str, float]]

#: Hits beyond k that are requested first, so that ties at rank k rarely need a second request.
_MARGIN = 32


def best_by_sum(
    weights: Mapping[str, float], best: BestOf, scores: ScoresOf, k: int, most: int, error: float = 0.0
) -> list[Hit]:
    """The k best documents by the sum over fields of weight × score; a field that does not match counts 0.

    Args:
        weights: Field -> weight, above 0.
        most: Maximum number of hits that the engine returns; beyond it the result may miss documents.
        error: Bound of the rounding error of the order in which the engine returns hits.

    Returns:
        Hits in the order of `ranked`, each as the engine returned it, with the sum as its score.
    """
    count = min(k + _MARGIN, most)
    while True:
        lists = {field: best(field, count) for field in weights}
        partial = {field: {hit.document: hit.score for hit in hits} for field, hits in lists.items()}
        open_fields = [field for field, hits in lists.items() if len(hits) >= count]
        seen = {hit.document: hit for hits in lists.values() for hit in hits}
        for field in open_fields if len(weights) > 1 else ():
            unknown = sorted(seen.keys() - partial[field].keys())
            if unknown:
                partial[field] |= scores(field, unknown)
        sums = {
            document: float(sum(weights[field] * partial[field].get(document, 0.0) for field in weights))
            for document in seen
        }
        order = ranked(sums)[:k]
        # A document that was not seen scores at most the last of each list that goes on.
        bound = sum(weights[field] * lists[field][-1].score for field in open_fields) + error
        settled = len(order) == k and np.float32(sums[order[-1]]) > np.float32(bound)
        if not open_fields or settled or count >= most:
            return [Hit(document, sums[document], seen[document].fetched) for document in order]
        count = min(count * 4, most)
