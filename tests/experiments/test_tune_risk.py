"""`tune --risk`, and what a stage does with outputs below the confidence that it fits."""

from __future__ import annotations

import json

import pytest

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.data.dataset import load_dataset
from searchlora.experiments.tune import tune_risk
from searchlora.files.yaml_text import parse_yaml
from searchlora.outputs import Undecided
from searchlora.pipelines.pipeline import Pipeline
from searchlora.pipelines.results import result
from searchlora.records import Document
from searchlora.task import load_generation_task
from tests.factories import random_adapter

CORPUS = [Document("d1", "red tent"), Document("d2", "blue sofa")]
QUERIES = [
    f"{colour} {thing} {number}" for colour in ("red", "blue") for thing in ("tent", "sofa") for number in range(40)
]


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory):
    """A store with two intent adapters of random weights over two labels, and a dataset with arbitrary labels."""
    folder = tmp_path_factory.mktemp("risk")
    rows = [{"text": query, "label": ("buy", "return")[number % 2]} for number, query in enumerate(QUERIES)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build("intent", folder / "rows.jsonl", format="csv", out=folder / "data", split_ratios=(0.05, 0.9, 0.05))
    store, task = Store(folder / "store"), load_generation_task("intent")
    bound = task.bound({"kind": "label", "labels": ["buy", "return"], "out_of_scope": None})
    for seed, name in enumerate(("small", "large")):
        random_adapter(store, name, bound, tiny_base, folder / name, seed=seed)
    return store, folder


def written(folder, stages):
    path = folder / "intents.yaml"
    path.write_text(
        "name: intents\nstages:\n" + "".join(f"  - adapter: {stage}\n" for stage in stages) + "  - bm25: {k: 2}\n"
    )
    return path


def run(store, path):
    pipeline = Pipeline.load(path, corpus=CORPUS, store=store)
    return pipeline.execute([{"id": str(number), "query": query} for number, query in enumerate(QUERIES)])


@pytest.mark.slow
def test_a_risk_is_fitted_and_written_with_its_origin(made, cli, refused, tmp_path):
    store, folder = made
    path = written(tmp_path, ["{name: small}"])
    common = ["tune", path, "--data", folder / "data", "--store", store.root]
    called = cli(*common, "--risk", "0.75", "--out", tmp_path / "tuned.yaml")
    assert called.code == 0, called.err
    assert "100.0% of 143 validation rows are decided" in called.out
    assert "at most 75.0%, with 90% certainty." in called.out
    stage = parse_yaml((tmp_path / "tuned.yaml").read_bytes())["stages"][0]["adapter"]
    assert stage.keys() == {"name", "min_confidence"}
    assert stage["name"] == "small@1"
    first_line = (tmp_path / "tuned.yaml").read_text().splitlines()[0]
    assert '"split": "validation"' in first_line
    assert '"risk": 0.75' in first_line
    assert "no threshold keeps the error at 0.01" in refused(*common, "--risk", "0.01", "--out", tmp_path / "no.yaml")
    assert not (tmp_path / "no.yaml").exists()
    assert "--risk needs --data" in refused(
        "tune", path, "--risk", "0.1", "--topics", "t", "--qrels", "q", "--out", "o"
    )


@pytest.mark.slow
def test_the_error_of_a_judge_is_that_of_its_grades(tiny_base, tmp_path):
    rows = [
        {"id": f"q{n} d", "group": f"g{n}", "split": "validation", "query": f"tent {n}", "passage": "p", "grade": n % 2}
        for n in range(60)
    ]
    trained = {**rows[0], "id": "q d", "group": "g", "query": "a sofa", "split": "train"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, trained]))
    build("judgment", tmp_path / "rows.jsonl", format="native", out=tmp_path / "data", options={"grades": "2"})
    store, task = Store(tmp_path / "store"), load_generation_task("judgment")
    random_adapter(
        store, "judge", task.bound(load_dataset(tmp_path / "data").settings), tiny_base, tmp_path / "a", seed=1
    )
    path = tmp_path / "judge.yaml"
    path.write_text("name: judge\nstages:\n  - bm25: {k: 2}\n  - adapter: {name: judge}\n")
    _, chosen = tune_risk(path, tmp_path / "data", tmp_path / "out.yaml", 0.99, store=store)
    stage = Pipeline.load(path, corpus=CORPUS, store=store).stages[-1]
    wrong = [output.value != row["grade"] for output, row in zip(stage.ask(rows), rows, strict=True)]
    assert (chosen.coverage, chosen.n) == (1.0, 60)
    assert chosen.error == pytest.approx(sum(wrong) / 60)


@pytest.mark.slow
def test_outputs_below_the_confidence_are_not_used_and_counted(made, tmp_path):
    store, _ = made
    sure = {search["id"]: search["outputs"]["intent"][0] for search in run(store, written(tmp_path, ["{name: small}"]))}
    limit = sorted(max(output.probabilities) for output in sure.values())[len(sure) // 2]
    stage = f"{{name: small, min_confidence: {limit}}}"
    for search in run(store, written(tmp_path, [stage])):
        (output,) = search["outputs"]["intent"]
        known = sure[search["id"]]
        if max(known.probabilities) >= limit:
            assert output == known
            assert search["intent"] == known
        else:
            assert isinstance(output, Undecided)
            assert output.output == known
            assert "intent" not in search
            (reason,) = result({"id": "", "query": ""}, search, [])["invalid"]["intent"]
            assert reason.startswith("undecided: the confidence ")


@pytest.mark.slow
def test_a_second_adapter_answers_only_what_the_first_left_undecided(made, tmp_path):
    store, _ = made
    small, large = (
        [search["outputs"]["intent"][0] for search in run(store, written(tmp_path, [f"{{name: {name}}}"]))]
        for name in ("small", "large")
    )
    limit = sorted(max(output.probabilities) for output in small)[len(small) // 2]
    both = [f"{{name: small, min_confidence: {limit}}}", "{name: large, only_undecided: true}"]
    decided_by = []
    for search, first, second in zip(run(store, written(tmp_path, both)), small, large, strict=True):
        (output,) = search["outputs"]["intent"]
        alone = max(first.probabilities) >= limit
        assert output.value == (first if alone else second).value
        assert search["intent"] == output
        assert "invalid" not in result({"id": "", "query": ""}, search, [])
        decided_by.append(alone)
    assert 0 < sum(decided_by) < len(decided_by)
