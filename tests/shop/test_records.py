"""What the records of each task promise: splits that share nothing, answers that are right, baselines that are weak."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

import bm25s
import ir_measures
import jsonschema
import pytest

from searchlora.files import json_file
from searchlora.outputs import CitedAnswer, CitedText
from searchlora.shop import dictionary_rewrite
from searchlora.shop.catalogue import make_catalogue
from searchlora.shop.help_centre import ABSTENTION, PASSAGES, make_articles
from searchlora.shop.judgments import grade, matching_products
from searchlora.shop.rewriting import make_rewriting
from searchlora.shop.sampling import Need, Sampler
from searchlora.shop.tables import load_table, load_tables
from searchlora.shop.vocabulary import known_words
from tests.shop.conftest import in_one_split

TABLES = load_tables()
SPLITS = ("train", "validation", "test")
UNSEEN = [
    f" {word} "
    for words in [
        *(kind.words for kind in TABLES.types.values()),
        *(words for attribute in TABLES.attributes.values() for words in attribute.values.values()),
    ]
    for word in words.unseen
]


def visible(row) -> str:
    """What a model sees of a row."""
    return " ".join([*(turn["text"] for turn in row.get("history", ())), row.get("question") or row["query"]])


@pytest.mark.parametrize(
    ("name", "count"),
    [("rewriting", 2400), ("intent", 2400), ("judgment", 3500), ("embedding", 1900), ("rag_answer", 400)],
)
def test_every_split_has_rows_and_shares_no_group_with_another(rows, name, count):
    of_task = rows(name)
    assert len(of_task) == pytest.approx(count, rel=0.1)
    assert {row["split"] for row in of_task} == set(SPLITS)
    assert len({row["id"] for row in of_task}) == len(of_task)
    assert in_one_split(of_task, lambda row: [row["group"]])


@pytest.mark.parametrize("name", ["rewriting", "intent", "rag_answer"])
def test_no_two_rows_have_the_same_words(rows, name):
    shown = [tuple(sorted(re.findall(r"\w+", visible(row).lower()))) for row in rows(name)]
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("name", ["rewriting", "intent"])
def test_words_marked_unseen_are_in_test_only(rows, name):
    having = [row for row in rows(name) if any(word in f" {visible(row)} " for word in UNSEEN)]
    assert len(having) > 40 and {row["split"] for row in having} == {"test"}
    if name == "rewriting":
        assert {row["kind"] for row in having} == {"unseen-word"}


# Rewriting


@pytest.mark.slow
def test_combinations_of_type_and_attributes_are_in_one_split():
    drawn = make_rewriting(make_catalogue(TABLES, size=2000, seed=13), TABLES, total=2400, seed=13)
    assert in_one_split(drawn, lambda row: [row["need"].combination] if row["need"].by_attributes else [])


@pytest.mark.slow
def test_misspellings_of_train_are_not_reused(rows):
    fillers = {word for name in ("lead_ins", "lead_outs") for text in TABLES.phrases[name] for word in text.split()}
    wrong: dict[str, set[str]] = defaultdict(set)
    for row in rows("rewriting"):
        if row["kind"] == "misspelling":
            names = set(row["rewrite"].split())
            wrong[row["split"]] |= set(row["query"].split()) - known_words(TABLES) - fillers - names
    assert len(wrong["test"]) > 80 and not wrong["train"] & (wrong["validation"] | wrong["test"])


def test_rewriting_records_are_short_and_their_derived_fields_true(rows):
    for row in rows("rewriting"):
        assert len(row["query"].split()) <= 8 and len(row["rewrite"].split()) <= 12
        assert row["needs_rewrite"] == (row["query"] != row["rewrite"])
        assert set(row["protected"]) <= set(row["query"].split()) & set(row["rewrite"].split())
        user_turns = [turn for turn in row["history"] if turn["role"] == "user"]
        assert row.get("turn", 1) == len(user_turns) + 1 <= 3
        assert (row["kind"] == "conversation") == bool(user_turns)


def test_later_turns_leave_the_product_to_the_history(rows):
    talks = [row for row in rows("rewriting") if row["kind"] == "conversation"]
    depending = [row for row in talks if row["needs_rewrite"]]
    silent = [row for row in depending if not any(kind in row["query"] for kind in TABLES.types)]
    assert len(silent) > 0.8 * len(depending)
    alone = [row for row in talks if not row["needs_rewrite"]]
    assert alone and all(any(row["query"].endswith(kind) for kind in TABLES.types) for row in alone)


@pytest.mark.parametrize("kind", ["ambiguous", "misspelling", "conversation"])
def test_the_dictionary_cannot_resolve_ambiguity_and_context(rows, shop, kind):
    vocabulary = json_file(shop / "vocabulary.json")
    of_kind = [row for row in rows("rewriting") if row["kind"] == kind and row["needs_rewrite"]]
    solved = sum(dictionary_rewrite(row["query"], vocabulary) == row["rewrite"] for row in of_kind)
    assert solved < 0.1 * len(of_kind)


@pytest.mark.slow
def test_reference_rewrites_beat_the_dictionary_and_the_raw_query(rows, shop, qrels):
    corpus, vocabulary = rows("corpus"), json_file(shop / "vocabulary.json")
    test = [row for row in rows("rewriting") if row["split"] == "test"]
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)

    def tokens(texts):
        return bm25s.tokenize(texts, stopwords="en", show_progress=False)

    index.index(tokens([f"{document['title']} {document['text']}" for document in corpus]), show_progress=False)

    def ndcg(queries):
        places, scores = index.retrieve(tokens(queries), k=10, show_progress=False)
        run = {
            row["id"]: {corpus[place]["id"]: float(score) for place, score in zip(*ranking, strict=True)}
            for row, *ranking in zip(test, places, scores, strict=True)
        }
        judged = {row["id"]: qrels[row["id"]] for row in test}
        return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)[ir_measures.nDCG @ 10])

    raw = ndcg([row["query"] for row in test])
    looked_up = ndcg([dictionary_rewrite(row["query"], vocabulary) for row in test])
    rewritten = ndcg([row["rewrite"] for row in test])
    assert 0.25 < raw < 0.45 and raw + 0.1 < looked_up < rewritten - 0.15 and rewritten > 0.8


# Intents


@pytest.mark.slow
def test_objects_fit_the_schema_in_its_order_and_constrained_decoding_admits_them(rows, shop):
    llguidance = pytest.importorskip("llguidance")
    schema = json_file(shop / "intent.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    tokenizer, grammar = (
        llguidance.LLTokenizer("byte"),
        llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema)),
    )
    for number, row in enumerate(rows("intent")):
        assert not list(check.iter_errors(row["object"])), row
        assert list(row["object"]) == list(schema["properties"])
        if number % 20 == 0:
            matcher = llguidance.LLMatcher(tokenizer, grammar)
            tokens = tokenizer.tokenize_str(json.dumps(row["object"], ensure_ascii=False))
            assert matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting(), row
    for wrong in ({"brand": "nobody"}, {"attributes": {"horsepower": "12"}}, {"max_price": -1}, {"mood": "good"}):
        assert list(check.iter_errors({**row["object"], **wrong})), wrong


def test_an_intent_says_what_its_query_says(rows):
    spelled, intents = load_table("intents/prices")["spelled"], rows("intent")
    assert len(Counter((row["split"], row["object"]["need"]) for row in intents)) == 12
    assert sum(row["object"]["max_price"] is not None for row in intents) > 300
    for row in intents:
        wants = row["object"]
        bounds = [wants[name] for name in ("min_price", "max_price") if wants[name] is not None]
        assert bounds == sorted(set(bounds))
        for bound in bounds:
            number = f"{bound:.2f}" if bound % 1 else str(bound)
            assert number in row["query"] or spelled.get(bound, number) in row["query"], row
        if wants["product_type"]:
            kind = TABLES.types[wants["product_type"]]
            assert wants["category"] == kind.category and set(wants["attributes"]) <= set(kind.attributes)
            assert wants["brand"] in (None, *(brand.lower() for brand in kind.brands))
        if row["kind"] == "out-of-scope":
            assert not any(value for name, value in wants.items() if name != "need")
    typed = [row for row in intents if row["object"]["product_type"] and row["object"]["attributes"]]
    assert in_one_split(typed, lambda r: [Need(r["object"]["product_type"], r["object"]["attributes"]).combination])


# Judgments and pairs


def test_judgments_follow_the_construction():
    catalogue = make_catalogue(TABLES, size=3000, seed=5)
    sampler = Sampler(catalogue, seed=5)
    for product in (catalogue[7], catalogue[100], catalogue[2999]):
        for names in (["sku"], ["brand"], list(TABLES.types[product.type].attributes)[:2]):
            need = Need(product.type, {name: product.facts[name] for name in names})
            for value, matching in matching_products(need, sampler, TABLES).items():
                assert matching == [other for other in catalogue if grade(other, need, TABLES) == value]


def test_every_record_is_judged_and_has_an_exact_match(rows, qrels):
    assert set(qrels) == {row["id"] for row in rows("rewriting")}
    assert all(max(grades.values()) == 3 for grades in qrels.values())
    known = {row["id"] for row in rows("corpus")}
    assert all(document in known for grades in qrels.values() for document in grades)


def test_graded_pairs_agree_with_the_qrels_and_reveal_nothing(rows, qrels):
    pairs, products = rows("judgment"), {row["id"]: row for row in rows("corpus")}
    grades_of, first = defaultdict(set), {}
    for row in pairs:
        topic, product = row["id"].split(" ")
        assert row["grade"] == qrels[topic].get(product, 0)
        assert (row["title"], row["passage"]) == (products[product]["title"], products[product]["text"])
        grades_of[topic].add(row["grade"])
        first.setdefault(topic, row["grade"])
    assert len(grades_of) == 600 and all({0, 3} <= grades for grades in grades_of.values())
    assert max(Counter(first.values()).values()) < 0.45 * len(first)
    assert in_one_split(pairs, lambda row: [row["id"].split(" ")[1], row["title"]])


def test_training_pairs_have_exact_positives_and_hard_negatives(rows, qrels):
    training, records = rows("embedding"), [row for row in rows("rewriting") if not row["history"]]
    ids = {f"{product['title']} {product['text']}": product["id"] for product in rows("corpus")}
    type_of = {product.id: product.type for product in make_catalogue(TABLES, size=2000, seed=13)}
    assert [row["id"] for row in training] == [row["id"] for row in records]
    for row in training:
        judged = qrels[row["id"]]
        assert ids[row["positive"]] == row["document"] and judged[row["document"]] == 3
        negatives = [ids[text] for text in row["negatives"]]
        assert all(judged.get(name, 0) in (0, 2) and type_of[name] == type_of[row["document"]] for name in negatives)
        assert len(set(negatives)) == len(negatives) <= 2
    assert sum(len(row["negatives"]) == 2 for row in training) > 0.8 * len(training)
    assert in_one_split(training, lambda row: [ids[text] for text in (row["positive"], *row["negatives"])])


# Answers


def sentences(answer: str) -> list[tuple[str, int]]:
    """Each sentence of an answer without its mark, and the passage that it cites."""
    return [(text.strip(), int(number)) for text, number in re.findall(r"([^\]]+)\[(\d+)\]\.", answer)]


def figures(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def content(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 2}


def test_an_answer_cites_the_gold_passages_and_no_other_passage_holds_it(rows):
    for row in rows("rag_answer"):
        parsed = CitedText(PASSAGES, ABSTENTION).parse(row["answer"])
        assert isinstance(parsed, CitedAnswer) and len({passage["id"] for passage in row["passages"]}) == PASSAGES
        assert {row["passages"][number - 1]["id"] for number in parsed.citations} == set(row["gold"])
        assert parsed.abstained == (not row["answerable"]) == (row["kind"] in ("missing", "unknown"))
        for text, cited in sentences(row["answer"]):
            for number, passage in enumerate(row["passages"], 1):
                shown = f"{passage['title']} {passage['text']}"
                if number == cited:
                    assert figures(text) <= figures(shown)
                    assert len(content(text) & content(shown)) >= 0.5 * len(content(text))
                else:
                    assert not (figures(text) <= figures(shown) and content(text) <= content(shown)), (text, shown)


def test_a_question_names_its_article_and_is_answered_by_it_alone(rows):
    articles = make_articles(13)
    owners = defaultdict(set)
    for article in articles:
        for question in [*article.unknown, *(question for fact in article.facts for question in fact.ask)]:
            owners[question.lower().rstrip("?")].add(article.id)
    assert all(len(ids) == 1 for ids in owners.values())
    for row in rows("rag_answer"):
        shown = {passage["id"] for passage in row["passages"]}
        if row["kind"] == "missing" and not row["history"]:
            assert not owners[row["question"].lower().rstrip("?")] & shown


def test_position_and_similar_passages_do_not_reveal_the_gold_one(rows):
    answers = rows("rag_answer")
    family = {article.id: article.family.replace(" ", "-") for article in make_articles(13)}
    sizes = Counter(family.values())
    places = Counter(p for row in answers for p, passage in enumerate(row["passages"]) if passage["id"] in row["gold"])
    assert max(places.values()) < 0.35 * places.total()
    assert 0.2 < sum(not row["answerable"] for row in answers) / len(answers) < 0.3
    for row in answers:
        similar = sum(family[passage["id"]] == row["group"] for passage in row["passages"])
        assert similar >= min(2, sizes[row["group"]] - (row["kind"] == "missing")), row["id"]
    assert in_one_split(answers, lambda row: [passage["id"] for passage in row["passages"]])
