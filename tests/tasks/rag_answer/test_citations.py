"""Sentences, citations, lexical support and passage windows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.outputs import CitedAnswer
from searchlora.prompts import messages
from searchlora.task import load_generation_task
from searchlora.tasks.rag_answer import task
from searchlora.tasks.rag_answer.citations import (
    Sentence,
    cited,
    evidence,
    leading_supported,
    reference_sentences,
    sentences,
    support,
    supported,
    supporting_span,
    with_marks,
    without_marks,
)
from searchlora.tasks.rag_answer.settings import excerpt, passage_texts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is dry [1]. It is 2.5 kg [2][3].", [("It is dry.", (1,)), ("It is 2.5 kg.", (2, 3))]),
        ("It is dry. [1] It is warm. [2] Yes", [("It is dry.", (1,)), ("It is warm.", (2,)), ("Yes", ())]),
        ("Dr. Ada came. [2]", [("Dr. Ada came.", (2,))]),
        ("A wrapped\nline.\n- An item\n2. Another", [("A wrapped\nline.", ()), ("- An item", ()), ("2. Another", ())]),
        ("Do this: 1. Click. [1] 2. Save.", [("Do this: 1. Click.", (1,)), ("2. Save.", ())]),
        ("twice [1] and again [1].", [("twice and again.", (1,))]),
        (" [1] ", []),
    ],
)  # fmt: skip
def test_sentences_and_their_citations(text: str, found: list[tuple[str, tuple[int, ...]]]) -> None:
    assert [(each.text.strip(), each.citations) for each in sentences(text)] == found


_PLAIN = st.text(st.sampled_from("abc de"), min_size=1).map(str.strip).filter(bool).map(lambda text: f"A{text}.")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(_PLAIN, st.lists(st.integers(1, 9), unique=True, max_size=3)), min_size=1, max_size=4))
def test_written_citations_are_parsed_again(pairs: list[tuple[str, list[int]]]) -> None:
    text = " ".join(with_marks(sentence, numbers) for sentence, numbers in pairs)
    assert sentences(text) == [Sentence(sentence, tuple(numbers)) for sentence, numbers in pairs]
    assert without_marks(text) == " ".join(sentence for sentence, _ in pairs)
    parsed = task.output({"passages": [{}] * 9}).parse(text)
    assert isinstance(parsed, CitedAnswer)
    assert set(parsed.citations) == {number for _, numbers in pairs for number in numbers}


PASSAGES = {
    2: "Tents: The dome tent weighs 2.5 kilograms. It was made in Wales by hand.",
    4: "The dome tent stands without pegs on rock, and weighs 2.5 kilograms when packed.",
}


def test_a_sentence_cites_the_gold_passages_that_support_it_most() -> None:
    answer = ["It was made by hand in Wales.", "It weighs 2.5 kilograms.", "It weighs 25 kilograms.", "It is red."]
    expected = "It was made by hand in Wales [2]. It weighs 2.5 kilograms [2][4]. It weighs 25 kilograms. It is red."
    assert cited(answer, PASSAGES) == expected


def test_an_answer_uses_only_visible_passage_text() -> None:
    reference = reference_sentences("Good question! It weighs 2.5 kilograms [sic]. It was made in Wales.\nIt is red.")
    assert reference[1] == "It weighs 2.5 kilograms (sic)."
    assert leading_supported(reference, list(PASSAGES.values()), 3) == [reference[1], reference[2]]
    assert leading_supported(reference, list(PASSAGES.values()), 1) == [reference[1]]
    assert leading_supported(reference, ["Boots are waxed."], 3) == ["Good question!"]


def test_support_is_the_share_of_content_words_and_needs_every_number() -> None:
    assert support("The tents weigh little", "a tent that weighs much") == pytest.approx(2 / 3)
    assert support("It weighs 3 kilograms", "weighs 2 kilograms") == 0.0
    assert support("It is.", "whatever") is None
    assert supported("It is.", ["whatever"]) is None
    assert supported("tents weigh little", ["boots", "a tent that weighs much"]) is True
    assert supported("tents weigh little", []) is False


@pytest.mark.parametrize("item", ["2. Click Save.", "- 2) Click Save.", "(2) Click Save.", "12. Click Save."])
def test_the_number_of_a_list_item_needs_no_support(item: str) -> None:
    passage = "Then click Save. Wait."
    assert support(item, passage) == 1.0 and supported(item, [passage]) is True
    assert supporting_span(item, passage) == (0, 16)
    assert support("2. Wait 3 hours.", passage) == 0.0  # the number within it does


def test_the_passage_window_contains_most_question_words() -> None:
    text = "One two three four. Five six seven eight. Nine ten eleven twelve."
    assert excerpt(text, frozenset({"seven"}), 4) == "… Five six seven eight. …"
    assert excerpt(text, frozenset(), 4) == "One two three four. …"
    assert excerpt(text, frozenset({"seven"}), 12) == text


def test_square_brackets_in_passages_are_replaced() -> None:
    record = {"question": "who?", "passages": [{"id": "p", "title": "A [b]", "text": "as said [12] before"}]}
    assert passage_texts(record) == ["A (b): as said (12) before"]


def test_passages_are_truncated_to_the_word_limit() -> None:
    record = {"question": "who?", "passages": [{"id": "p", "text": " ".join(["word"] * 200)}]}
    assert passage_texts(record)[0].split().count("word") == 80
    assert passage_texts(record, 30)[0].split().count("word") == 30
    unbroken = {"question": "who?", "passages": [{"id": "p", "text": "x" * 5000}]}
    assert len(passage_texts(unbroken)[0]) < 600 < len(passage_texts(unbroken, 120)[0]) < 900


def test_the_order_of_a_prompt_is_instructions_passages_conversation_question() -> None:
    record = task.examples[2]
    system, user = messages(task.bound({"abstention": "No.", "style": "Be brief.", "citations": True}), record)
    assert "Be brief." in system["content"]
    assert system["content"].endswith("say only: No.")
    order = [user["content"].index(text) for text in ("[1] ", "[2] ", "What does delivery cost?", "and to Ireland?")]
    assert order == sorted(order)


def test_citations_can_be_disabled() -> None:
    quiet = task.bound({"abstention": "No.", "style": "Be brief.", "citations": False})
    record = task.examples[0]
    assert "[1]" not in messages(quiet, record)[0]["content"]
    assert quiet.target(record) == without_marks(record["answer"])
    assert quiet.output(record).parse(quiet.target(record)) == CitedAnswer(quiet.target(record), (), abstained=False)
    assert quiet.fallback(record).text == "No."


def test_evidence_says_what_supports_a_sentence_and_marks_parts_of_the_text():
    passages = [
        {"title": "Tent", "text": "\U0001f3d5 It is green. It weighs 2 kg. Rain is no problem for it."},
        {"title": "", "text": "Lamps are blue."},
    ]
    text = "It weighs 2 kg [1][2]. Rain is no problem. It costs 9 euros [1]. The green lamp weighs 2 kg [2]."
    found = evidence(text, passages)
    assert [each.supported for each in found] == [True, True, False, False]
    assert [each.citations for each in found] == [(1, 2), (), (1,), (2,)]
    first = found[0].spans
    assert [(span.passage, passages[0]["text"][span.start : span.end]) for span in first] == [(1, "It weighs 2 kg.")]
    assert all(not each.spans for each in found[1:])
    assert [each.support for each in found] == [(True, False), (), (False,), (False,)]


def test_a_title_supports_a_sentence_without_a_part_of_the_text_and_an_empty_sentence_needs_no_support():
    passages = [{"title": "Red tent", "text": "It is new."}]
    by_title, empty, missing = evidence("A red tent [1]. It is [1]. A red tent [2].", passages)
    assert (by_title.supported, by_title.spans, by_title.support) == (True, (), (True,))
    assert (empty.supported, empty.support) == (None, (None,))
    assert missing.support == (None,)


def test_a_supporting_part_has_at_most_three_sentences_and_is_the_shortest():
    passage = "Red tents. Green couches. Blue lamps. Grey chairs. Red tents again."
    start, end = supporting_span("Red tents, green couches, blue lamps and grey chairs.", passage)
    assert passage[start:end] == "Red tents. Green couches. Blue lamps."
    assert supporting_span("Red tents.", passage) == (0, len("Red tents."))
    assert supporting_span("A bicycle.", passage) is None


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ("It weighs 2 kg [1]. Rain is no problem [2]. It is", "It weighs 2 kg [1]. Rain is no problem [2]."),
        ("It weighs 2 kg [1]. It costs $1.", "It weighs 2 kg [1]."),  # "$1.25"?
        ("It weighs 2 kg [1]. Rain is no problem [", "It weighs 2 kg [1]."),
        ("It weighs 2 kg [1]. It is light. It weighs 2 kg [1]. It is light. It", "It weighs 2 kg [1]. It is light."),
        ("- Pitch it [1]\n- Sleep [2]\n- Get", "- Pitch it [1]\n- Sleep [2]"),
        ("It weighs two kilograms and", None),
        ("", None),
    ],
)
def test_of_an_answer_that_is_cut_off_each_whole_sentence_is_kept_once(cut, whole):
    assert load_generation_task("rag_answer").whole_part(cut) == whole
