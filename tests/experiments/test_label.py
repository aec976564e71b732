"""`data label`: a teacher writes the targets of rows, and its students have it among their ancestors."""

from __future__ import annotations

import pytest

from searchlora.adapters.ancestry import ancestors
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import DataError, UsageError
from searchlora.eval.judgments.card import read_card
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.judge.llm_judge import load_judge
from searchlora.experiments.label import Prices, label, merge_labels
from searchlora.experiments.options import EvaluationOptions, TrainingOptions
from searchlora.experiments.row_sample import RowSample
from searchlora.experiments.sharding import Sharding
from searchlora.experiments.train import train
from searchlora.files.shards import Shard
from searchlora.inference.settings import ServerSettings
from searchlora.outputs import Grade
from searchlora.task import load_task
from tests.factories import native_dataset, random_adapter, read_jsonl, write_jsonl
from tests.inference.http_server import Reply, answering
from tests.inference.test_service import message
from tests.server.api.test_command import running

WORDS = ("tent", "boot", "stove", "rope")


@pytest.fixture
def queries(tmp_path):
    return write_jsonl(tmp_path / "queries.jsonl", [{"query": f"{WORDS[n % 4]} number {n}"} for n in range(80)])


@pytest.fixture
def labels(tmp_path):
    """A dataset folder whose settings name the labels."""
    rows = [{"query": f"{word} {n}", "label": word} for n in range(6) for word in WORDS]
    return native_dataset(load_task("intent"), tmp_path / "few", rows)


@pytest.fixture
def ask(tiny_base, queries, labels, tmp_path):
    def call(out="labelled.jsonl", **options):
        teacher = {"base": str(tiny_base.path), "settings": labels, "store": tmp_path / "store"}
        return label("intent", queries, tmp_path / out, **{**teacher, **options})

    return call


@pytest.mark.slow
def test_rows_are_labelled_and_a_student_has_the_teacher_among_its_ancestors(ask, queries, tiny_base, tmp_path):
    done = ask(prices=Prices(prompt=1000.0))
    rows, teacher = read_jsonl(tmp_path / "labelled.jsonl"), f"base {tiny_base.path.name}"
    assert [row["query"] for row in rows] == [row["query"] for row in read_jsonl(queries)]
    assert {row["label"] for row in rows} <= set(WORDS) and sum(done.outputs.values()) == done.labelled == 80
    assert done.prompt_tokens > 80 and done.cost == pytest.approx(done.prompt_tokens / 1000) and done.invalid == 0
    answer = read_jsonl(tmp_path / "labelled.jsonl.answers.jsonl")[0]
    assert sum(answer["output"]["label"]["probabilities"]) == pytest.approx(1)
    assert rows[0]["query"] in answer["prompt"][-1]["content"]
    card = read_card(tmp_path / "labelled.jsonl")
    assert (card.source, card.judge, card.counts) == ("llm", teacher, {"llm": 80}) and card == done.card
    assert not (tmp_path / "labelled.jsonl.partial").exists()
    names = tmp_path / "labels.txt"
    names.write_text("\n".join(WORDS), encoding="utf-8")
    source, options = tmp_path / "labelled.jsonl", {"labels": str(names)}
    build(load_task("intent"), source, format="native", out=tmp_path / "data", options=options)
    assert load_dataset(tmp_path / "data").records_card.judge_lineage == (teacher,)
    options = TrainingOptions(("optim.max_steps=3", "validation.generate_rows=0"), base=str(tiny_base.path))
    student = train("intent", tmp_path / "data", "student", options, store=tmp_path / "store")
    assert ancestors(Store(tmp_path / "store"), student.reference) == (teacher,)
    how = EvaluationOptions(split="train", limit=4, baseline_encoder=None)
    with pytest.raises(UsageError, match="circular"):
        evaluate(student.reference, tmp_path / "data", how, store=tmp_path / "store")


@pytest.mark.slow
def test_shards_write_the_bytes_of_one_process(ask, tmp_path):
    ask("whole.jsonl")
    for number in (1, 2):
        assert ask("parts.jsonl", sharding=Sharding(Shard(number, 2))) is None
    merge_labels(tmp_path / "parts.jsonl")
    for more in ("", ".answers.jsonl"):
        assert (tmp_path / f"whole.jsonl{more}").read_bytes() == (tmp_path / f"parts.jsonl{more}").read_bytes()


