"""An experiment from file to files: runs, pipelines and an adapter over the same topics."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from searchlora.adapters.ancestry import write_training_queries
from searchlora.adapters.operations import store_adapter
from searchlora.adapters.store import Store
from searchlora.errors import DataError, UsageError
from searchlora.eval.formats import read_qrels
from searchlora.eval.judgments.card import JudgmentsCard, RunCard, write_card, write_run_card
from searchlora.eval.trec import read_run, write_qrels, write_run
from searchlora.experiments.experiment import experiment
from searchlora.experiments.reports import write_experiment
from searchlora.task import load_generation_task
from tests.factories import random_adapter, random_adapter_folder, read_jsonl, write_jsonl
from tests.inference.http_server import Reply, answering

WORDS = ["tent", "shoes", "lamp", "stove", "rope", "bottle", "jacket", "gloves", "map", "knife"]
COLOURS = ["red", "green", "blue", "black"]
TOPICS = 40


@pytest.fixture
def folder(tmp_path):
    """Products of a colour and a kind; a topic asks for both. BM25 finds them, the other run is BM25 with a fault."""
    rng = random.Random(5)
    documents, topics, qrels, faulty = [], [], {}, {}
    for number in range(200):
        words = [rng.choice(COLOURS), rng.choice(WORDS), *rng.choices(WORDS, k=rng.randint(0, 3))]
        documents.append({"id": f"d{number}", "title": " ".join(words[:2]), "text": " ".join(words[2:])})
    for number in range(TOPICS):
        colour, word = COLOURS[number % 4], WORDS[number % 10]
        topic = f"q{number}"
        topics.append({"id": topic, "query": f"{colour} {word}", "colour": colour})
        of_kind = [each for each in documents if word in each["title"].split()]
        qrels[topic] = {each["id"]: 2 if each["title"] == f"{colour} {word}" else 1 for each in of_kind}
        faulty[topic] = {document: rng.random() for document in list(qrels[topic])[: 3 if number else 0]}
    write_jsonl(tmp_path / "corpus.jsonl", documents)
    write_jsonl(tmp_path / "topics.jsonl", topics)
    write_qrels(tmp_path / "qrels.txt", qrels)
    write_run(tmp_path / "faulty.trec", faulty, "faulty")
    (tmp_path / "plain.yaml").write_text("name: plain\nstages:\n- bm25: {k: 20}\n")
    return tmp_path


#: The judgments, which people gave; a policy asks who graded.
HUMAN = {"path": "qrels.txt", "source": "human"}


def write_spec(folder: Path, **changes: object) -> Path:
    spec = {
        "name": "shop",
        "topics": "topics.jsonl",
        "qrels": "qrels.txt",
        "corpus": "corpus.jsonl",
        "systems": {"faulty": {"run": "faulty.trec"}, "bm25": {"pipeline": "plain.yaml"}},
        "baseline": "faulty",
        "candidate": "bm25",
        "measures": ["nDCG@10", "MRR@10", "P@5"],
        "slices": ["colour"],
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in spec.items() if value is not None}))
    return path


@pytest.mark.slow
def test_all_files_are_written_with_their_inputs(folder):
    out = folder / "out"
    report = write_experiment(experiment(write_spec(folder), out), out)
    result = json.loads((out / "experiment.json").read_text())
    assert result["inputs"].keys() == {"topics", "qrels", "corpus", "run of faulty", "system bm25"}
    assert result["measured"]["measures"] == ["nDCG@10", "MRR@10", "P@5"]
    assert result["costs"]["bm25"]["ms per query"] > 0
    page = report.read_text()
    assert all(digest in page for digest in result["inputs"].values())
    assert "| faulty |" in (out / "experiment.md").read_text()
    per_query = read_jsonl(out / "per_query.jsonl")
    assert {(row["system"], row["measure"]) for row in per_query} >= {("bm25", "nDCG@10"), ("faulty", "P@5")}


@pytest.mark.slow
def test_the_columns_of_a_corpus_are_mapped_and_another_map_is_another_corpus(folder):
    rows = read_jsonl(folder / "corpus.jsonl")
    renamed = [{"sku": row["id"], "name": row["title"], "note": row["text"]} for row in rows]
    write_jsonl(folder / "products.jsonl", renamed)
    plain = experiment(write_spec(folder), folder / "plain")
    columns = {"id": "sku", "title": "name", "text": "note"}
    spec = write_spec(folder, corpus={"file": "products.jsonl", "map": columns})
    mapped = experiment(spec, folder / "out")
    assert mapped.comparison.rows == plain.comparison.rows
    write_experiment(mapped, folder / "out")
    page = (folder / "out" / "report.html").read_text()
    assert any(row["title"] in page for row in rows)
    spec = write_spec(folder, corpus={"file": "products.jsonl", "map": {"id": "sku", "text": "name"}})
    with pytest.raises(DataError, match=r"corpus was \w{12}, is \w{12}"):
        experiment(spec, folder / "out")
    unmapped = write_spec(folder, corpus="products.jsonl")
    with pytest.raises(DataError, match=r"field 'id' is missing.*map: \{id: COLUMN\}"):
        experiment(unmapped, folder / "other")


@pytest.mark.slow
def test_runs_are_reused_unless_the_corpus_changed(folder):
    spec, out = write_spec(folder), folder / "out"
    first = experiment(spec, out)
    write_experiment(first, out)
    again = experiment(spec, out)
    assert ("bm25" in again.reused, "bm25" in first.reused) == (True, False)
    assert again.comparison.rows == first.comparison.rows
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('\n{"id": "new", "title": "red tent", "text": "red tent"}\n')
    with pytest.raises(DataError, match=r"corpus was \w{12}, is \w{12}.*--accept-changes"):
        experiment(spec, out)
    accepted = experiment(spec, out, accept_changes=True)
    assert "bm25" not in accepted.reused
    assert accepted.accepted[0].startswith("corpus was")
    assert "new" in read_run(out / "runs" / "bm25.trec")["q0"]


@pytest.mark.slow
def test_a_changed_baseline_pipeline_or_missing_card_counts_as_a_change(folder):
    out = folder / "out"
    write_card(folder / "qrels.txt", JudgmentsCard("llm", "2026-01-01", judge="judge@1"))
    spec = write_spec(folder, baseline="bm25", candidate="faulty")
    write_experiment(experiment(spec, out), out)
    (folder / "plain.yaml").write_text("name: plain\nstages:\n- bm25: {k: 1}\n")
    with pytest.raises(DataError, match="system bm25 was"):
        experiment(spec, out)
    (folder / "qrels.txt.card.json").unlink()
    with pytest.raises(DataError, match=r"card of the qrels was \w{12}, is absent"):
        experiment(spec, out)


def test_judged_topics_missing_from_the_topics_are_reported_and_unknown_scale_and_source(folder):
    write_jsonl(folder / "topics.jsonl", read_jsonl(folder / "topics.jsonl")[:-2])
    notes = " ".join(experiment(write_spec(folder), folder / "out").comparison.notes)
    for part in ("2 judged topics (q38, q39)", "No scale is given", "qrels.txt has no card"):
        assert part in notes
    write_card(folder / "qrels.txt", JudgmentsCard("human", "2026-01-01"))
    assert not [note for note in experiment(write_spec(folder), folder / "b").comparison.notes if "card" in note]


@pytest.mark.slow
def test_an_existing_run_has_unknown_invalid_rate_and_training_queries(folder):
    policy = {"beat": {}, "max_invalid_rate": 0.0}
    with pytest.raises(UsageError, match="system faulty: the policy bounds the invalid rate"):
        experiment(write_spec(folder, baseline="bm25", candidate="faulty", policy=policy), folder / "out")
    found = experiment(write_spec(folder, baseline="bm25", candidate="faulty", policy={"beat": {}}), folder / "out")
    assert "not checked" in next(result.finding for result in found.results if result.rule == "held out")


@pytest.mark.slow
def test_invalid_outputs_and_training_queries_break_the_policy(folder, tiny_base):
    """An adapter of random weights that was trained on two of the queries: it never comes to an end."""
    store = Store(folder / "store")
    made, recipe = random_adapter_folder(tiny_base, folder / "made", 1)
    learnt = [write_training_queries(folder, ["red tent", "GREEN  shoes"])]
    task = load_generation_task("rewriting")
    store_adapter(store, "rewriter", made, task=task, recipe=recipe, base=tiny_base, extra_files=learnt)
    systems = {"faulty": {"run": "faulty.trec"}, "rewriter": {"adapter": "rewriter"}}
    policy = {"beat": {}, "max_invalid_rate": 0.1}
    spec = write_spec(folder, systems=systems, candidate="rewriter", qrels=HUMAN, policy=policy)
    for reused in (False, True):
        found = experiment(spec, folder / "out", store=store)
        assert ("rewriter" in found.reused) is reused
        broken = {result.rule: result.short_by for result in found.results if not result.passed}
        assert broken.keys() == {"invalid rate", "held out"}
        assert broken["invalid rate"] > 0.5
        assert broken["held out"] == 4  # each of the two is asked twice
    assert len(found.comparison.invalid["rewriter"]) > TOPICS / 2


@pytest.mark.slow
def test_a_stage_that_was_skipped_counts_as_invalid(folder, tiny_base):
    store, judgment = Store(folder / "store"), load_generation_task("judgment")
    task = judgment.bound(judgment.settings_of({"grades": "2"}, ()))
    random_adapter(store, "judge", task, tiny_base, folder / "made", seed=1)
    skipped = "{adapter: {name: judge, on_failure: skip}}"  # no stage before it has fetched passages
    (folder / "skips.yaml").write_text(f"name: skips\nstages: [{skipped}, {{bm25: {{k: 20}}}}]\n")
    systems = {"faulty": {"run": "faulty.trec"}, "skips": {"pipeline": "skips.yaml"}}
    for _ in range(2):  # the reason may be gone by now, so the run is computed again
        found = experiment(write_spec(folder, systems=systems, candidate="skips"), folder / "out", store=store)
        invalid = found.comparison.invalid["skips"]
        assert len(invalid) == TOPICS and "judge@1 was skipped: " in invalid["q0"]
        assert "skips" not in found.reused


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["{http: %s}", "{fuse: {of: [{http: %s}, {bm25: {}}]}}"])
def test_a_run_of_an_engine_behind_http_is_computed_again(folder, stage):
    content = ["d1"]

    def answer(_):
        return Reply({"hits": {"hits": [{"_id": each, "_score": 1.0, "_source": {}} for each in content]}})

    with answering(answer) as server:
        url = f"{{url: '{server.url}/products/_search', engine: opensearch}}"
        (folder / "engine.yaml").write_text(f"name: engine\nstages: [{stage % url}]\n")
        systems = {"faulty": {"run": "faulty.trec"}, "engine": {"pipeline": "engine.yaml"}}
        spec, out = write_spec(folder, systems=systems, candidate="engine"), folder / "out"
        experiment(spec, out)
        content.append("added")
        assert "engine" not in experiment(spec, out).reused
    assert "added" in read_run(out / "runs" / "engine.trec")["q1"]


@pytest.mark.slow
def test_an_earlier_result_can_be_given(folder):
    write_experiment(experiment(write_spec(folder), folder / "then"), folder / "then")
    write_qrels(folder / "qrels.txt", {"q1": {"d1": 1}})
    with pytest.raises(DataError, match="qrels was"):
        experiment(write_spec(folder), folder / "now", since=folder / "then" / "experiment.json")


@pytest.mark.slow
def test_the_exit_code_follows_the_policy(folder, cli):
    spec = write_spec(folder, qrels=HUMAN, policy={"beat": {"faulty": {"margin": 0.01}}, "slices": {"colour": {}}})
    files = {"--junit": folder / "junit.xml", "--summary": folder / "summary.md"}
    options = ["--out", folder / "out", *(part for pair in files.items() for part in pair)]
    called = cli("experiment", spec, *options)
    assert called.code == 0, called.err
    assert 'tests="' in files["--junit"].read_text()
    assert files["--summary"].read_text().startswith("### shop: passes")
    spec = write_spec(folder, qrels=HUMAN, policy={"beat": {"faulty": {"margin": 0.9}}})
    called = cli("experiment", spec, *options)
    assert called.code == 1
    assert "Refused: 1 of" in called.err
    assert 'failures="1"' in files["--junit"].read_text()


@pytest.mark.slow
def test_a_circular_judge_is_refused_or_marked(folder):
    card = JudgmentsCard("llm", "2026-01-01", judge="judge@1", judge_lineage=("judge@1", "old@2"))
    write_card(folder / "qrels.txt", card)
    write_run_card(folder / "faulty.trec", RunCard("faulty", "2026-01-01", ("old@3",), ("old@3",)))
    spec, out = write_spec(folder), folder / "out"
    with pytest.raises(UsageError, match=r"system faulty.*the judge judge@1 and the system share old@2"):
        experiment(spec, out)
    found = experiment(spec, out, allow_circular=True)
    assert found.comparison.circular.keys() == {"faulty"}
    assert found.topics.graded.source == "llm"
    report = write_experiment(found, out)
    for file in (report, out / "experiment.md"):
        assert "faulty (circular)" in file.read_text()
    assert json.loads((out / "experiment.json").read_text())["judgments"] == "llm"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"corpus": None}, UsageError, "Give a file as 'corpus'"),
        ({"slices": ["size"]}, UsageError, "size"),
        ({"measures": ["nDCG@ten"]}, UsageError, "nDCG@ten"),
        ({"qrels": {"path": "qrels.txt", "format": "xml"}}, UsageError, "xml"),
    ],
)
def test_impossible_experiments_are_errors(folder, changes, error, message):
    with pytest.raises(error, match=message):
        experiment(write_spec(folder, **changes), folder / "out")


@pytest.mark.slow
def test_relevance_starts_at_the_given_grade(folder):
    spec = write_spec(folder, relevant=2, tested=["MRR@10"])
    comparison = experiment(spec, folder / "out").comparison
    assert comparison.measures[:3] == ("nDCG@10", "MRR(rel=2)@10", "P(rel=2)@5")
    assert {pair.measure for pair in comparison.comparisons} == {"MRR(rel=2)@10"}
    plain = experiment(write_spec(folder), folder / "plain").comparison
    assert comparison.row("faulty", "P(rel=2)@5").value < plain.row("faulty", "P@5").value


def test_topics_with_other_ids_are_an_error(folder):
    (folder / "topics.jsonl").write_text('{"id": "x1", "query": "red tent"}\n')
    with pytest.raises(DataError, match="none of the judged topics is among the topics"):
        experiment(write_spec(folder, slices=[], weight=None), folder / "out")


@pytest.mark.slow
def test_a_label_outside_the_scale_counts_as_unjudged(folder):
    """An LLM's "10" on a scale up to 2 counts as unjudged and is reported (law 2)."""
    qrels = {topic: dict(row) for topic, row in read_qrels(folder / "qrels.txt").items()}
    spec = write_spec(folder, scale=[0, 1, 2])
    found = read_run(folder / "faulty.trec")["q1"]
    first, alone = max(found, key=found.__getitem__), "q2"
    odd = {"q1": {**qrels["q1"], first: 10}, alone: dict.fromkeys(qrels[alone], 7)}
    write_qrels(folder / "qrels.txt", {**qrels, **odd})
    bad = experiment(spec, folder / "bad")
    (note,) = [note for note in bad.comparison.notes if "scale" in note]
    assert note.startswith(f"{1 + len(qrels[alone])} of {sum(map(len, qrels.values()))} labels (7, 10) are not on")
    del qrels["q1"][first], qrels[alone]
    write_qrels(folder / "qrels.txt", qrels)
    clean = experiment(spec, folder / "clean")
    bad_rows, clean_rows = (
        [(row.system, row.measure, row.value) for row in each.comparison.rows if "ms" not in row.measure]
        for each in (bad, clean)
    )
    assert bad_rows == clean_rows
    assert not [note for note in clean.comparison.notes if "scale" in note]
    with pytest.raises(DataError, match=r"none of the \d+ labels is on the scale 8, 9.*Its labels are 1, 2;"):
        experiment(write_spec(folder, scale=[8, 9]), folder / "none")


@pytest.mark.slow
def test_judgments_are_of_people_only_where_it_is_declared(folder):
    policy = {"beat": {}, "judgments": ["human"]}
    found = experiment(write_spec(folder, policy=policy), folder / "out")
    assert found.topics.graded.source == "unknown"
    assert [each.rule for each in found.results if not each.passed] == ["source of judgments"]
    assert not experiment(write_spec(folder, policy=policy, qrels=HUMAN), folder / "out").refused
    write_card(folder / "qrels.txt", JudgmentsCard("llm", "2026-01-01", judge="judge@1"))
    with pytest.raises(UsageError, match="its card says that the judgments are 'llm', not 'human'"):
        experiment(write_spec(folder, policy=policy, qrels=HUMAN), folder / "out", accept_changes=True)
    found = experiment(write_spec(folder, policy=policy), folder / "out", accept_changes=True)
    assert found.topics.graded.source == "llm" and found.refused
