"""`improve`: rounds of sampling, rewarding, choosing and training; killed and resumed; figures and report."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import searchlora
from searchlora.adapters.ancestry import training_queries
from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.errors import PipelineError, RecipeError, TrainingError, UsageError
from searchlora.eval.judgments.lineage import query_hash
from searchlora.experiments.improve import command
from searchlora.experiments.improve.candidates import Rewarder, gather, sample
from searchlora.experiments.improve.command import improve
from searchlora.experiments.improve.job import retrieve_stage
from searchlora.experiments.improve.selection import Candidate, Row, choose, oddness
from searchlora.experiments.options import TrainingOptions
from searchlora.experiments.train import train
from searchlora.inference.engine import Completion
from searchlora.outputs import InvalidOutput
from searchlora.pipelines.index_build import build_index
from searchlora.progress import no_progress
from searchlora.recipe import Improve
from searchlora.records import Document, Hit
from searchlora.rewards import RewardContext
from searchlora.tasks.rewriting import task
from searchlora.testing import build_tiny_encoder
from tests.child_scripts import run_script
from tests.factories import edit_json, native_dataset, write_jsonl

#: Settings under which a tiny model learns one answer in seconds.
SHORT = (
    "optim.max_steps=30", "optim.batch_size=8", "optim.learning_rate=0.005", "optim.schedule=constant", "lora.r=4",
    "method=lora", "checkpoints.every_steps=10", "max_new_tokens=12", "improve.samples=4", "improve.rounds=2",
    "improve.validation_rows=6",
)  # fmt: skip


# The choice of a candidate


def row(*candidates: Candidate) -> Row:
    return Row("q", candidates)


def best(found: Row, settings: Improve) -> Candidate | None:
    (winner,) = choose([found], settings)
    return winner


@pytest.mark.slow
def test_the_mean_gain_of_a_kind_decides_between_noisy_rewards():
    drop, keep = Candidate("without: cheap", "tent", 1.0), Candidate("unchanged", "cheap tent", 0.5)
    lucky = Row("lucky", (keep, Candidate("sample: 1", "tents cheap", 1.1), drop))
    unlucky = Row("unlucky", (Candidate("unchanged", "cheap sofa", 1.0), Candidate("without: cheap", "sofa", 0.9)))
    rows = [lucky, unlucky, *(Row(str(n), (keep, drop, Candidate("sample: 1", "x", 0.0))) for n in range(8))]
    names = [each.name for each in choose(rows, Improve(kind_weight=1.0)) if each is not None]
    assert names[:2] == ["without: cheap", "unchanged"]  # the second loses by it
    even = Row("even", (Candidate("unchanged", "cheap lamp", 1.0), Candidate("without: cheap", "lamp", 1.0)))
    assert choose([even, *rows], Improve(kind_weight=1.0))[0] == even.candidates[1]
    assert choose([even, *rows], Improve())[0] == even.candidates[0]
    assert [each.name for each in choose(rows, Improve()) if each is not None][:2] == ["sample: 1", "unchanged"]


def test_the_highest_reward_wins_and_of_equal_ones_the_shortest():
    found = row(Candidate("rule", "a long tent", 2.0), Candidate("sample: 1", "tent", 2.0), Candidate("b", "x", 1.0))
    assert best(found, Improve()).text == "tent"


def test_an_unchanged_input_stays_unless_another_gains_more_than_min_gain():
    found = row(Candidate("unchanged", "a long tent", 1.5), Candidate("sample: 1", "tent", 1.5))
    assert best(found, Improve()).name == "unchanged"
    better = row(*found.candidates, Candidate("sample: 2", "tents", 1.75))
    assert best(better, Improve()).name == "sample: 2"
    assert best(better, Improve(min_gain=0.25)).name == "unchanged"


def test_each_change_must_gain_more_than_min_gain():
    one, two = Candidate("without: movie", "the tent", 1.0), Candidate("without: the, movie", "tent", 1.04)
    found = row(Candidate("unchanged", "the tent movie", 0.5), two, one)
    assert best(found, Improve()).name == two.name
    assert best(found, Improve(min_gain=0.05)).name == one.name
    better = row(*found.candidates, Candidate("without: tent", "the movie", 1.02))
    assert best(better, Improve(min_gain=0.05)).name == "without: tent"  # of as many changes the best


def test_an_invalid_candidate_and_one_without_a_protected_word_never_win():
    found = row(
        Candidate("sample: 1", "tent", 2.0, kept=False),
        Candidate("sample: 2", "t", 2.0, valid=False),
        Candidate("unchanged", "tent 500", 1.0, kept=False),
    )
    assert best(found, Improve()).name == "unchanged"


@pytest.mark.parametrize("reward", [None, -0.1, 0.0])
def test_a_row_without_a_reward_is_skipped(reward):
    assert best(row(Candidate("unchanged", "tent", reward)), Improve()) is None
    if reward == 0.0:
        assert best(row(Candidate("unchanged", "tent", reward)), Improve(min_reward=-0.1)) is not None


def test_oddness_counts_repeated_and_foreign_words():
    assert oddness("red tent", ["A red tent"]) == 0.0
    assert oddness("red red zebra tent", ["A red tent"]) == 0.5


# Gathering and rewarding


class Retriever:
    """Finds the document d for the query `tent`, nothing for others; counts the queries."""

    def __init__(self):
        self.searched: list[str] = []

    def search(self, queries, k):
        assert k == 100
        self.searched += queries
        return [[Hit("d", 1.0)] if query == "tent" else [] for query in queries]


def test_candidates_are_rules_samples_and_variants_each_once_and_rewarded_once():
    history = [{"role": "user", "text": "camping"}, {"role": "assistant", "text": "yes"}]
    record = {"id": "q", "group": "q", "query": "and which one?", "history": history}
    retriever = Retriever()
    rewarder = Rewarder(task, RewardContext([retriever.search], {"q": {"d": 1}}))
    samples = [("tent", "stop"), (" tent", "stop"), ("tent and", "length"), ("", "stop")]
    for _ in range(2):
        (found,) = gather(task, [record], [{"unchanged": "and which one?"}], [samples], rewarder)
    assert [(each.name, each.text, each.reward) for each in found.candidates] == [
        ("unchanged", "and which one?", 0.0),
        ("sample: 1", "tent", 2.0),
        ("first turn + rewrite: 1", "camping tent", 0.0),
    ]
    assert (found.sampled, found.valid_samples) == (4, 2)
    assert len(retriever.searched) == 3


def test_samples_of_an_interrupted_call_are_not_drawn_again(tmp_path):
    records = [{"id": name, "group": name, "query": f"{name} tent"} for name in "ab"]
    recipe = SimpleNamespace(improve=SimpleNamespace(samples=2, temperature=1.0, top_p=1.0), max_new_tokens=5)
    drawn = [[Completion(name, "stop", 1, 1), Completion("tent", "length", 1, 1)] for name in "ab"]
    engine = SimpleNamespace(call_size=1, generate_answers=lambda requests, _: drawn[: len(requests)])
    expected = [[("a", "stop"), ("tent", "length")], [("b", "stop"), ("tent", "length")]]
    assert sample(engine, task, records, None, recipe, "1", tmp_path / "samples.jsonl") == expected
    unasked = SimpleNamespace(call_size=1)
    assert sample(unasked, task, records, None, recipe, "1", tmp_path / "samples.jsonl") == expected
    assert sample(engine, task, records[1:], None, recipe, "1", tmp_path / "samples.jsonl") == expected[:1]


@pytest.mark.slow
def test_the_retriever_is_the_last_one_of_a_pipeline_and_encodes_queries_in_batches(tmp_path):
    encoder = build_tiny_encoder(tmp_path / "encoder")
    file = tmp_path / "p.yaml"
    fused = f"{{of: [{{bm25: {{}}}}, {{dense: {{model: {encoder}}}}}]}}"
    file.write_text(f"name: p\nstages:\n  - fuse: {fused}\n  - passages: {{k: 3}}\n", encoding="utf-8")
    documents = [Document("d1", "red tent"), Document("d2", "blue sofa")]
    stage, single = (retrieve_stage(file, documents, Store(tmp_path / "store"), query_batch_size=n) for n in (64, 1))
    assert stage.label.startswith("rrf(bm25,dense(encoder")
    queries = ["red tent", "sofa", "tents"]
    found, expected = stage.retriever.search(queries, 2), single.retriever.search(queries, 2)
    assert [[hit.document for hit in hits] for hits in found] == [[hit.document for hit in hits] for hits in expected]
    assert found[0][0].document == "d1"
    empty = tmp_path / "empty.yaml"
    empty.write_text("name: e\nstages:\n  - from_run: {k: 3}\n", encoding="utf-8")
    with pytest.raises(PipelineError, match="retrieves nothing"):
        retrieve_stage(empty, documents, Store(tmp_path / "store"))


# Whole runs


@pytest.mark.slow
def test_a_large_base_without_an_adapter_has_the_learning_rates_of_its_size(tiny_base, data, monkeypatch):
    def rate(parameters: int, *overrides: str) -> float:
        monkeypatch.setattr(command, "base_parameters", lambda _: parameters)
        options = TrainingOptions(overrides, tiny_base.name)
        job = command._job(None, data, options, "bm25", None, Store("store"), None, None, no_progress)
        return job.recipe.optim.learning_rate

    assert rate(10**8) > rate(10**9) == 5e-4
    assert rate(10**10) == 2e-4
    assert rate(10**10, "optim.learning_rate=0.003") == 0.003


def query(n: int) -> str:
    return f"red kicks kicks{chr(97 + n // 10)}{chr(97 + n % 10)}"


def dataset(folder: Path, *, reference: bool, settled: int = 0, unjudged: int = 0) -> Path:
    """Shoes are found by "red" alone; the first rows may need no rewrite (`settled`) or have no judgments."""
    rows = []
    for n in range(30):
        split = "train" if n < 20 else "validation" if n < 26 else "test"
        more: dict[str, Any] = {"rewrite": "red"} if reference else {}
        if n < settled:
            more = {"rewrite": query(n), "needs_rewrite": False}
        rows.append({"id": f"r{n}", "group": f"g{n}", "query": query(n), **more, "split": split})
    write_jsonl(folder / "rows.jsonl", rows)
    documents = [{"id": "shoe", "text": "red"}, *({"id": f"k{n}", "text": query(n)} for n in range(30))]
    write_jsonl(folder / "docs.jsonl", documents)
    (folder / "qrels.txt").write_text("".join(f"r{n} 0 shoe 1\n" for n in range(unjudged, 30)), encoding="utf-8")
    build(
        "rewriting", folder / "rows.jsonl", format="native" if reference else "queries", out=folder / "dataset",
        corpus=folder / "docs.jsonl", qrels=folder / "qrels.txt",
    )  # fmt: skip
    return folder / "dataset"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return dataset(tmp_path_factory.mktemp("referenced"), reference=True)


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    return dataset(tmp_path_factory.mktemp("judged"), reference=False)


@pytest.fixture(scope="session")
def options(tiny_base):
    """Short training from the bare base, with more settings."""

    def of(*overrides: str, **more: Any) -> TrainingOptions:
        return TrainingOptions(overrides=(*SHORT, f"base={tiny_base.name}", *overrides), **more)

    return of


@pytest.fixture(scope="module")
def improved(options, judged, tmp_path_factory):
    """An adapter learned from judgments alone, from the bare base."""
    store = Store(tmp_path_factory.mktemp("improved") / "store")
    return improve(None, judged, "r", options("improve.reward=MRR@10"), store=store), store


@pytest.mark.slow
def test_retrievers_search_an_index_folder_of_the_documents(tiny_base, judged, tmp_path):
    def searches(corpus: Path) -> Sequence[Any]:
        index = build_index(corpus, tmp_path / corpus.stem, pipelines=["bm25"]).folder
        options = TrainingOptions(base=tiny_base.name)
        job = command._job(None, judged, options, ["bm25", "bm25"], index, Store("store"), None, None, no_progress)
        return job._context.searches

    first, second = searches(judged / "corpus.jsonl")
    assert first(["red"], 1)[0][0].document == second(["red"], 1)[0][0].document == "shoe"
    (tmp_path / "few.jsonl").write_text('{"id": "k1", "text": "red"}\n', encoding="utf-8")
    with pytest.raises(UsageError, match="is not an index of"):
        searches(tmp_path / "few.jsonl")


@pytest.mark.slow
def test_an_adapter_learns_from_judgments_alone(improved, judged):
    stored, store = improved
    about = stored.manifest.training["improve"]
    first = about["rounds"][0]
    assert first["winners"]["kinds"] == {"without": 20} and first["candidates"]["valid"] is None  # nothing was sampled
    assert about["start"].keys() == {"fixed"} and about["start"]["fixed"]["unchanged"] < 0.1
    assert first["validation"]["reward"] > 0.9
    assert first["validation"]["invalid"] == 0.0 and first["winners"]["skipped"] == 0
    assert stored.manifest.metrics["validation reward"] == pytest.approx(1.0)
    assert stored.manifest.recipe["improve"]["reward"] == "MRR@10" and about["parent"] is None
    assert not (store.root / ".runs" / "r").exists()
    evaluated = searchlora.evaluate("r@1", judged, store=store)  # no record has a reference
    assert evaluated.comparison.values["MRR@10"]["r@1"].keys() == {f"r{n}" for n in range(26, 30)}


@pytest.mark.slow
def test_a_version_of_the_same_data_and_recipe_is_reused(improved, options, judged):
    _, store = improved
    same = options("improve.reward=MRR@10", reuse=True)
    assert improve(None, judged, "r", same, store=store, log=print).reference == "r@1"
    other = options("improve.rounds=1", "optim.max_steps=3", reuse=True)
    assert improve(None, judged, "r", other, store=store, log=print).reference == "r@2"
    store.remove("r@2")


@pytest.mark.slow
def test_the_second_round_samples_from_the_first_adapter_and_stops_without_gain(improved):
    stored, _ = improved
    rounds = stored.manifest.training["improve"]["rounds"]
    assert len(rounds) == 2 and rounds[1]["candidates"]["valid"] > 0
    assert stored.manifest.training["improve"]["chosen round"] == 1  # the second is no better


@pytest.mark.slow
def test_figures_plot_and_winners_are_stored_beside_the_weights(improved):
    stored, _ = improved
    figures = json.loads((stored.path / "improve.json").read_text(encoding="utf-8"))
    assert [each["round"] for each in figures["rounds"]] == [1, 2] and figures["seed"] == 13
    report = (stored.path / "improve.md").read_text(encoding="utf-8")
    assert re.search(r"^\| start \|(  \|){11}$", report, re.M)  # the bare base was not validated
    assert f"| {query(3)} | red | without |" in report


@pytest.mark.slow
def test_a_row_that_needs_no_rewrite_is_trained_on_whatever_its_reward(options, tmp_path):
    settings = options("improve.rounds=1", "optim.max_steps=2", "improve.min_reward=1")
    folder = dataset(tmp_path, reference=True, settled=5)
    stored = improve(None, folder, "r", settings, store=Store(tmp_path / "store"))
    (only,) = stored.manifest.training["improve"]["rounds"]
    assert only["winners"]["settled"] == 5 and only["winners"]["rows"] == only["candidates"]["rows"] == 15
    assert only["training"]["rows"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(("unjudged", "trained"), [("skip", 15), ("reference", 20)])
def test_rows_without_judgments_are_skipped_or_teach_their_reference(options, tmp_path, unjudged, trained):
    settings = options("improve.rounds=1", f"improve.unjudged={unjudged}")
    folder = dataset(tmp_path, reference=True, unjudged=5)
    stored = improve(None, folder, "r", settings, store=Store(tmp_path / "store"))
    (only,) = stored.manifest.training["improve"]["rounds"]
    winners = only["winners"]
    assert winners["rows"] == 15 and winners["skipped"] == winners["skipped: not judged"] == 20 - trained
    assert winners["references"] == trained - 15 and only["training"]["rows"] == trained


@pytest.mark.slow
def test_an_adapter_is_improved_further_from_its_own_weights(tiny_base, data, tmp_path):
    store = Store(tmp_path / "store")
    short = [each for each in SHORT if not each.startswith(("optim.max_steps", "improve."))]
    options = TrainingOptions(base=tiny_base.name, overrides=[*short, "optim.max_steps=2"])
    first = train("rewriting", data, "r", options, store=store)
    settings = ("improve.start=adapter", "improve.rounds=1", "improve.samples=2", "optim.max_steps=30")
    second = improve("r@1", data, "r", TrainingOptions(overrides=settings), store=store)
    assert second.reference == "r@2" and second.manifest.parents == ["r@1"]
    assert second.manifest.recipe["lora"]["r"] == 4  # of the parent
    about = second.manifest.training["improve"]
    assert about["rounds"][0]["validation"]["reward"] > about["start"]["reward"]
    assert about["start"]["fixed"].keys() == {"unchanged", "reference"} and "unchanged" in about["start"]
    assert about["rounds"][0]["winners"]["kinds"] == {"reference": 20}
    seen = [record for split in ("train", "validation") for record in load_dataset(data).records(split)]
    assert set(training_queries(store, "r@2")) == {query_hash(record["query"]) for record in seen}
    assert first.manifest.parents == []
    with pytest.raises(RecipeError, match="keeps its LoRA settings"):
        improve("r@1", data, "s", TrainingOptions(overrides=(*settings, "lora.r=8")), store=store)


@pytest.mark.slow
def test_an_adapter_that_saw_the_test_rows_is_refused(tiny_base, data, tmp_path):
    common = {"rewrite": "red", "split": "train"}
    rows = [{"id": f"s{n}", "group": f"g{n}", "query": query(n), **common} for n in range(30)]
    native_dataset("rewriting", tmp_path / "all", rows)
    store = Store(tmp_path / "store")
    train("rewriting", tmp_path / "all", "seen", TrainingOptions(base=tiny_base.name, overrides=SHORT), store=store)
    with pytest.raises(UsageError, match="trained on 4 of the 4 test rows"):
        improve("seen@1", data, "new", store=store)
    folder = store.get("seen@1").path
    (folder / "training_queries.txt").unlink()
    edit_json(folder / "searchlora.json", lambda manifest: manifest["files"].pop("training_queries.txt"))
    with (
        pytest.warns(UserWarning, match="unknown whether seen@1 was trained on test rows"),
        pytest.raises(PipelineError),
    ):
        improve("seen@1", data, "new", pipeline="no-such-pipeline", store=store)


@pytest.mark.slow
def test_rows_that_cannot_be_rewarded_are_an_error_and_nothing_is_stored(options, judged, tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(TrainingError, match="no training row has a candidate with a reward above 2"):
        improve(None, judged, "r", options("improve.min_reward=2"), store=store)
    assert store.versions("r") == ()
    with pytest.raises(UsageError, match="'recall' is not a measure"):
        improve(None, judged, "s", TrainingOptions(overrides=("improve.reward=recall",)), store=store)


@pytest.mark.slow
def test_a_judge_is_improved_by_its_agreement_and_the_base_may_sample(options, tmp_path):
    rows = [
        {"id": f"q{n} d{n}", "group": f"g{n}", "query": f"tent {n}", "passage": f"passage {n}", "grade": n % 4,
         "split": split}
        for n, split in enumerate(["train"] * 16 + ["validation"] * 4 + ["test"] * 4)
    ]  # fmt: skip
    data = native_dataset("judgment", tmp_path / "data", rows)
    sampling = ("improve.sample_base=true", "improve.samples=2", "improve.rounds=1")
    settings = options(*sampling, "optim.max_steps=3", "max_length=4000")
    stored = improve(None, data, "judge", settings, store=Store(tmp_path / "store"))
    (only,) = stored.manifest.training["improve"]["rounds"]
    assert only["candidates"]["valid"] is not None and only["winners"]["kinds"] == {"reference": 16}
    assert 0 <= only["validation"]["reward"] <= 1 and only["validation"]["invalid"] == 0
    assert stored.manifest.training["improve"]["retriever"] is None


@pytest.mark.slow
def test_a_classifier_is_improved_by_its_headline_measure(options, tmp_path):
    """It has no unchanged input to reward, and a round whose candidates are all known rewards nothing."""
    splits = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    rows = [
        {"id": f"q{n}", "group": f"g{n}", "query": f"tent {n}", "label": ("buy", "return")[n % 2], "split": split}
        for n, split in enumerate(splits)
    ]
    data = native_dataset("intent", tmp_path / "data", rows)
    rounds = ("improve.samples=0", "improve.rounds=2", "improve.patience=9")
    settings = options(*rounds, "optim.max_steps=3", "max_length=4000")
    stored = improve(None, data, "intents", settings, store=Store(tmp_path / "store"))
    about = stored.manifest.training["improve"]
    assert [each["winners"]["kinds"] for each in about["rounds"]] == [{"reference": 12}] * 2
    assert about["start"]["fixed"] == {"unchanged": None, "reference": 1.0}


CHILD = """
import os, signal, sys
from searchlora.experiments.improve import candidates, rounds
from searchlora.experiments.improve.command import improve
from searchlora.experiments.options import TrainingOptions

