"""The experiment file, and the refusal of changed inputs."""

from __future__ import annotations

import json

import pytest

from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.experiments.experiment_inputs import changes, hashes, measured_by, refuse_changes
from searchlora.experiments.spec import Experiment, read_experiment
from searchlora.inference.settings import LocalSettings, ServerSettings

TEXT = """
name: shop
topics: topics.tsv
qrels: {path: qrels.jsonl, format: jsonl}
systems:
  bm25: {run: runs/bm25.trec}
  rewriter: {pipeline: rewrite_bm25, set: {adapter: shop-rewriter@2, judge: null, filter_by: {brand: Acme}}}
  own: {pipeline: own.yaml}
baseline: bm25
candidate: rewriter
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text(TEXT)
    return path


def test_paths_are_relative_to_the_folder_of_the_file(file, tmp_path):
    spec = read_experiment(file)
    assert spec.topics.path == tmp_path / "topics.tsv"
    assert (spec.qrels.path, spec.qrels.format) == (tmp_path / "qrels.jsonl", "jsonl")
    assert spec.systems["bm25"].run.path == tmp_path / "runs" / "bm25.trec"
    assert spec.systems["rewriter"].pipeline == "rewrite_bm25"
    assert spec.systems["rewriter"].set == {"adapter": "shop-rewriter@2", "judge": None, "filter_by": {"brand": "Acme"}}
    assert spec.systems["own"].pipeline == str(tmp_path / "own.yaml")


def test_a_policy_may_be_a_file_or_inline(file, tmp_path):
    (tmp_path / "policy.yaml").write_text("beat: {bm25: {margin: 0.01}}\n")
    file.write_text(TEXT + "policy: policy.yaml\n")
    assert read_experiment(file).policy.beat["bm25"].margin == 0.01
    file.write_text(TEXT + "policy: {max_invalid_rate: 0.1}\n")
    assert read_experiment(file).policy.max_invalid_rate == 0.1
    file.write_text(TEXT.replace("  own: {", "  base: {").replace("baseline: bm25", "policy: {beat: {base: {}}}"))
    assert read_experiment(file).policy.beat.keys() == {"base"}


def test_the_experiment_and_each_system_may_have_an_engine(file, monkeypatch):
    own = "{pipeline: own.yaml, engine: {quantization: nf4, max_num_seqs: 4}}"
    file.write_text(TEXT.replace("{pipeline: own.yaml}", own) + "engine: {url: 'http://a', concurrency: 9}\n")
    spec = read_experiment(file)
    assert spec.engine == ServerSettings(url="http://a", concurrency=9)
    assert spec.systems["own"].engine == LocalSettings(quantization="nf4", max_num_seqs=4)
    assert spec.systems["rewriter"].engine is None
    monkeypatch.delenv("SEARCHLORA_API_KEY_VARIABLES", raising=False)
    file.write_text(TEXT + "engine: {url: 'http://evil', api_key_env: AWS_SECRET_ACCESS_KEY}\n")
    with pytest.raises(PipelineError, match=r"experiment\.yaml: a file may not send the environment variable AWS"):
        read_experiment(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("baseline: bm25", "baseline: bm52"), "'bm52' is not one of the systems: bm25, rewriter, own"),
        (("baseline: bm25\ncandidate: rewriter", ""), "need a baseline or a candidate"),
        (("{run: runs/bm25.trec}", "{run: a.trec, adapter: b}"), "not run, adapter"),
        (("{run: runs/bm25.trec}", "{}"), "not none"),
        (("{run: runs/bm25.trec}", "{run: a.trec, set: {k: 1}}"), "set belongs to a pipeline"),
        (("{run: runs/bm25.trec}", "{run: a.trec, engine: {}}"), "engine belongs to a pipeline or an adapter"),
        (("name: shop", "name: shop\nengine: {kind: local, rows: 4}"), "'engine.local.rows'"),
        (("name: shop", "name: shop\nengine: {kind: other}"), "'engine'.*'other'.*'local', 'server'"),
        (("name: shop", "name: a b"), "'name'"),
        (("name: shop", "nmae: shop"), "'name'|'nmae'"),
        (("candidate: rewriter", "tested: [AP]"), "'AP' is tested but not measured"),
        (("candidate: rewriter", "policy: {}"), "needs a candidate"),
        (("baseline: bm25", "policy: {beat: {incumbent: {}}}"), "asks to beat 'incumbent', which is the baseline"),
        (("baseline: bm25", "policy: {}"), "asks to beat 'base', which is the baseline of an experiment"),
        (("  bm25: {", '  "": {run: a}\n  bm25: {'), "a name of 1 to 100 printable characters"),
        (("  bm25: {", '  "bell\\a": {run: a}\n  bm25: {'), "a name of 1 to 100 printable characters"),
        (("  bm25: {", f"  {'x' * 101}: {{run: a}}\n  bm25: {{"), "a name of 1 to 100 printable characters"),
        (("  bm25: {", "  a b: {pipeline: p}\n  a/b: {pipeline: q}\n  bm25: {"), "'a b' and 'a/b'.* same file name"),
        (("  bm25: {", "  Ab: {pipeline: p}\n  aB: {pipeline: q}\n  bm25: {"), "'Ab' and 'aB'.* same file name"),
    ],
)
def test_an_invalid_file_names_its_key(file, change, message):
    file.write_text(TEXT.replace(*change))
    with pytest.raises(UsageError, match=message):
        read_experiment(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_experiment(file.with_name("none.yaml"))


@pytest.fixture
def made(tmp_path):
    for name in ("topics.tsv", "qrels.txt", "a.trec", "b.trec"):
        (tmp_path / name).write_text(name)
    places = {"topics": tmp_path / "topics.tsv", "qrels": tmp_path / "qrels.txt"}
    systems = {name: {"run": tmp_path / f"{name}.trec"} for name in "ab"}
    spec = Experiment(name="x", **places, systems=systems, baseline="a")
    result = tmp_path / "experiment.json"
    result.write_text(json.dumps({"inputs": hashes(spec), "measured": measured_by(spec)}))
    return spec, result


def test_identical_inputs_are_not_a_change(made):
    spec, result = made
    refuse_changes(changes(spec, hashes(spec), result), result)


@pytest.mark.parametrize(
    ("file", "refused"), [("topics.tsv", True), ("qrels.txt", True), ("a.trec", True), ("b.trec", False)]
)
def test_changed_inputs_are_refused(made, tmp_path, file, refused):
    spec, result = made
    (tmp_path / file).write_text("changed")
    found = changes(spec, hashes(spec), result)
    assert bool(found) is refused
    if refused:
        with pytest.raises(DataError, match=r"was [0-9a-f]{12}, is [0-9a-f]{12}.*--accept-changes"):
            refuse_changes(found, result)


def test_changed_measurement_settings_are_a_change(made):
    spec, result = made
    other = spec.model_copy(update={"relevant": 2})
    assert changes(other, hashes(other), result) == ("'relevant' was 1, is 2",)


def test_a_file_that_is_not_a_result_is_refused(made, tmp_path):
    spec, _ = made
    with pytest.raises(DataError, match="not the result of an experiment"):
        changes(spec, hashes(spec), tmp_path / "topics.tsv")


def test_a_missing_input_is_named(made, tmp_path):
    spec, _ = made
    (tmp_path / "b.trec").unlink()
    with pytest.raises(DataError, match=r"b\.trec"):
        hashes(spec)