def test_a_service_labels_and_what_it_refuses_or_says_otherwise_is_listed(ask, tmp_path):
    def reply(request):
        text = request.body["messages"][-1]["content"]
        if "number 3" in text:
            return Reply({"error": {"message": "filtered"}}, 400)
        return message("tent" if "tent" in text else "I think: boot" if "boot" in text else "rope")

    with answering(reply) as server, pytest.warns(UserWarning, match="the service refused a request: .*filtered"):
        done = ask(base=None, teacher="big", engine=ServerSettings(url=server.url, retries=0))
    assert done.card.judge == "base big" and done.card.base == "big"
    reasons = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "labelled.jsonl.invalid.jsonl")}
    assert reasons["row-4"] == reasons["row-2"] == "not one of the labels" and len(server.asked) == 80
    assert done.invalid == len(reasons) and done.labelled == 80 - done.invalid
    assert done.outputs == {"rope": 33, "tent": 18}


def test_a_service_that_counts_no_tokens_labels_and_its_model_stands_on_the_card(ask, tmp_path):
    reply = Reply({**message("tent").content, "usage": None, "model": "big-2026-08"})
    with answering(lambda _: reply) as server:
        done = ask(base=None, teacher="big", engine=ServerSettings(url=server.url), prices=Prices(prompt=1.0))
    assert (done.labelled, done.prompt_tokens, done.cost) == (80, None, None)
    assert read_card(tmp_path / "labelled.jsonl").served == done.card.served == ("big-2026-08",)
    assert done.card.base == "big"


@pytest.mark.slow
def test_grades_of_a_served_model_have_its_probabilities_as_soft_labels(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_SERVICE", "second")
    pairs = [{"query": f"{word} {n}", "passage": f"A {word}."} for n in range(4) for word in WORDS]
    source, store = write_jsonl(tmp_path / "pairs.jsonl", pairs), Store(tmp_path / "store")
    store.root.mkdir()
    with running(tiny_base, store) as (_, client):
        engine = ServerSettings(url=str(client.base_url), api_key_env="KEY_OF_THE_SERVICE")
        model = client.get("/v1/models").json()["data"][0]["id"]
        label("judgment", source, tmp_path / "graded.jsonl", teacher=model, engine=engine, store=store)
        how = {"adapter": None, "base": None, "task": "judgment", "generate": False, "store": store}
        judge = load_judge(teacher=model, engine=engine, **how)
        (grade,) = judge.grade([{"id": "1", **pairs[0]}])
    rows = read_jsonl(tmp_path / "graded.jsonl")
    assert grade.value == rows[0]["grade"]
    for row in rows:
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert max(row["shares"], key=row["shares"].get) == str(row["grade"])
    card = build(load_task("judgment"), tmp_path / "graded.jsonl", format="native", out=tmp_path / "data")
    assert sum(card.rows.values()) == 16
    assert load_dataset(tmp_path / "data").records("train")[0]["shares"].keys() <= {"0", "1", "2", "3"}


@pytest.mark.slow
def test_grades_of_a_teacher_are_those_of_the_guideline_and_are_not_mapped_again(tmp_path):
    task = load_task("judgment")
    rows = [{"id": f"q{n} d", "query": f"query {n}", "passage": "A tent.", "grade": 3 * (n % 2)} for n in range(12)]
    few = native_dataset(task, tmp_path / "few", rows, options={"grades": "2"})
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"query": f"tent {n}", "passage": "A tent."} for n in range(12)])
    how = {"settings": few, "store": tmp_path / "store", "generate": True}

    def reply(request):
        return message(str(("tent 1" in request.body["messages"][-1]["content"] and 1) or 0))

    with answering(reply) as server:
        engine = ServerSettings(url=server.url, retries=0)
        label("judgment", pairs, tmp_path / "graded.jsonl", teacher="big", engine=engine, **how)
    assert [row["grade"] for row in read_jsonl(tmp_path / "graded.jsonl")].count(1) == 3  # 1, 10 and 11
    source, out = tmp_path / "graded.jsonl", tmp_path / "data"
    build(task, source, format="native", out=out, options={"grades": "2"}, split_ratios=(1.0, 0.0, 0.0))
    built = load_dataset(out).records("train")
    assert sorted(row["query"] for row in built if row["grade"] == 1) == ["tent 1", "tent 10", "tent 11"]
    assert built[0]["shares"] == {"0": 1.0}
    with pytest.raises(DataError):  # the grade 1 of two is not that of four
        native_dataset(task, tmp_path / "off", [{**built[0], "grade": 7, "shares": {"7": 1.0}}])


