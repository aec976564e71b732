"""A table of strings finds what a dictionary would, from memory-mapped files."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchlora.files.string_table import StringTable, write_string_table

TEXT = st.text(st.characters(), max_size=5)  # lone surrogates and characters outside the first plane among them


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strings=st.lists(TEXT, unique=True, max_size=30), others=st.lists(TEXT, max_size=10))
def test_it_finds_what_a_dictionary_finds(strings, others, tmp_path):
    write_string_table(strings, tmp_path / "t")
    table = StringTable(tmp_path / "t")
    numbers = {text: number for number, text in enumerate(strings)}
    assert list(table) == strings and len(table) == len(strings)
    for text in (*strings, *others):
        assert table.get(text) == numbers.get(text)
        assert (text in table) == (text in numbers)
    assert [strings[number] for number in table.by_value] == sorted(strings)


def test_it_is_a_sequence(tmp_path):
    write_string_table(["c", "a", "b"], tmp_path / "t")
    table = StringTable(tmp_path / "t")
    assert (table[-1], table[1:], table.index("b")) == ("b", ["a", "b"], 2)
    assert [table.index("b", start) for start in (1, -1)] == [2, 2]
    for value, *places in (("b", 0, 2), ("c", 1), ("d",)):
        with pytest.raises(ValueError, match="is not in the table"):
            table.index(value, *places)
    with pytest.raises(IndexError):
        table[3]
    assert 5 not in table


def test_nothing_is_read_when_it_is_opened(tmp_path):
    write_string_table(["a"], tmp_path / "t")
    array = StringTable(tmp_path / "t").by_value
    while isinstance(array, np.ndarray):
        array = array.base
    assert isinstance(array, mmap.mmap)


def test_a_pickle_is_refused(tmp_path):
    write_string_table(["a"], tmp_path / "t")
    np.save(tmp_path / "t.text.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        StringTable(tmp_path / "t")
