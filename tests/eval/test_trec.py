"""TREC files: round trips, and errors that name the malformed line."""

from __future__ import annotations

import pytest

from searchlora.errors import DataError
from searchlora.eval.text_identity import normalised, words
from searchlora.eval.trec import ranked, read_run, write_run


def test_ties_are_written_in_the_order_of_trec_eval(tmp_path):
    write_run(tmp_path / "r", {"1": {"a": 2.0, "c": 2.0, "b": 2.0, "d": 3.0}}, "adapter@3")
    lines = (tmp_path / "r").read_text().splitlines()
    assert [line.split()[2] for line in lines] == ["d", "c", "b", "a"]
    assert lines[0] == "1 Q0 d 1 3.0 adapter@3"


def test_ties_are_ranked_as_by_trec_eval():
    import pytrec_eval

    scores = {"a": 1.0, "B": 1.0, "é": 1.0, "10": 1.0, "9": 1.0}
    for place, document in enumerate(ranked(scores), start=1):
        measured = pytrec_eval.RelevanceEvaluator({"1": {document: 1}}, {"recip_rank"}).evaluate({"1": scores})
        assert measured["1"]["recip_rank"] == pytest.approx(1 / place)


def test_same_run_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name / "r.gz", {"1": {"a": 1.0}}, "t")
    assert (tmp_path / "a" / "r.gz").read_bytes() == (tmp_path / "b" / "r.gz").read_bytes()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1 Q0 d3 1 0.5", "5 fields where 6 are needed"),
        ("1 Q0 d3 1 high t", "the score 'high' is not a number"),
        ("1 Q0 d\0 1 0.5 t", "holds a NUL character"),
        ("1 Q0 d3 1 nan t", "the score 'nan' is not finite"),
        ("1 Q0 d1 1 0.5 t", "document d1 is ranked twice for topic 1"),
    ],
)
def test_malformed_run_line_is_named(tmp_path, line, says):
    path = tmp_path / "r.txt"
    path.write_text(f"1 Q0 d1 1 0.5 t\n{line}\n")
    with pytest.raises(DataError, match=says) as caught:
        read_run(path)
    assert caught.value.where == f"{path}, line 2"


def test_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "r"
    write_run(path, {"1": {"a": 1.0}}, "t")
    for bad in ({"1": {"b": 1.0}, "2": {"two words": 1.0}}, {"1": {"b": float("nan")}}, {"": {"b": 1.0}}):
        with pytest.raises(DataError):
            write_run(path, bad, "t")
    with pytest.raises(DataError, match="tag"):
        write_run(path, {}, "two words")
    assert path.read_text() == "1 Q0 a 1 1.0 t\n"
    assert list(tmp_path.iterdir()) == [path]


# Words of texts, and the form under which two texts count as the same


@pytest.mark.parametrize(("one", "other"), [("दिन", "दान"), ("กิน", "กัน"), ("হাত", "হাতি")])
def test_words_that_differ_in_a_mark_are_different(one, other):
    assert normalised(one) != normalised(other)
    assert normalised(f" {one}! ") == normalised(f"{one}?")


def test_different_symbols_are_different():
    assert normalised("\N{HEAVY BLACK HEART}\ufe0f") != normalised("\N{BLACK SUN WITH RAYS}\ufe0f")


def test_marks_belong_to_their_letter_and_punctuation_to_no_word():
    assert words("दिन-दान, A_b 9") == ["दिन", "दान", "a_b", "9"]
    assert normalised("Cre\u0300me_BRÛLÉE") == normalised("crème brûlée") == "crème brûlée"
