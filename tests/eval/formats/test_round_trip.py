"""Every format round-trips, with its format detected from the file."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import (
    FORMATS,
    format_of_file,
    read_qrels,
    read_run,
    read_topics,
    write_qrels,
    write_run,
    write_topics,
)
from searchlora.eval.trec import ranked

WORD = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=6)
#: Ids that no TREC file can hold, but tables and JSON can.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
LINE = TEXT.filter(lambda text: text.strip() and not set(text) & set("\t\n\r"))
GRADE = st.integers(-3, 10)
SCORE = st.floats(allow_nan=False, allow_infinity=False)
NUMBER = st.integers(-(2**53), 2**53) | SCORE

SEVERAL = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def names(kind):
    """Formats that are written, too: runs of Quepid are snapshots, which are only read."""
    return [name for name, form in FORMATS.items() if getattr(form, kind) and (kind, name) != ("run", "quepid")]


def ids(name):
    if name == "trec":
        return WORD
    return TEXT.map(str.strip).filter(bool) if name == "quepid" else TEXT


def rows(name, values):
    return st.dictionaries(ids(name), st.dictionaries(ids(name), values, min_size=1, max_size=4), max_size=4)


def packed(name):
    return st.just("") if name == "parquet" else st.sampled_from(["", ".gz"])


@pytest.mark.parametrize("name", names("qrels"))
@SEVERAL
@given(data=st.data())
def test_qrels_round_trip(name, data, tmp_path):
    qrels = data.draw(rows(name, GRADE).filter(bool))
    path = tmp_path / f"deep/file{data.draw(packed(name))}"
    write_qrels(path, qrels, name)
    assert read_qrels(path, name) == qrels
    assert format_of_file(path, "qrels").name == name


@pytest.mark.parametrize("name", names("run"))
@SEVERAL
@given(data=st.data())
def test_runs_round_trip_with_their_ranking(name, data, tmp_path):
    run = data.draw(rows(name, SCORE))
    path = tmp_path / f"file{data.draw(packed(name))}"
    write_run(path, run, "tag", name)
    back = read_run(path, name)
    assert back == run
    assert {topic: list(scores) for topic, scores in back.items()} == {t: ranked(s) for t, s in run.items()}
    assert not run or format_of_file(path, "run").name == name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names("topics") if name not in ("trec", "csv")])
@SEVERAL
@given(data=st.data())
def test_topics_round_trip_with_their_fields(name, data, tmp_path):
    field = st.sampled_from(["department", "länge", "price"])
    kinds = {"department": TEXT | st.just(""), "länge": st.integers(-(2**53), 2**53), "price": SCORE}
    fields = st.lists(field, unique=True).flatmap(lambda keys: st.fixed_dictionaries({k: kinds[k] for k in keys}))
    topics = data.draw(
        st.dictionaries(TEXT, st.tuples(TEXT.filter(str.strip), fields), min_size=1, max_size=4).map(
            lambda drawn: {topic: {"query": query, **rest} for topic, (query, rest) in drawn.items()}
        )
    )
    path = tmp_path / f"file{data.draw(packed(name))}"
    write_topics(path, topics, name)
    back = read_topics(path, name)
    assert back == topics
    assert all(type(back[t][f]) is type(topics[t][f]) for t in topics for f in topics[t])
    assert format_of_file(path, "topics").name == name


@SEVERAL
@given(topics=st.dictionaries(LINE.filter(lambda text: text[0] != "<"), LINE, min_size=1, max_size=4))
def test_tab_separated_topics_round_trip(topics, tmp_path):
    path = tmp_path / "topics.gz"
    written = {topic: {"query": query} for topic, query in topics.items()}
    write_topics(path, written, "trec")
    assert read_topics(path, "trec") == written


@SEVERAL
@given(data=st.data())
def test_csv_topics_round_trip_or_are_refused(data, tmp_path):
    value = st.one_of(TEXT, NUMBER, st.sampled_from(["7", "007", "1e3", "nan", "", "-1", "1_0", "٣"]))
    rows = st.dictionaries(TEXT, st.tuples(TEXT.filter(str.strip), value), min_size=1, max_size=3)
    topics = {topic: {"query": query, "field": found} for topic, (query, found) in data.draw(rows).items()}
    path = tmp_path / "topics.csv"
    path.unlink(missing_ok=True)
    try:
        write_topics(path, topics)
    except DataError as error:
        assert "would not be read back" in str(error)
        assert not path.exists()
    else:
        back = read_topics(path)
        assert back == topics
        assert all(type(back[t]["field"]) is type(topics[t]["field"]) for t in topics)


def test_csv_preserves_numbers_codes_and_missing_values(tmp_path):
    topics = {
        "1": {"query": 'shoes, "red"', "searches": 120, "ctr": 0.25, "code": "007"},
        "2": {"query": "socks\nlong", "searches": -3, "code": "7"},
    }
    write_topics(tmp_path / "t.csv", topics)
    assert read_topics(tmp_path / "t.csv") == topics


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path):
    bad = {"1": {"ok": 1}, "2": {"": 1}}
    surrogate = {"1": {"\ud800": 1}}
    for name in names("qrels"):
        path = tmp_path / name
        path.write_text("old")
        for qrels in (bad, surrogate):
            with pytest.raises(DataError):
                write_qrels(path, qrels, name)
        assert path.read_text() == "old"
    for name in names("run"):
        with pytest.raises(DataError, match="not finite"):
            write_run(tmp_path / name, {"1": {"a": 1.0}, "2": {"b": float("inf")}}, "t", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names("qrels"))


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    import numpy as np

    for name in names("qrels"):
        write_qrels(tmp_path / "q", {"1": {"a": np.int64(2)}}, name)
        assert read_qrels(tmp_path / "q") == {"1": {"a": 2}}
    for name in names("run"):
        write_run(tmp_path / "r", {"1": {"a": np.float32(0.5)}}, "t", name)
        assert read_run(tmp_path / "r") == {"1": {"a": 0.5}}


def test_content_that_a_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be used in a TREC file"):
        write_qrels(tmp_path / "q", {"red dress": {"a": 1}}, "trec")
    with pytest.raises(DataError, match="cannot hold the field 'price'"):
        write_topics(tmp_path / "t", {"1": {"query": "a", "price": 2}}, "trec")
    with pytest.raises(DataError, match="tab or a line break"):
        write_topics(tmp_path / "t", {"1": {"query": "a\tb"}}, "trec")
    with pytest.raises(DataError, match="begins or ends with white space"):
        write_qrels(tmp_path / "q", {" red": {"a": 1}}, "quepid")
    with pytest.raises(DataError, match="not a column of one type"):
        write_topics(tmp_path / "t", {"1": {"query": "a", "x": 2}, "2": {"query": "a", "x": "b"}}, "parquet")
    with pytest.raises(UsageError, match="compressed internally"):
        write_run(tmp_path / "r.parquet.gz", {"1": {"a": 1.0}}, "t")
    with pytest.raises(DataError, match="no field 'id'"):
        write_topics(tmp_path / "t", {"1": {"query": "a", "id": "2"}}, "jsonl")
    with pytest.raises(DataError, match="query is missing"):
        write_topics(tmp_path / "t", {"1": {"title": "a"}}, "jsonl")
    assert list(tmp_path.iterdir()) == []
