"""Pipeline files: parsing, and errors that name file, stage and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchlora.errors import PipelineError
from searchlora.pipelines.config import read_pipeline, read_pipelines, ready_pipelines
from searchlora.pipelines.stages.adapter import AdapterSettings
from searchlora.pipelines.stages.bm25 import Bm25Settings
from searchlora.pipelines.stages.dense import DenseSettings
from searchlora.pipelines.stages.fuse import FuseSettings
from searchlora.pipelines.stages.stage import needs_of
from searchlora.pipelines.stages.titles import TitlesSettings


def written(folder: Path, stages: str, parameters: str = "") -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\n{parameters}\nstages:\n{stages}", encoding="utf-8")
    return path


def test_every_built_in_pipeline_is_valid():
    names = """answers answers_judged bm25 conversational_search dense faq_answers hybrid movie_search product_search
        rerank rerank_run rewrite_bm25 rewrite_hybrid shop_search"""
    assert ready_pipelines() == names.split()
    for name in ready_pipelines():
        assert read_pipeline(name).name == name


def test_a_built_in_pipeline_accepts_its_parameters():
    adapter, bm25 = read_pipeline("rewrite_bm25", ["adapter=mine@production"]).stages
    assert adapter == AdapterSettings(name="mine@production")
    assert bm25 == Bm25Settings()
    adapter, fused = read_pipeline("rewrite_hybrid", ["adapter=mine", "encoder=org/encoder"]).stages
    assert adapter.name == "mine"
    assert fused == FuseSettings(of=(Bm25Settings(), DenseSettings(model="org/encoder")))


@pytest.mark.parametrize("name", ["product_search", "movie_search", "faq_answers", "conversational_search"])
def test_a_slot_without_an_adapter_is_left_out_and_a_named_one_is_there(name):
    empty = read_pipeline(name)
    assert not [stage for stage in empty.stages if isinstance(stage, AdapterSettings)]
    (fused,) = [stage for stage in empty.stages if isinstance(stage, FuseSettings)]
    assert fused.of[1].adapter is None
    slots = [key for key, value in empty.parameters.items() if value is None and key not in ("quotes", "titles")]
    assert len(slots) >= 3
    for slot in slots:
        found = read_pipeline(name, [f"{slot}=mine@2"]).stages
        assert needs_of(found).adapters == ("mine@2",)
        assert len(found) == len(empty.stages) + (slot != "embedder")
    full = read_pipeline(name, [f"{slot}={slot}@1" for slot in slots])
    assert len(needs_of(full.stages).adapters) == len(slots)
    assert read_pipeline(name, [f"{slot}=null" for slot in slots]).stages == empty.stages
    if "titles" in empty.parameters:
        first, *others = read_pipeline(name, ["titles=7"]).stages
        assert first == TitlesSettings(k=7) and others == empty.stages
    if "quotes" in empty.parameters:
        *_, quoting = read_pipeline(name, ["quotes=data/answers"]).stages
        assert quoting.needs().datasets == ("data/answers",)


def test_a_literal_null_leaves_a_stage_out_and_a_pipeline_of_empty_slots_is_refused(tmp_path):
    assert read_pipeline(written(tmp_path, "  - adapter: {name: null}\n  - bm25: {}\n")).stages == [Bm25Settings()]
    with pytest.raises(PipelineError, match=r"mine\.yaml: no stage is left.*Fill a slot with --set"):
        read_pipeline(written(tmp_path, "  - adapter: {name: $judge}\n", "parameters: {judge: null}"))
    with pytest.raises(PipelineError, match="stage 1: 'name': field required"):
        read_pipeline(written(tmp_path, "  - adapter: {}\n"))
    with pytest.raises(PipelineError, match=r"stage 1: 'name' refers to the parameter '\$judge'"):
        read_pipeline(written(tmp_path, "  - adapter: {name: $judge}\n"))


def test_fuse_stages_can_be_nested(tmp_path):
    stages = """
  - fuse:
      method: combmnz
      k: 20
      weights: [2, 0.5]
      of:
        - bm25: {k: 50, shortest: 1, stopwords: null}
        - fuse: {rrf_k: 10, of: [{bm25: {k1: $k1}}, {dense: {model: m, query_prefix: "query: "}}]}
