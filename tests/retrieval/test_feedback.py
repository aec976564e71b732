"""Titles of the passages that a conversation finds."""

from __future__ import annotations

from searchlora.records import Document
from searchlora.retrieval.bm25 import BM25Index
from searchlora.retrieval.feedback import found_titles

DOCUMENTS = {
    document.id: document
    for document in (
        Document("1", "a ship meets a creature", "Alien (film)"),
        Document("2", "the creature hides in the ship", "Alien (film)"),
        Document("3", "a ship ship ship", "Titanic\r\n"),
        Document("4", "a creature creature creature"),
    )
}
TALK = {"history": [{"role": "user", "text": "which ship?"}], "query": "what creature?"}


def titles(conversation, **numbers):
    return found_titles(BM25Index(DOCUMENTS.values()), DOCUMENTS, [conversation], **numbers)[0]


def test_the_most_frequent_title_is_first_and_passages_without_a_title_do_not_count():
    assert titles(TALK) == ["Alien", "Titanic"]
    assert titles(TALK, titles=1) == ["Alien"]


def test_all_turns_are_searched_with():
    assert titles({"query": "what creature?"}) == ["Alien"]
    assert titles({"history": TALK["history"], "query": "why?"}, passages=1) == ["Titanic"]


def test_a_conversation_that_finds_nothing_has_no_titles():
    assert titles({"query": "zebra"}) == []
