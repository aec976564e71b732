from __future__ import annotations

import pytest

from searchlora.adapters.references import Reference, check_name, parse_reference
from searchlora.errors import InvalidName


@pytest.mark.parametrize("name", ["a", "shop-rewriter", "v1.2_b", "0x", "a" * 64])
def test_valid_names_are_accepted(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/a",
        "A",
        "-a",
        ".a",
        "a ",
        "a\n",
        "a" * 65,
        "a.",
        "con",
        "nul.txt",
        "com1",
    ],
)
def test_a_name_that_is_not_a_folder_name_is_refused(name):
    with pytest.raises(InvalidName, match="1 to 64"):
        check_name(name)


def test_references_are_parsed():
    assert parse_reference("a") == Reference("a")
    assert parse_reference("a@3") == Reference("a", version=3)
    assert parse_reference("a@production") == Reference("a", alias="production")
    assert [str(parse_reference(text)) for text in ("a", "a@3", "a@p2")] == ["a", "a@3", "a@p2"]


@pytest.mark.parametrize("text", ["a@", "a@0", "a@03", "a@-1", "a@3@4", "a@../b", "a@3x", "../a@1", "a@A", "a@1 "])
def test_a_reference_outside_the_grammar_is_refused(text):
    with pytest.raises(InvalidName):
        parse_reference(text)