"""
    (found,) = read_pipeline(written(tmp_path, stages, "parameters: {k1: 1.2}"), ["k1=2"]).stages
    inner = FuseSettings(rrf_k=10, of=(Bm25Settings(k1=2), DenseSettings(model="m", query_prefix="query: ")))
    first = Bm25Settings(k=50, shortest=1, stopwords=None)
    assert found == FuseSettings(method="combmnz", k=20, weights=(2, 0.5), of=(first, inner))
    assert found.model_dump()["of"][1]["of"][1]["model"] == "m"


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("bm25: {k: 0}", r"mine\.yaml, stage 2: 'k': .*greater than or equal to 1"),
        ("bm25: {colour: red}", r"stage 2: 'colour'.*Known keys: b, budget_s, fields, filter_by, k, k1"),
        ("dense: {k: 3}", r"stage 2: 'model': field required"),
        ("dense: {model: m, hnsw_m: 8}", r"stage 2: .*'hnsw_m' is for 'index: hnsw'"),
        ("rerank: {}", r"stage 2: \['rerank'\] is not one kind.*bm25, classical, dense, filter"),
        ("fuse: {of: []}", r"stage 2: 'of': .*at least 1"),
        ("fuse: {method: borda, of: [{bm25: {}}]}", r"stage 2: 'method'"),
        ("fuse: {weights: [1], of: [{bm25: {}}, {bm25: {}}]}", r"stage 2: 'weights': .*1 weights for 2 stages"),
        ("fuse: {weights: [0], of: [{bm25: {}}]}", r"stage 2: 'weights\.0': .*greater than 0"),
        ("fuse: {of: [{bm25: {}}, {dense: {model: m, k: x}}]}", r"stage 2, of 2: 'k': .*integer"),
        ("fuse: {of: [{adapter: {name: a}}]}", r"stage 2, of 1: \['adapter'\] is not one kind.*bm25, dense, fuse"),
        ("fuse: {of: [bm25]}", r"stage 2, of 1: \['bm25'\] is not one kind"),
        ("fuse: {of: [{bm25: {k: $depth}}]}", r"stage 2, of 1: 'k' refers to the parameter '\$depth'"),
    ],
)
def test_an_invalid_stage_names_file_stage_and_key(tmp_path, stage, says):
    with pytest.raises(PipelineError, match=says):
        read_pipeline(written(tmp_path, f"  - bm25: {{}}\n  - {stage}\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nstages: []", r"mine\.yaml: 'stages'"),
        ("name: x y\nstages: [{bm25: {}}]", r"mine\.yaml: 'name'"),
        ("name: x\nstages: [bm25]", r"mine\.yaml: 'stages\.0'"),
        ("name: x\nstages: [{bm25: {}, dense: {model: m}}]", r"stage 1: \['bm25', 'dense'\] is not one kind"),
        ("name: [", r"mine\.yaml: is not YAML"),
        ("", r"mine\.yaml: 'the file'"),
    ],
)
def test_a_file_that_is_not_a_pipeline_is_an_error(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=says):
        read_pipeline(path)


def test_a_missing_pipeline_lists_the_built_in_ones():
    with pytest.raises(PipelineError, match=r"no pipeline 'nope'.*rerank, rerank_run, rewrite_bm25"):
        read_pipeline("nope")


def test_an_override_of_an_unknown_parameter_is_refused():
    with pytest.raises(PipelineError, match=r"'colour=red' sets no parameter.*Parameters: adapter"):
        read_pipeline("rewrite_bm25", ["colour=red"])
    with pytest.raises(PipelineError, match="is not a YAML value"):
        read_pipeline("rewrite_bm25", ["adapter=["])


def test_parameters_are_put_into_lists(tmp_path):
    fuse = "- fuse: {of: [{bm25: {k: $depth}}, {bm25: {k1: 2.0}}], weights: [$first, 1.0]}"
    file = written(tmp_path, fuse, "parameters: {first: 0.25, depth: 7}")
    (stage,) = read_pipeline(file).stages
    assert (stage.weights[0], stage.of[0].k) == (0.25, 7)
    with pytest.raises(PipelineError, match=r"refers to the parameter '\$second', which is not declared"):
        read_pipeline(written(tmp_path, fuse.replace("$first", "$second"), "parameters: {depth: 7}"))


def test_a_parameter_whose_default_is_invalid_may_be_set(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("name: p\nparameters: {model: null}\nstages: [{dense: {model: $model}}]\n")
    ((_, config),) = read_pipelines([file], ["model=all-minilm-l6-v2"])
    assert config.stages[0].model == "all-minilm-l6-v2"
