"""Qrels of an LLM judge: marked, resumable, and refused for circular use."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from searchlora.adapters.ancestry import write_training_queries
from searchlora.adapters.merging import export_merged
from searchlora.adapters.store import Store
from searchlora.data.collection import CorpusFile
from searchlora.errors import BaseModelError, DataError, EngineError, UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judge.labels import read_probabilities
from searchlora.eval.judgments.card import RunCard, read_card, write_run_card
from searchlora.eval.judgments.pooling import pool
from searchlora.eval.trec import read_run, write_run
from searchlora.experiments import sharding
from searchlora.experiments.judge import command, pair_table, pairs
from searchlora.experiments.judge.command import judge
from searchlora.experiments.judge.llm_judge import Judge
from searchlora.experiments.judge.pairs import load_texts, pairs_to_judge
from searchlora.experiments.sharding import Sharding
from searchlora.files import file_sha256
from searchlora.files.shards import PART_ROWS, Shard
from searchlora.inference.engine import Completion
from searchlora.inference.settings import ServerSettings
from searchlora.task import load_generation_task
from tests.child_scripts import CONTEXT, Script, run_script
from tests.experiments.grading_task import build_task, write_collection
from tests.factories import draft_for, read_jsonl, trained_adapter_folder, write_jsonl
from tests.inference.http_server import Reply, answering
from tests.inference.test_service import message


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    return build_task(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def files(tmp_path):
    return write_collection(tmp_path)


@pytest.fixture
def ask(tasks, tmp_path, files, tiny_base):
    """Judge the pool of runs a and b with the tiny base, or with the given arguments."""

    def call(out="qrels.txt", **options):
        given = {"base": str(tiny_base.path), "task": "fit", "runs": [files["a.trec"], files["b.trec"]], "depth": 3}
        return judge(
            files["topics.jsonl"],
            options.pop("corpus", files["corpus.jsonl"]),
            tmp_path / out,
            **{**given, "tasks": tasks, "store": tmp_path / "store", **options},
        )

    return call


@pytest.fixture(scope="module")
def weights(tiny_base, tmp_path_factory) -> Path:
    return trained_adapter_folder(tiny_base, tmp_path_factory.mktemp("judge") / "adapter")


@pytest.fixture
def by_adapter(ask, weights, tasks, tiny_base, tmp_path):
    """Judge by the adapter `judge@1`, made of `old@1`, trained on the queries given."""

    def call(*queries, parents=("old@1",), **options):
        beside = [write_training_queries(tmp_path, queries)] if queries else []
        draft = draft_for(tiny_base, load_generation_task("fit", tasks), parents=list(parents))
        Store(tmp_path / "store").add("judge", weights, draft, extra_files=beside)
        return ask(adapter="judge", base=None, task=None, **options)

    return call


@pytest.mark.slow
def test_the_pool_is_judged_and_marked(ask, files, tmp_path, tiny_base):
    done = ask()
    qrels = read_qrels(tmp_path / "qrels.txt")
    pooled = pool({name: read_run(files[f"{name}.trec"]) for name in "ab"}, 3)
    assert {topic: list(row) for topic, row in qrels.items()} == {topic: sorted(row) for topic, row in pooled.items()}
    assert sum(done.grades.values()) == 18 and done.invalid == 0 and not done.circular
    assert not (tmp_path / "qrels.txt.partial").exists()
    card = read_card(tmp_path / "qrels.txt")
    assert card == done.card
    name = f"base {tiny_base.path.name}"
    assert (card.source, card.judge, card.judge_lineage) == ("llm", name, (name,))
    assert (card.counts, card.probabilities) == ({"llm": 18}, "qrels.txt.probabilities.jsonl")
    assert list(card.made_from) == ["topics", "corpus", "run 1 a.trec", "run 2 b.trec"]
    assert card.made_from["corpus"] == file_sha256(files["corpus.jsonl"])
    assert len(done.doubts) == 1 and f"{files['a.trec']}, {files['b.trec']}" in done.doubts[0]


def test_the_grade_is_the_most_probable_and_labels_of_one_grade_are_summed(ask, tmp_path):
    ask()
    qrels = read_qrels(tmp_path / "qrels.txt")
    probabilities = read_probabilities(tmp_path / "qrels.txt.probabilities.jsonl")
    assert {topic: row.keys() for topic, row in probabilities.items()} == {t: row.keys() for t, row in qrels.items()}
    for row in probabilities.values():
        for grades in row.values():
            assert grades.keys() == {0, 1, 2}
            assert sum(grades.values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_judge_passes_the_fields_that_the_task_reads(ask, files, tmp_path):
    """Another passage, title or query gives other probabilities, so all three reach the prompt."""
    ask()
    before = read_probabilities(tmp_path / "qrels.txt.probabilities.jsonl")
    changes = (("corpus", "It sleeps", "He sleeps"), ("corpus", "Tent", "Tarp"), ("topics", "a tent", "tent"))
    for number, (kind, old, new) in enumerate(changes):
        name = f"{kind}.jsonl"
        text = files[name].read_text(encoding="utf-8")
        files[name].write_text(text.replace(old, new), encoding="utf-8")
        ask(f"{number}.txt")
        files[name].write_text(text, encoding="utf-8")
        after = read_probabilities(tmp_path / f"{number}.txt.probabilities.jsonl")
        assert all(after[t][d] != row for t, found in before.items() for d, row in found.items())


@pytest.mark.parametrize("generate", [False, True])
def test_a_passage_too_long_for_the_judge_is_named(ask, files, tmp_path, generate):
    """It is neither truncated silently nor graded beyond the context of the model."""
    (tmp_path / "pairs.txt").write_text("t0 d03\nt1 d04\n", encoding="utf-8")
    rows = read_jsonl(files["corpus.jsonl"])
    write_jsonl(files["corpus.jsonl"], [row | {"text": "rope " * 1000} if row["id"] == "d04" else row for row in rows])
    with pytest.raises(EngineError, match=r"record t1 d04: the prompt of 5\d+ tokens .* context of 4096"):
        ask(runs=(), pairs=tmp_path / "pairs.txt", generate=generate)
    assert not (tmp_path / "qrels.txt").exists()


@pytest.mark.slow
def test_invalid_answers_are_stored_separately(ask, tmp_path, monkeypatch):
    """A base of random weights generates no label; its answers are stored and give no qrels."""
    with pytest.raises(DataError, match="none of the 18 answers is a grade"):
        ask(generate=True)
    rows = read_jsonl(tmp_path / "qrels.txt.invalid.jsonl")
    assert len(rows) == 18 and rows[0].keys() == {"topic", "document", "raw", "reason"}
    assert not (tmp_path / "qrels.txt").exists()

    # Simulates a model that answers only if the passage contains the answer.
    generate = "searchlora.inference.local.LocalEngine.generate"
    monkeypatch.setattr(generate, lambda _, requests: [_answer(request) for request in requests])
    done = ask("some.txt", generate=True)
    grades = read_qrels(tmp_path / "some.txt")
    assert done.invalid == 6 and done.grades == {2: 12} and done.card.counts == {"llm": 12}
    assert all(set(row.values()) == {2} for row in grades.values())
    assert done.card.probabilities is None
    assert {row["raw"] for row in read_jsonl(tmp_path / "some.txt.invalid.jsonl")} == {"2"}


def _answer(request):
    return Completion("good" if "sleeps 2" in request.messages[-1]["content"] else "2", "stop", 5, 1)


def test_judgments_are_not_overwritten(ask, tmp_path):
    (tmp_path / "qrels.txt").write_text("t0 0 d00 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="already exists"):
        ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": None}, "a model without an adapter needs a task"),
        ({"task": "rewriting"}, "does not read the passage, so it cannot judge"),
        ({"adapter": "judge"}, "an adapter, a bare base, or a model of a service"),
        ({"runs": ()}, "a pool of runs or a file of pairs"),
    ],
)
def test_unjudgeable_requests_are_errors(ask, options, message):
    with pytest.raises(UsageError, match=message):
        ask(**options)


# Law 6


@pytest.mark.slow
def test_a_judge_that_took_part_in_a_pooled_run_is_refused_or_marked(by_adapter, files, tmp_path):
    card = RunCard("ours", "2026-07-01", adapters=("ranker@2",), lineage=("ranker@2", "old@3"))
    write_run_card(files["a.trec"], card)
    write_run_card(files["b.trec"], RunCard("bm25", "2026-07-01"))
    with pytest.raises(UsageError, match=r"circular for 1 of 2 systems: the judge judge@1 and the system share old@1"):
        by_adapter("elsewhere")
    assert not list(tmp_path.glob("qrels.txt*"))
    done = by_adapter("elsewhere", allow_circular=True)
    assert done.circular == {str(files["a.trec"]): "the judge judge@2 and the system share old@1"}
    assert done.card.judge_lineage == ("judge@2", "old@1")
    assert done.doubts == ()


def test_a_judge_trained_on_the_topics_is_refused(by_adapter, tmp_path):
    (tmp_path / "pairs.txt").write_text("t0 d03\nt1 d03\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"was trained on 1 of the 2 topics \(t1\)"):
        by_adapter("A tent of  kind 1", "a tent of kind 2", runs=(), pairs=tmp_path / "pairs.txt")


@pytest.mark.slow
def test_an_adapter_merged_into_its_base_judges_as_that_adapter(by_adapter, ask, files, tmp_path, tiny_base):
    by_adapter("a tent of kind 1", runs=(files["a.trec"],), allow_circular=True)
    merged = tmp_path / "innocent"
    export_merged(Store(tmp_path / "store").get("judge@1"), merged, base=tiny_base)
    with pytest.raises(UsageError, match=r"the judge base innocent was trained on 1 of the 3 topics \(t1\)"):
        ask("merged.txt", base=str(merged))
    write_run_card(files["a.trec"], RunCard("ours", "2026-07-01", lineage=("judge@4",)))
    done = ask("merged.txt", base=str(merged), store=tmp_path / "another store", allow_circular=True)
    assert done.circular == {str(files["a.trec"]): "the judge base innocent and the system share judge@1"}
    assert (done.card.judge_lineage, done.card.judge_queries) == (("base innocent", "judge@1"), None)
    (merged / "merged.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BaseModelError, match="does not say which adapter was merged"):
        ask("damaged.txt", base=str(merged))


def test_a_judge_with_unknown_training_queries_is_marked(by_adapter):
    assert by_adapter(parents=()).doubts[0] == "It is not known on which queries the judge judge@1 was trained."


# Kills and resuming


_PROGRAM = """
import os, signal, sys
from searchlora.eval.judgments import card
from searchlora.experiments.judge import command, merge

