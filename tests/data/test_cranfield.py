"""The reader of the Cranfield collection: its format quirks, and errors that name the line."""

from __future__ import annotations

import pytest

from searchlora.data.formats.judged_collections import cranfield_collection as collection
from searchlora.data.formats.judged_collections import cranfield_topics as topics
from searchlora.errors import DataError
from searchlora.records import Document, Judgment

ENTRIES = """.I 1
.T
slip  flow
.A
brown, j.
.B
j. ae. 1950.
.W
slip flow
over a plate .
.I 7
.T
.A
.B
.W
"""


def folder(tmp_path, **files):
    for name, text in {"all": ENTRIES, "qry": ENTRIES, "qrel": "1 7 2\n", **files}.items():
        name = {"all": "cran.all.1400", "qry": "cran.qry", "qrel": "cranqrel"}[name]
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_entries_and_judgments_are_parsed(tmp_path):
    found = collection(folder(tmp_path, qrel="1  7 1\n1 1 -1\n2 7 4\n"))
    assert list(found.documents) == [Document("1", "slip flow over a plate .", "slip flow"), Document("7", "")]
    assert list(found.judgments) == [Judgment("1", "7", 4), Judgment("2", "7", 1)]


def test_topics_are_numbered_by_position(tmp_path):
    queries = ".I 004\n.W\nwhat is\nslip flow .\n.I 009\n.W\nwhat is lift .\n"
    assert topics(folder(tmp_path, qry=queries)) == {"1": "what is slip flow .", "2": "what is lift ."}


def test_the_published_collection_is_read(real_data):
    found = collection(real_data / "cranfield")
    documents, judgments = list(found.documents), list(found.judgments)
    assert [document.id for document in documents] == [str(number) for number in range(1, 1401)]
    assert [document.id for document in documents if not document.text] == ["471", "995"]
    queries = topics(real_data / "cranfield")
    assert len(queries) == 225
    assert queries["225"].startswith("what design factors can be used to control lift-drag ratios")
    assert len(judgments) == 1837 - 225
    assert {judgment.topic for judgment in judgments} == queries.keys()
    assert {judgment.grade for judgment in judgments} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"cran\.all\.1400: holds no entry"),
        ("words\n", r"cran\.all\.1400, line 1: is not an entry"),
        (".T\n", "line 1: is not an entry"),
        (".I 1\nwords\n", "line 2: is not an entry"),
        (".I 1\n.W\nx\n.I\n", "line 4: there is no number"),
    ],
)
def test_malformed_entries_are_errors(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        list(collection(folder(tmp_path, all=text)).documents)


@pytest.mark.parametrize("line", ["1 7", "1 7 2 3", "1 7 5", "1 7 0", "1 7 x"])
def test_malformed_judgments_are_errors(tmp_path, line):
    with pytest.raises(DataError, match=rf"cranqrel, line 2: '{line}' is not a judgment"):
        list(collection(folder(tmp_path, qrel=f"1 1 1\n{line}\n")).judgments)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cran\.qry: there is no such file"):
        topics(tmp_path)