base, data, store, point = sys.argv[1:]

def die(*_args, **_kwargs):  # in the training process, which was forked from this one
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)

if point == "while sampling":
    append = candidates.AppendLog.append
    candidates.AppendLog.append = lambda log, row: (append(log, row), None if "records" in row else die())
elif point == "before training":
    rounds.train_adapter = die
elif point == "before the round is complete":
    write = rounds._write_json
    rounds._write_json = lambda file, values: die() if file.name == "round.json" else write(file, values)
improve(None, data, "r", TrainingOptions(OVERRIDES, base), store=store)
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["while sampling", "before training", "before the round is complete"])
def test_a_killed_run_continues_to_the_same_result(tiny_base, options, judged, tmp_path, improved, point):
    store, reward = Store(tmp_path / "store"), "improve.reward=MRR@10"
    done = run_script(CHILD.replace("OVERRIDES", repr((*SHORT, reward))), tiny_base.name, judged, store.root, point)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.raises(TrainingError, match="unfinished run"):
        improve(None, judged, "r", options(reward), store=store)
    stored = improve(None, judged, "r", options(reward, resume=True), store=store)

    def figures(each):
        about = each.manifest.training["improve"]
        return [(it["candidates"], it["winners"], it["validation"]) for it in about["rounds"]], about["start"]

    assert figures(stored) == figures(improved[0])
    assert stored.manifest.files["adapter_model.safetensors"] == improved[0].manifest.files["adapter_model.safetensors"]


@pytest.mark.slow
def test_the_command_says_what_each_round_brought(cli, tiny_base, judged, tmp_path):
    settings = [part for each in (*SHORT, f"base={tiny_base.name}") for part in ("--set", each)]
    called = cli(
        *("improve", "--data", judged, "--name", "shoes", "--reward", "nDCG@10", "--rounds", 1, *settings),
        *("--store", tmp_path / "store"),
    )
    assert called.code == 0, called.err
    assert "Round 1: validation reward 1.0000, 20 rows trained on, 0 skipped" in called.out
    assert "Stored shoes@1 (round 1)" in called.out and "improve.md" in called.out
    assert isinstance(task.parse("", {}), InvalidOutput)
