"""Pooling: the union of the top documents of the runs, in an order that does not reveal them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.pooling import pool, read_pairs
from searchlora.eval.trec import ranked

DOCUMENTS = st.dictionaries(st.sampled_from([f"d{n}" for n in range(12)]), st.integers(0, 3).map(float))
RUNS = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.dictionaries(st.sampled_from(["t1", "t2"]), DOCUMENTS), min_size=1
)


@pytest.mark.slow
@given(RUNS, st.integers(1, 15))
def test_the_pool_is_the_union_of_the_top_documents_with_counts(runs, depth):
    pooled = pool(runs, depth)
    for topic in ("t1", "t2"):
        tops = [ranked(run.get(topic, {}))[:depth] for run in runs.values()]
        counts = {document: sum(document in top for top in tops) for document in set().union(*tops)}
        assert pooled.get(topic, {}) == counts


@pytest.mark.slow
@given(RUNS, st.integers(1, 15))
def test_the_order_does_not_depend_on_the_runs(runs, depth):
    order = {topic: list(found) for topic, found in pool(runs, depth).items()}
    backwards = {topic: list(found) for topic, found in pool(dict(reversed(runs.items())), depth).items()}
    assert order == backwards
    # Another ranking of the same documents gives the same order.
    turned = {name: {t: {d: -s for d, s in scores.items()} for t, scores in run.items()} for name, run in runs.items()}
    whole = {topic: list(found) for topic, found in pool(runs, 99).items()}
    assert whole == {topic: list(found) for topic, found in pool(turned, 99).items()}


def test_the_order_does_not_follow_the_ranks():
    run = {f"t{topic}": {f"d{n:02}": 50.0 - n for n in range(50)} for topic in range(40)}
    places = [list(found).index("d00") for found in pool({"a": run}, 50).values()]
    assert 15 < sum(places) / len(places) < 35  # the first document of a ranking is at a random position; expected 24.5
    assert list(pool({"a": run}, 50, seed=1)["t0"]) != list(pool({"a": run}, 50)["t0"])


def test_zero_depth_and_no_runs_are_refused():
    with pytest.raises(UsageError, match="depth of the pool is 0"):
        pool({"a": {}}, 0)
    with pytest.raises(UsageError, match="no run"):
        pool({}, 10)


def written(folder, text):
    path = folder / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "1 d2\n1 d1\n\n2 d1\n1 d2\n",
        "1 0 d2 3\n1 0 d1 0\n2 0 d1 -1\n",
        '{"topic": "1", "document": "d2", "grade": 3}\n{"topic": "1", "document": "d1"}\n'
        '{"topic": "2", "document": "d1"}\n',
        '1 d2\n1 0 d1 3\n{"topic": "2", "document": "d1"}\n',
    ],
)
def test_pairs_are_read_from_text_qrels_or_json(tmp_path, text):
    assert read_pairs(written(tmp_path, text)) == {"1": ["d2", "d1"], "2": ["d1"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1", "has 1 fields"),
        ("1 Q0 d1 1 2.5 tag", "has 6 fields.*a run is pooled"),
        ("{broken", "is not JSON"),
        ('{"topic": "1"}', "document is missing"),
        ('{"topic": 1, "document": "d"}', "topic is missing or is not one word of text"),
        ('{"topic": "1", "topic": "2", "document": "d"}', "'topic' occurs twice"),
    ],
)
def test_a_line_that_is_not_a_pair_is_an_error_that_names_it(tmp_path, line, message):
    path = written(tmp_path, f"1 d1\n{line}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(path)
    assert caught.value.where == f"{path}, line 2"


def test_a_file_without_pairs_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no pair"):
        read_pairs(written(tmp_path, "\n"))
