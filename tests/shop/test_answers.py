from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from searchlora.outputs import CitedAnswer, CitedText
from searchlora.shop.help_centre import ABSTENTION, PASSAGES, Article, make_articles
from searchlora.shop.tables import load_table, table_names
from tests.shop.reading import only_in_one, rows_of, splits_of

Rows = list[dict[str, Any]]
UNANSWERABLE = {"missing", "unknown"}


@pytest.fixture(scope="module")
def answers(shop: Path) -> Rows:
    return rows_of(shop / "rag_answer.jsonl")


@pytest.fixture(scope="module")
def articles() -> list[Article]:
    return make_articles(13)


def sentences(answer: str) -> list[tuple[str, list[int]]]:
    """Each sentence of an answer without its marks, and the passages that it cites."""
    found = []
    for sentence in re.findall(r"[^\]]+(?:\[\d+\])+\.", answer):
        found.append((re.sub(r" \[\d+\]", "", sentence).strip(), [int(n) for n in re.findall(r"\[(\d+)\]", sentence)]))
    return found


def figures(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def content(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 2}


@pytest.mark.slow
def test_every_article_is_written_once(shop: Path, articles: list[Article]):
    written = rows_of(shop / "help" / "articles.jsonl")
    assert written == [article.document for article in articles]
    assert len(written) >= 60
    for field in ("id", "title", "text"):
        assert len({article[field] for article in written}) == len(written)
    for article in written:
        assert set(article) == {"id", "title", "text"}
        assert 2 <= article["text"].count("\n\n") + 1 <= 4
        assert "{" not in article["text"] + article["title"]


def test_another_seed_gives_other_numbers(articles: list[Article]):
    other = make_articles(14)
    assert [article.title for article in other] == [article.title for article in articles]
    changed = sum(figures(one.text) != figures(two.text) for one, two in zip(articles, other, strict=True))
    assert changed > 0.8 * len(articles)


def test_every_row_has_the_same_number_of_verbatim_passages(answers: Rows, articles: list[Article]):
    documents = {article.id: article.document for article in articles}
    assert len(answers) == 400
    for row in answers:
        assert len({passage["id"] for passage in row["passages"]}) == PASSAGES
        assert all(passage == documents[passage["id"]] for passage in row["passages"])


def test_answers_cite_exactly_their_gold_passages(answers: Rows):
    for row in answers:
        parsed = CitedText(PASSAGES, ABSTENTION).parse(row["answer"])
        assert isinstance(parsed, CitedAnswer)
        cited = {row["passages"][number - 1]["id"] for number in parsed.citations}
        assert cited == set(row["gold"])
        assert parsed.abstained == (not row["answerable"]) == (row["kind"] in UNANSWERABLE) == (not row["gold"])
        if row["answerable"]:
            assert "".join(f"{text[:-1]} [{numbers[0]}]." for text, numbers in sentences(row["answer"])) == row[
                "answer"
            ].replace("]. ", "].")


def test_every_sentence_is_supported_by_its_citation(answers: Rows):
    for row in answers:
        for text, numbers in sentences(row["answer"]):
            passage = row["passages"][numbers[0] - 1]
            shown = f"{passage['title']} {passage['text']}"
            assert figures(text) <= figures(shown), row
            assert len(content(text) & content(shown)) >= 0.5 * len(content(text)), (text, shown)


def test_no_distractor_contains_the_answer(answers: Rows):
    """Passages of other articles may be similar, but never with the same subject and numbers."""
    for row in answers:
        for text, numbers in sentences(row["answer"]):
            others = [passage for place, passage in enumerate(row["passages"], start=1) if place not in numbers]
            for passage in others:
                shown = f"{passage['title']} {passage['text']}"
                assert not (figures(text) <= figures(shown) and content(text) <= content(shown)), (text, shown)


def test_an_unanswerable_question_has_no_passage_that_answers(answers: Rows, articles: list[Article]):
    asked = {question: article for article in articles for fact in article.facts for question in fact.ask}
    known = {question.lower().rstrip("?") for question in asked}
    unknown = {question.lower().rstrip("?") for article in articles for question in article.unknown}
    assert not known & unknown
    by_question = {question.lower().rstrip("?"): article for question, article in asked.items()}
    for row in answers:
        question = row["question"].lower().rstrip("?")
        if row["kind"] == "missing" and not row["history"]:
            assert by_question[question].id not in {passage["id"] for passage in row["passages"]}
        if row["kind"] == "unknown":
            assert question in unknown


def test_a_standalone_question_names_its_article(articles: list[Article]):
    """Else its like in the family would be answered by the same words."""
    owners: dict[str, set[str]] = defaultdict(set)
    for article in articles:
        for question in [*article.unknown, *(question for fact in article.facts for question in fact.ask)]:
            owners[question].add(article.id)
    assert all(len(ids) == 1 for ids in owners.values())


def test_articles_and_families_are_in_one_split(answers: Rows):
    assert only_in_one(splits_of(answers, lambda row: [row["group"]]))
    assert only_in_one(splits_of(answers, lambda row: [passage["id"] for passage in row["passages"]]))
    assert {row["split"] for row in answers} == {"train", "validation", "test"}


def test_position_and_similar_passages_do_not_reveal_the_gold_one(answers: Rows):
    places = Counter(
        place
        for row in answers
        for place, passage in enumerate(row["passages"], start=1)
        if passage["id"] in row["gold"]
    )
    assert max(places.values()) < 0.35 * places.total()
    shares = Counter(row["answerable"] for row in answers)
    assert 0.2 < shares[False] / shares.total() < 0.3


def test_missing_siblings_do_not_reveal_a_missing_gold_passage(answers: Rows, articles: list[Article]):
    family_of = {article.id: article.family.replace(" ", "-") for article in articles}
    sizes = Counter(family_of.values())
    for row in answers:
        likes = sum(family_of[passage["id"]] == row["group"] for passage in row["passages"])
        assert likes >= min(2, sizes[row["group"]] - (row["kind"] == "missing")), row["id"]


def test_conversations_have_consistent_turns(answers: Rows):
    talks = [row for row in answers if row["history"]]
    assert 40 < len(talks) < 100
    assert {row["kind"] for row in talks} == {"follow-up", "missing"}
    for row in talks:
        assert [turn["role"] for turn in row["history"]] == ["user", "assistant"]


def test_questions_are_distinct(answers: Rows):
    shown = [(*(turn["text"].lower() for turn in row["history"]), row["question"].lower()) for row in answers]
    assert len(set(shown)) == len(shown)


def test_templates_have_values_for_every_article_of_their_family():
    for table in table_names("help"):
        for name, family in load_table(f"help/{table}").items():
            assert len(family["articles"]) >= 2, name
            assert all(len(set(values)) >= len(family["articles"]) for values in family["draws"].values()), name
            assert len({frozenset(article) for article in family["articles"]}) == 1, name
            for fact in (fact for paragraph in family["paragraphs"] for fact in paragraph):
                assert set(fact) in ({"say"}, {"say", "ask", "follow", "answer"}), (name, fact)
