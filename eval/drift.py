"""Tests of drift: whether the searches of now are drawn from the same distribution as those of before.

Queries as a whole are compared by a classifier two-sample test (Lopez-Paz and Oquab, Revisiting Classifier Two-Sample
Tests, ICLR 2017): a logistic regression learns on one half to tell the two samples apart, and its area under the ROC
curve on the other half is 0.5 if they cannot be told apart. Values of searches, such as whether there were hits, are
compared by their means over sessions, since the searches of a session depend on each other.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from searchlora.eval.significance import correct
from searchlora.eval.text_identity import words

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: Session -> its values, one for each search.
BySession: TypeAlias = Mapping[str, Sequence[float]]

#: Queries of a sample that a classifier sees at most, and below which nothing is compared.
MOST_QUERIES, LEAST = 5_000, 30

#: Sessions of both samples up to which p of a mean comes from permutations, and their number.
_PERMUTED, _PERMUTATIONS = 2_000, 4_999

#: Shares of a label below which it is counted as another one.
_OTHER = 0.01


def has_other_letters(query: str) -> bool:
    """Whether a query has a letter that is not of the Latin script.

    Examples:
        >>> [has_other_letters(query) for query in ("sofa für 5 €", "đèn bàn", "диван")]
        [False, False, True]
    """
    return any(char.isalpha() and not unicodedata.name(char, "").startswith("LATIN") for char in query)


@dataclass(frozen=True)
class DriftTest:
    """One comparison of now with before.

    Attributes:
        name: What was compared.
        before, after: Its value then and now; the share of the label that changed most for labels; 0.5 and the area
            under the ROC curve for queries.
        n_before, n_after: Sessions, or different queries, of the samples.
        p: Of the test alone; two-sided, but for queries. Of several tests see `alarms`.
        finding: What changed, in a sentence.
    """

    name: str
    before: float
    after: float
    n_before: int
    n_after: int
    p: float
    finding: str

    @property
    def effect(self) -> float:
        """Size of the change: `after` − `before`."""
        return self.after - self.before


@dataclass(frozen=True)
class Alarm:
    """A test with p corrected over all tests of a check; `raised` if p is small and the effect large enough."""

    test: DriftTest
    p: float
    raised: bool


def alarms(tests: Sequence[DriftTest], min_effects: Mapping[str, float], level: float = 0.05) -> list[Alarm]:
    """Correct the tests of one check by Holm's method, and say which raise an alarm.

    Args:
        min_effects: Name of a test -> least effect of an alarm. With many searches the smallest change is significant.

    Examples:
        >>> more = DriftTest("no hits", 0.02, 0.09, 900, 900, 1e-6, "")
        >>> longer = DriftTest("words", 2.1, 2.2, 900, 900, 0.04, "")
        >>> [(alarm.test.name, alarm.raised) for alarm in alarms([more, longer], {"words": 0.5})]
        [('no hits', True), ('words', False)]
    """
    corrected = correct([test.p for test in tests], "holm") if tests else []
    return [
        Alarm(test, p, p <= level and abs(test.effect) >= min_effects.get(test.name, 0.0))
        for test, p in zip(tests, corrected, strict=True)
    ]


def queries_test(
    before: Sequence[str],
    after: Sequence[str],
    encode: Callable[[Sequence[str]], Any] | None = None,
    seed: int = 0,
) -> DriftTest | None:
    """The classifier two-sample test of queries; each different query counts once in a sample.

    A query of both samples is in the same half twice: learned with one label and tested with the other, it would always
    be taken for the wrong one. The test is one-sided, since only an area above 0.5 tells the samples apart.

    Args:
        before, after: Independent queries: one of each user.
        encode: Texts -> vectors, (texts, dimensions); None: hashed n-grams of 2 to 4 letters.

    Returns:
        None for samples of fewer than `LEAST` queries.
    """
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    samples = [_drawn(sample, rng) for sample in (before, after)]
    if min(map(len, samples)) < LEAST:
        return None
    texts = [*samples[0], *samples[1]]
    vectors = (encode or _ngrams)(texts)
    labels = np.repeat([0, 1], [len(sample) for sample in samples])
    different, text = np.unique(texts, return_inverse=True)
    learns = rng.permutation(len(different)) < len(different) // 2
    learned, tested = np.flatnonzero(learns[text]), np.flatnonzero(~learns[text])
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000).fit(vectors[learned], labels[learned])
    area, p = _area(model.decision_function(vectors[tested]), labels[tested])
    finding = f"a classifier tells the queries apart with an area under the ROC curve of {area:.3f} (0.5: not at all)"
    return DriftTest("queries", 0.5, area, len(samples[0]), len(samples[1]), p, finding)


def words_test(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> DriftTest | None:
    """The share of queries with a word that earlier queries do not have.

    The known words are those of one half of the earlier users; the other half has the share of before. The first half
    is left out now, too: who comes back uses words of their own again.

    Args:
        before, after: User -> queries.
    """
    users = sorted(before)
    first = set(users[::2])
    known = {word for user in first for query in before[user] for word in words(query)}

    def new(of: Mapping[str, Sequence[str]], used: Sequence[str]) -> BySession:
        return {each: [float(any(word not in known for word in words(query))) for query in of[each]] for each in used}

    others = sorted(after.keys() - first)
    return values_test("new words", new(before, users[1::2]), new(after, others), "queries with a new word")


def values_test(name: str, before: BySession, after: BySession, says: str) -> DriftTest | None:
    """The mean over sessions of a value of searches, by a permutation test, or Welch's for many sessions.

    Returns:
        None for samples of fewer than `LEAST` sessions.

    Examples:
        >>> before, after = ({f"s{n}": [share] for n in range(100)} for share in (0.0, 1.0))
        >>> values_test("no hits", before, after, "searches without hits").finding
        'searches without hits: 0.000, now 1.000'
    """
    from scipy import stats

    one, other = (np.array([float(np.mean(values)) for values in of.values()]) for of in (before, after))
    if min(len(one), len(other)) < LEAST:
        return None
    if len(one) + len(other) <= _PERMUTED:
        result = stats.permutation_test(
            (one, other), _mean_difference, n_resamples=_PERMUTATIONS, vectorized=True, rng=np.random.default_rng(0)
        )
        p = float(result.pvalue)
    else:
        p = float(stats.ttest_ind(one, other, equal_var=False).pvalue)
    p = 1.0 if math.isnan(p) else p  # all values are the same
    finding = f"{says}: {one.mean():.3f}, now {other.mean():.3f}"
    return DriftTest(name, float(one.mean()), float(other.mean()), len(one), len(other), p, finding)


def labels_test(name: str, before: Sequence[str], after: Sequence[str], says: str) -> DriftTest | None:
    """Shares of labels, by the chi-squared statistic; labels of fewer than 1% of both samples together count as one.

    Which labels are rare is a matter of both samples: one that is frequent in a small sample by chance would count as
    frequent. p comes from permutations of the labels, since samples of very different sizes have cells that are almost
    empty.

    Args:
        before, after: The label of the first search of each session.
    """
    if min(len(before), len(after)) < LEAST:
        return None
    counts = [Counter(before), Counter(after)]
    both = counts[0] + counts[1]
    frequent = sorted(label for label, count in both.items() if count >= _OTHER * both.total())
    table = np.array([[count[label] for label in frequent] for count in counts], float)
    rest = np.array([[len(before)], [len(after)]]) - table.sum(axis=1, keepdims=True)
    table = np.hstack([table, rest]) if rest.any() else table
    p = _independence(table) if table.shape[1] > 1 else 1.0
    shares = table / table.sum(axis=1, keepdims=True)
    most = int(np.argmax(np.abs(shares[1] - shares[0])))
    label = frequent[most] if most < len(frequent) else "others"
    finding = f"{says}: '{label}' {shares[0, most]:.3f}, now {shares[1, most]:.3f}"
    return DriftTest(name, float(shares[0, most]), float(shares[1, most]), len(before), len(after), p, finding)


def _independence(table: np.ndarray) -> float:
    """p of a table of counts, (2, labels), whose samples have the same shares."""
    sizes, totals = table.sum(axis=1), table.sum(axis=0).astype(int)
    drawn = np.random.default_rng(0).multivariate_hypergeometric(totals, int(sizes[1]), size=_PERMUTATIONS)
    expected = totals * sizes[1] / sizes.sum()
    # With fixed sums the statistic rises with the distance of the second row from what is expected.
    distances = ((np.vstack([table[1:], drawn]) - expected) ** 2 / expected).sum(axis=1)
    return float((distances >= distances[0] * (1 - 1e-9)).mean())


def _mean_difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    difference: np.ndarray = one.mean(axis=axis) - other.mean(axis=axis)
    return difference


def _drawn(queries: Sequence[str], rng: np.random.Generator) -> list[str]:
    different = sorted({" ".join(query.split()).casefold() for query in queries})
    if len(different) > MOST_QUERIES:
        different = [different[place] for place in sorted(rng.choice(len(different), MOST_QUERIES, replace=False))]
    return different


def _ngrams(texts: Sequence[str]) -> csr_matrix:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=2**14).transform(texts)


def _area(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve, and p of the test of Mann and Whitney that it is at most 0.5."""
    from scipy import stats

    positive, negative = scores[labels == 1], scores[labels == 0]
    test = stats.mannwhitneyu(positive, negative, alternative="greater")
    return float(test.statistic / (len(positive) * len(negative))), float(test.pvalue)
