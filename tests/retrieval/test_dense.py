"""Dense retrieval is the exact inner product with defined ties; one encoder serves all of its adapters."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchlora.adapters.attach import new_adapter, save_adapter
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.errors import DataError
from searchlora.eval.trec import ranked
from searchlora.models.load import load_encoder
from searchlora.records import Document
from searchlora.retrieval import DenseIndex, Encoder, shared_model
from searchlora.retrieval.encoding import TextEncoding
from searchlora.retrieval.shared_model import SharedModel
from searchlora.retrieval.vector_file import open_vectors
from tests.eval import cranfield
from tests.factories import encode_to, encoder_recipe_for, shout


class Given:
    """An encoder with scripted vectors, to test the index at vectors that no model would give."""

    max_tokens, at_once = None, 1

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors = vectors
        self.asked: list[list[str]] = []

    def encode(self, texts, **_options):
        self.asked.append(list(texts))
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    encode_documents = encode_together = encode


VECTOR = st.lists(st.integers(-3, 3), min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(vectors=st.lists(VECTOR, min_size=1, max_size=150), query=VECTOR, k=st.integers(1, 160))
def test_search_equals_sorting_all_inner_products(vectors, query, k):
    """Small whole numbers: products are exact and many are level, often more than the index first looks at."""
    given_ = Given({f"t{place}": vector for place, vector in enumerate(vectors)} | {"q": query})
    documents = [Document(str(place), f"t{place}") for place in range(len(vectors))]
    hits = DenseIndex(documents, given_, TextEncoding(normalise=False)).search(["q"], k)[0]
    products = {str(place): float(np.dot(vector, query)) for place, vector in enumerate(vectors)}
    assert [hit.document for hit in hits] == ranked(products)[:k]
    assert {hit.document: hit.score for hit in hits} == {hit.document: products[hit.document] for hit in hits}


def test_threads_take_turns_and_queries_are_encoded_with_their_adapter():
    class Model:
        max_seq_length = tokenizer = None
        device, active_adapter = torch.device("cpu"), SharedModel.DEFAULT
        calls, adapted = 0, True

        def get_embedding_dimension(self):
            return 1

        def preprocess(self, texts):
            return {"texts": texts}

        def __call__(self, inputs):
            self.calls += 1
            assert self.calls == 1  # nobody else is in here
            time.sleep(0.002)
            self.calls -= 1
            return {"sentence_embedding": torch.full((len(inputs["texts"]), 1), float(self.adapted))}

        @contextmanager
        def disable_adapter(self):
            self.adapted = False
            yield
            self.adapted = True

    model = Model()
    encoder = Encoder(SharedModel(model, model), "m", adapter=SharedModel.DEFAULT, query_only=True)
    texts = ["a"] * 8
    with ThreadPoolExecutor(4) as pool:
        queries = [pool.submit(encoder.encode, texts, batch_size=1) for _ in range(6)]
        documents = [pool.submit(encoder.encode_documents, texts, batch_size=1) for _ in range(6)]
    assert all((each.result() == 1).all() for each in queries)
    assert all((each.result() == 0).all() for each in documents)


def test_scores_that_are_equal_in_single_precision_are_ties():
    given_ = Given({"first": [1, 0], "second": [1, 1e-5], "q": [1, 1e-4]})
    index = DenseIndex([Document("b", "first"), Document("a", "second")], given_, TextEncoding(normalise=False))
    for k in (1, 2):
        hits = index.search(["q"], k)[0]
        assert [hit.document for hit in hits] == ["b", "a"][:k] == ranked({"a": 1 + 1e-9, "b": 1.0})[:k]


def test_normalised_scores_are_cosines():
    given_ = Given({"long": [10, 0], "near": [3, 4], "none": [0, 0], "q": [5, 0]})
    index = DenseIndex([Document(text, text) for text in ("long", "near", "none")], given_)
    hits = index.search(["q"], 9)[0]
    assert [(hit.document, round(hit.score, 6)) for hit in hits] == [("long", 1.0), ("near", 0.6), ("none", 0.0)]


def test_equal_texts_are_encoded_once_with_the_document_prefix():
    given_ = Given({"passage: tent": [1, 0], "passage: A tent": [1, 1], "query: tent": [1, 0]})
    documents = [Document("a", "tent"), Document("b", "tent"), Document("c", "tent", "A")]
    index = DenseIndex(documents, given_, TextEncoding(query_prefix="query: ", document_prefix="passage: "))
    assert given_.asked == [["passage: tent", "passage: A tent"]]
    assert [hit.document for hit in index.search(["tent"], 2)[0]] == ["b", "a"]
    assert given_.asked[-1] == ["query: tent"]


def test_queries_in_batches_find_the_same_and_blank_ones_nothing():
    vectors = {"a": [1, 0], "b": [0, 1], "q": [1, 0], "r": [0, 1], "s": [1, 1]}
    encoder = Given(vectors)
    documents = [Document(name, name) for name in "ab"]
    queries = ["q", " ", "r", "s"]
    one = DenseIndex(documents, Given(vectors)).search(queries, 1)
    assert DenseIndex(documents, encoder, TextEncoding(query_batch_size=3)).search(queries, 1) == one
    assert [[hit.document for hit in hits] for hits in one] == [["a"], [], ["b"], ["b"]]
    assert encoder.asked[1:] == [["q", "r"], ["s"]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused(value):
    given_ = Given({"good": [1, 0], "bad": [value, 0]})
    with pytest.raises(DataError, match="d2: the encoder returns a vector that is not finite"):
        DenseIndex([Document("d1", "good"), Document("d2", "bad")], given_)
    index = DenseIndex([Document("d1", "good")], given_)
    with pytest.raises(DataError, match="the query 'bad'"):
        index.search(["bad"], 1)


def test_vectors_are_float32_in_input_order_for_any_batch_size(encoder):
    texts = ["a", "a rather longer text than the others", "", "tent", "跑鞋"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (5, 16)
    assert vectors.dtype == np.float32
    for size in (1, 2):
        np.testing.assert_allclose(encoder.encode(texts, batch_size=size), vectors, atol=1e-5)
    assert len(encoder.encode([])) == 0


def test_texts_are_truncated_at_the_limit_of_the_encoder(encoder):
    assert encoder.max_tokens == 64
    whole, same = "x" * 62, "x" * 62 + "yz"
    assert (encoder.tokens(whole), encoder.tokens(same)) == (64, 66)
    first, second, other = encoder.encode([whole, same, "x" * 60])
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert not np.allclose(first, other, atol=1e-6)


@pytest.mark.slow
def test_minilm_retrieves_a_relevant_cranfield_abstract(real_data):
    folder = real_data / "cranfield"
    documents = cranfield.documents(folder)[:60]
    queries, qrels = cranfield.queries(folder), cranfield.qrels(folder)
    encoder = Encoder.load("all-minilm-l6-v2")
    assert encoder.max_tokens == 256
    index = DenseIndex(documents, encoder)
    hits = index.search([queries["1"], queries["2"]], 5)
    for topic, found in zip(("1", "2"), hits, strict=True):
        assert sum(hit.document in qrels[topic] for hit in found) >= 3


TEXTS = [f"{'tent ' * (number % 7)}{number}" for number in range(90)] + ["tent", "tent", "", "  ", "палатка", "tent"]
DOCUMENTS = [Document(f"d{number}", text) for number, text in enumerate(TEXTS)]


class Counting:
    """An encoder that counts its texts."""

    def __init__(self, encoder):
        self.encoder, self.texts = encoder, 0

    def encode_documents(self, texts, **options):
        self.texts += len(texts)
        return self.encoder.encode_documents(texts, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"normalise": False, "document_prefix": "text: "}, {"batch_size": 3}, {"batch_size": 3, "precision": "bf16"}],
)
def test_vectors_equal_those_of_the_index_in_memory(tmp_path, encoder, options):
    longest = encode_to(tmp_path, DOCUMENTS, encoder, **options)
    (vectors, rows), index = open_vectors(tmp_path), DenseIndex(DOCUMENTS, encoder, TextEncoding(**options))
    assert (vectors == index.vectors).all()
    assert vectors.dtype == np.float32
    assert (rows == index._rows).all()
    assert longest == pytest.approx(np.linalg.norm(index.vectors, axis=1).max(), rel=1e-6)


def test_only_the_texts_of_one_part_are_read_at_a_time(tmp_path, encoder):
    read = []

    class Watching(Counting):
        def encode_documents(self, texts, **options):
            assert len(read) == len(texts) <= 16
            read.clear()
            return super().encode_documents(texts, **options)

    class Documents(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    reported, watching = [], Watching(encoder)
    encode_to(tmp_path, Documents(DOCUMENTS), watching, lambda *each: reported.append(each), batch_size=1)
    distinct = len({text for text in TEXTS if text.strip()})
    assert watching.texts == distinct and reported[-1] == (distinct, distinct)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.npy", "vectors.npy"]


def test_bf16_is_close_to_fp32_and_not_equal(encoder, monkeypatch):
    monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda: True)
    texts = [text for text in TEXTS if text.strip()]
    fp32, bf16 = (encoder.encode_documents(texts, precision=precision) for precision in ("fp32", "bf16"))
    difference = abs(fp32 - bf16).max() / abs(fp32).max()
    assert 0 < difference < 0.05
    assert bf16.dtype == np.float32
    assert (encoder.encode(texts) == fp32).all()  # queries stay in fp32
    monkeypatch.setattr("searchlora.models.load.multiplies_bf16", lambda: False)
    assert (encoder.encode_documents(texts, precision="bf16") == fp32).all()  # the processor would be slower in bf16


def test_a_vector_that_is_not_finite_names_its_document(tmp_path):
    class Broken:
        def encode_documents(self, texts, **_options):
            return np.array([[np.nan] if text == "bad" else [1.0] for text in texts], dtype=np.float32)

    with pytest.raises(DataError, match="d1: the encoder returns a vector that is not finite"):
        encode_to(tmp_path, [Document("d0", "good"), Document("d1", "bad")], Broken())


FOUR = ["red tent", "wool socks", "a boot", "long rope and pegs"]


def stored(store, base, folder, name, seed, *overrides):
    """A stored adapter with random weights."""
    recipe = encoder_recipe_for(base, *overrides)
    model = new_adapter(load_encoder(base, device="cpu"), recipe)
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.named_parameters():
        if "lora_A" in key or "lora_B" in key:
            value.data = torch.randn(value.shape, generator=generator) * 0.5
    save_adapter(model, folder / name, recipe)
    return store_adapter(store, name, folder / name, task=shout(folder / f"{name}-task"), recipe=recipe, base=base)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, encoder_base):
    folder = tmp_path_factory.mktemp("adapters")
    store = Store(folder / "store")
    own = [("one", 1), ("two", 2, "lora.r=8"), ("three", 3, "lora.variant=rslora")]
    return [stored(store, encoder_base, folder, *each) for each in own]


@pytest.fixture
def shared(encoder_base, adapters):
    def shared(**more):
        model = SharedModel(load_encoder(encoder_base, device="cpu"), **more)
        for adapter in adapters:
            model.add(adapter)
        return model

    return shared


@pytest.mark.parametrize("max_adapters", [64, 1])
def test_rows_of_one_pass_have_the_vectors_of_their_adapters(shared, adapters, encoder_base, max_adapters):
    model = shared(max_adapters=max_adapters)
    assert len(model) == min(max_adapters, len(adapters))
    alone = {adapter.reference: Encoder.load(encoder_base.name, adapter=adapter).encode(FOUR) for adapter in adapters}
    alone[None] = Encoder.load(encoder_base.name).encode(FOUR)
    assert min(abs(alone["one@1"] - alone[other]).max() for other in ("two@1", "three@1", None)) > 1e-3
    for rows in (["one@1", None, "two@1", "one@1"], ["three@1", "two@1", None, "three@1"], [None] * 4, ["two@1"] * 4):
        vectors = model.encode(FOUR, rows).numpy()
        for place, adapter in enumerate(rows):
            assert np.allclose(vectors[place], alone[adapter][place], atol=1e-5), (rows, place)


def test_bf16_is_a_copy_that_has_the_adapters_too(shared):
    model = shared()
    rows = ["one@1", None, "two@1", "three@1"]
    exact = model.encode(FOUR, rows).numpy()
    rounded = model.encode(FOUR, rows, "bf16").numpy()
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert rounded.dtype == np.float32 and cosines.min() > 0.995
    assert (model.encode(FOUR, rows).numpy() == exact).all()
    assert {str(value.dtype) for value in model.model.parameters()} == {"torch.float32"}


def test_on_a_gpu_short_texts_share_a_pass_up_to_the_tokens_of_a_batch(encoder_base, monkeypatch):
    encoder, passes = Encoder.load(encoder_base.name, device="cpu"), []
    encode = SharedModel.encode
    texts = ["boot " * (1 + number % 9) for number in range(60)]
    wanted = encoder.encode(texts, batch_size=2)
    monkeypatch.setattr(SharedModel, "on_gpu", True)
    monkeypatch.setattr(
        SharedModel, "encode", lambda self, texts, *more: passes.append(list(texts)) or encode(self, texts, *more)
    )
    assert np.allclose(encoder.encode(texts, batch_size=2), wanted, atol=1e-5)
    sizes = [len(batch) * max(map(encoder.tokens, batch)) for batch in passes]
    assert max(sizes) <= 2 * encoder.max_tokens and len(passes) < 60 / 2 and max(map(len, passes)) > 2


def test_an_error_in_a_shared_pass_reaches_its_own_caller_only(shared):
    model, go, passes = shared(), Event(), []
    encode = model.encode
    model.encode = lambda texts, adapters: passes.append(len(texts)) or encode(texts, adapters)
    model._thread.submit(go.wait)
    calls = [
        model.submit([text], adapter) for text, adapter in [("red tent", None), ("a", "gone@1"), ("boot", "one@1")]
    ]
    go.set()
    with pytest.raises(ValueError, match=r"gone@1"):
        calls[1].result(60)
    for call, text, adapter in ((calls[0], "red tent", None), (calls[2], "boot", "one@1")):
        assert np.allclose(call.result(60), encode([text], [adapter]).numpy(), atol=1e-5)
    assert passes == [3, 1, 1, 1]


def test_encoders_of_one_model_share_its_tokenizer(shared, monkeypatch):
    model, copies, copy = shared(), [], shared_model.copy.deepcopy
    monkeypatch.setattr(shared_model.copy, "deepcopy", lambda value: copies.append(value) or copy(value))
    encoders = [Encoder(model, name, adapter=name) for name in ("one@1", "two@1", "three@1")]
    assert len({encoder.tokens("a red tent") for encoder in encoders}) == 1 == len(copies)