command.BATCH_SIZE = 32

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_after(function):
    return lambda *arguments: (function(*arguments), die())

folder, base, tasks, moment = sys.argv[1:]
if moment == "probabilities":
    merge.write_probabilities = die
elif moment == "card":
    card._written = die_after(card._written)
command.judge(f"{folder}/topics.jsonl", f"{folder}/corpus.jsonl", f"{folder}/killed.txt", base=base, task="fit",
              tasks=tasks, runs=[f"{folder}/a.trec", f"{folder}/b.trec"], depth=15, store=f"{folder}/store")
"""


@pytest.fixture
def judged(monkeypatch) -> list[int]:
    """The number of pairs of each batch that is judged, of 32 pairs."""
    monkeypatch.setattr(command, "BATCH_SIZE", 32)
    calls, grade = [], Judge.grade
    monkeypatch.setattr(Judge, "grade", lambda self, records: calls.append(len(records)) or grade(self, records))
    return calls


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bytes(ask, tasks, tmp_path, tiny_base, judged):
    write_collection(tmp_path, topics=8)  # 240 pairs
    folder = tmp_path / "killed.txt.partial"
    process = Script(_PROGRAM, tmp_path, tiny_base.path, tasks, "")
    try:
        deadline = time.monotonic() + 60
        while process.is_running() and time.monotonic() < deadline:
            if any(log.read_bytes().count(b"\n") > 1 for log in folder.glob("*.log")):  # the key, and a batch
                break
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    (grades,) = folder.glob("*.log")
    before = 32 * (grades.read_bytes().count(b"\n") - 1)
    assert 0 < before < 240, "killed too late to tell"
    assert not (tmp_path / "killed.txt").exists() and not (tmp_path / "killed.txt.card.json").exists()
    with grades.open("a", encoding="utf-8") as torn:  # as a kill in the middle of a write leaves it
        torn.write('{"rows": 32, "out": [{"gra')

    ask("killed.txt", depth=15)
    assert 0 < sum(judged) < 240 and sum(judged) >= 240 - before
    ask("whole.txt", depth=15)
    assert sum(judged) > 240
    for end in ("", ".probabilities.jsonl"):
        assert (tmp_path / f"killed.txt{end}").read_bytes() == (tmp_path / f"whole.txt{end}").read_bytes()
    assert read_card(tmp_path / "killed.txt").counts == {"llm": 240}
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["probabilities", "card"])
def test_a_kill_during_the_final_write_is_repaired_by_the_next_call(ask, tasks, tmp_path, tiny_base, judged, moment):
    """Nothing is judged twice, nothing stays behind, and the files are those of an uninterrupted run."""
    assert run_script(_PROGRAM, tmp_path, tiny_base.path, tasks, moment).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.txt").exists()
    assert (tmp_path / "killed.txt.partial").exists()

    done = ask("killed.txt", depth=15)
    assert judged == []
    whole = ask("whole.txt", depth=15)
    for end in ("", ".probabilities.jsonl"):
        assert (tmp_path / f"killed.txt{end}").read_bytes() == (tmp_path / f"whole.txt{end}").read_bytes()
    assert (done.grades, done.invalid, done.card.counts) == (whole.grades, whole.invalid, whole.card.counts)
    assert done.card == read_card(tmp_path / "killed.txt")
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".new-*"))


def test_corrected_pairs_are_judged_after_a_kill(ask, tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("t0 d03\nt1 d04\n", encoding="utf-8")
    ask(runs=(), pairs=file, sharding=Sharding(shard=Shard(1, 1)))  # what a kill before the merge leaves
    file.write_text("t1 d03\nt0 d04\n", encoding="utf-8")  # the same documents of other topics
    ask(runs=(), pairs=file)
    found = {topic: list(documents) for topic, documents in read_qrels(tmp_path / "qrels.txt").items()}
    assert found == {"t0": ["d04"], "t1": ["d03"]}


def test_runs_without_documents_are_refused(ask, tmp_path):
    empty = tmp_path / "empty.trec"
    empty.touch()
    with pytest.raises(DataError, match="the runs have no documents to judge"):
        ask(runs=[empty])


def test_a_shard_that_finds_the_table_reads_no_pairs(ask, tmp_path, monkeypatch):
    file = tmp_path / "pairs.txt"
    file.write_text("t0 d03\nt1 d04\n", encoding="utf-8")
    ask(runs=(), pairs=file, sharding=Sharding(shard=Shard(1, 2)))

    def fails(_):
        raise AssertionError

    monkeypatch.setattr(pairs, "iterate_pairs", fails)
    monkeypatch.setattr(pair_table, "read_documents", fails)
    ask(runs=(), pairs=file, sharding=Sharding(shard=Shard(2, 2)))


@pytest.mark.slow
def test_shards_in_processes_write_the_bytes_of_one(ask, tmp_path, monkeypatch):
    """With a store at a URL, which has locks and connections that no other process can get."""
    monkeypatch.setattr(sharding.multiprocessing, "get_context", lambda _: CONTEXT)  # which starts in milliseconds
    write_collection(tmp_path, topics=20)
    common = {"depth": 30, "store": "memory://judges/store"}
    assert sum(ask("one.txt", **common).grades.values()) == 600 > PART_ROWS
    ask("two.txt", **common, sharding=Sharding(shards=2))
    for end in ("", ".probabilities.jsonl"):
        assert (tmp_path / f"two.txt{end}").read_bytes() == (tmp_path / f"one.txt{end}").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_the_card_tells_another_map_of_columns(ask, files):
    """Another column is another text to grade."""
    corpora = [CorpusFile(files["corpus.jsonl"], {"text": columns}) for columns in (("title",), ("title", "text"))]
    cards = [ask(f"{n}.txt", corpus=corpus).card for n, corpus in enumerate([files["corpus.jsonl"], *corpora])]
    assert len({card.made_from["corpus"] for card in cards}) == 3


def test_the_card_names_the_model_that_a_service_used(ask):
    reply = Reply({**message("good").content, "usage": None, "model": "big-2026-08"})
    with answering(lambda _: reply) as server:
        found = ask(base=None, teacher="big", generate=True, engine=ServerSettings(url=server.url))
    assert (found.card.base, found.card.served, found.invalid) == ("big", ("big-2026-08",), 0)


ROWS = [{"id": "d1", "text": "one", "title": "One"}, {"id": "d2", "text": "two"}, {"id": "d3", "text": "three"}]


@pytest.fixture
def topics(tmp_path):
    return write_jsonl(tmp_path / "topics.jsonl", [{"id": "1", "query": "a query", "narrative": "more"}])


@pytest.fixture
def corpus(tmp_path):
    return write_jsonl(tmp_path / "corpus.jsonl", ROWS)


def test_pairs_come_from_runs_or_a_file_but_not_both(tmp_path):
    run, file = tmp_path / "run.trec", tmp_path / "pairs.txt"
    write_run(run, {"1": {"d1": 2.0, "d2": 1.0}}, "tag")
    file.write_text("1 d2\n1 d1\n", encoding="utf-8")
    assert list(pairs_to_judge([run], 1, None)["1"]) == ["d1"]
    assert set(pairs_to_judge([run], 2, None)["1"]) == {"d1", "d2"}
    assert list(pairs_to_judge([], 1, file)["1"]) == ["d2", "d1"]
    for runs, given in (([], None), ([run], file)):
        with pytest.raises(UsageError, match=r"a pool of runs or a file of pairs.*one of the two"):
            pairs_to_judge(runs, 1, given)


def test_texts_are_joined_from_topics_and_corpus(topics, corpus):
    first, second = load_texts({"1": ["d2", "d1"]}, topics, corpus)
    assert (first.query, first.document.text, first.document.title) == ("a query", "two", "")
    assert (second.topic_fields["narrative"], second.document.text, second.document.title) == ("more", "one", "One")


def test_missing_and_duplicate_entries_are_named(topics, corpus):
    with pytest.raises(DataError, match=r"2 documents of the pairs not found \(d8, d9\)") as caught:
        load_texts({"1": ["d1", "d8", "d9"]}, topics, corpus)
    assert caught.value.where == str(corpus)
    with pytest.raises(DataError, match=r"1 topic of the pairs not found \(2\)") as caught:
        load_texts({"1": ["d1"], "2": ["d1"]}, topics, corpus)
    assert caught.value.where == str(topics)
    write_jsonl(corpus, [*ROWS, ROWS[0]])
    with pytest.raises(DataError, match="document d1 is repeated"):
        load_texts({"1": ["d1"]}, topics, corpus)