def test_an_adapter_in_place_of_a_service_is_refused(ask, tiny_base, tmp_path):
    store = Store(tmp_path / "store")
    task = load_task("intent").bound({"kind": "label", "labels": ["a", "b"], "out_of_scope": None})
    random_adapter(store, "shop-judge", task, tiny_base, tmp_path / "made", seed=1)
    with pytest.raises(UsageError, match="'shop-judge' is the adapter shop-judge@1 of the store"):
        ask(base=None, teacher="shop-judge", engine=ServerSettings(url="http://127.0.0.1:9"))


def test_a_row_without_a_field_of_the_prompt_is_found_before_anything_is_asked(ask, queries):
    write_jsonl(queries, [{"query": "tent"}, {"text": "boot"}])
    with answering(lambda _: message("tent")) as server, pytest.raises(DataError, match=r"queries\.jsonl, row-2"):
        ask(base=None, teacher="big", engine=ServerSettings(url=server.url))
    assert not server.asked


@pytest.mark.slow
def test_fields_are_read_from_the_columns_that_hold_them(ask, queries):
    rows = read_jsonl(queries)
    assert ask("own.jsonl") is not None
    parts = [row["query"].partition(" ") for row in rows]
    write_jsonl(queries, [{"head": first, "tail": rest} for first, _, rest in parts])
    assert ask("mapped.jsonl", fields={"query": ("head", "tail")}) is not None
    own, joined = (read_jsonl(queries.with_name(name)) for name in ("own.jsonl", "mapped.jsonl"))
    assert [(row["query"], row["label"]) for row in joined] == [(row["query"], row["label"]) for row in own]


def test_old_targets_do_not_stay_beside_those_of_the_teacher():
    judgment, answers = load_task("judgment"), load_task("rag_answer")
    old = {"query": "q", "passage": "p", "votes": {"0": 3}, "reason": "old", "shares": {"0": 1.0}}
    assert judgment.labelled(old, Grade(2)) == {"query": "q", "passage": "p", "grade": 2, "shares": {"2": 1.0}}
    record = {"question": "q", "passages": [{"id": "a", "text": "x"}], "answer": "old", "gold": ["a"]}
    abstained = answers.output(record).parse(answers.settings["abstention"])
    assert answers.labelled(record, abstained).keys() == {"question", "passages", "answerable"}


def test_answers_and_rewrites_become_targets():
    rewriting, answering_ = load_task("rewriting"), load_task("rag_answer")
    assert rewriting.labelled({"query": "telly"}, "television") == {"query": "telly", "rewrite": "television"}
    record = {"question": "How heavy?", "passages": [{"id": "a", "text": "x"}, {"id": "b", "text": "It weighs 2 kg."}]}
    spec = answering_.output(record)
    labelled = answering_.labelled(record, spec.parse("It weighs 2 kg [2]."))
    assert (labelled["answerable"], labelled["gold"]) == (True, ["b"])
    abstained = spec.parse(answering_.settings["abstention"])
    assert answering_.labelled(record, abstained) == {**record, "answerable": False}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "labelled.txt"}, UsageError, "written as JSONL"),
        ({"base": None, "teacher": "big"}, UsageError, "a model of a service, and there is none"),
        ({"base": None}, UsageError, "an adapter, a bare base, or a model of a service"),
    ],
)
def test_unusable_requests_are_errors(ask, options, error, message):
    with pytest.raises(error, match=message):
        ask(**options)


def test_rows_without_content_are_an_error(ask, queries):
    write_jsonl(queries, [])
    with pytest.raises(DataError):
        ask()


@pytest.mark.slow
def test_a_diverse_sample_covers_what_a_random_one_may_miss():
    task = load_task("intent").bound({"kind": "label", "labels": ["payment", "returns"], "out_of_scope": None})
    texts = [*(f"tent {n}" for n in range(200)), *(f"how do I pay order {n} by card" for n in range(5))]
    rows = [{"id": f"row-{number}", "query": text} for number, text in enumerate(texts)]
    chosen = RowSample.parse("diverse=20").choose(rows, task)
    assert max(chosen) >= 200 and len(chosen) <= 20
    assert len(RowSample.parse("random=20").choose(rows, task)) == 20
    assert RowSample.parse("random=500").choose(rows, task) == list(range(205))


@pytest.mark.parametrize("text", ["some=5", "uncertain=5", "", "diverse=0"])
def test_unusable_samples_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no sample"):
        RowSample.parse(text)
