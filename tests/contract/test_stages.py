"""Every kind of stage, a third party's too, keeps the contract of `pipelines.stages.stage`."""

from __future__ import annotations

import json
import re

import pytest

from searchlora.adapters.store import Store
from searchlora.errors import EngineError, PipelineError, UsageError
from searchlora.files.yaml_text import parse_yaml
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.pipeline import Pipeline, build_pipeline
from searchlora.pipelines.stages import kinds
from searchlora.pipelines.stages.stage import Needs, check_order, needs_of, pinned
from searchlora.records import Document
from searchlora.task import load_prompted_task
from tests.docs.blocks import ROOT, blocks
from tests.factories import random_adapter

KINDS = ["adapter", "bm25", "dense", "diversify", "filter", "from_run", "fuse", "http", "passages", "similarity"]
KINDS += ["text_search", "vector_search"]
DOCUMENTS = [Document(f"d{n}", f"red couch {n}", metadata={"brand": "Acme" if n else "Northway"}) for n in range(4)]
SEARCHES = [{"id": name, "query": "couch", "brand": "Acme"} for name in ("b", "a")]


@pytest.fixture(autouse=True)
def diversify(tmp_path, monkeypatch):
    """The stage of the guide, installed as another package would be."""
    return install(tmp_path, monkeypatch, "diversify = shop_stages:DiversifySettings")


def install(tmp_path, monkeypatch, *points):
    folder = tmp_path / "installed"
    metadata = folder / "shop_stages-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    guide = blocks(ROOT / "docs" / "how-to" / "add-a-stage.md")
    (folder / "shop_stages.py").write_text(guide[0].body, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-stages\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join([f"[{kinds.GROUP}]", *points]))
    monkeypatch.syspath_prepend(str(folder))
    kinds._plugins.cache_clear()
    kinds._loaded.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def forget():
    yield
    kinds._plugins.cache_clear()
    kinds._loaded.cache_clear()


def example(kind):
    """The settings of the example with which the documentation of a kind begins."""
    text = re.match(r"`- (.+?)`: ", kinds.stage_class(kind).__doc__)[1]
    return parse_yaml(text)


def test_all_kinds_are_found_by_entry_points():
    assert kinds.stage_names() == KINDS
    assert all(model.kind == name for name, model in kinds.stage_classes().items())


@pytest.mark.parametrize("kind", KINDS)
def test_settings_say_what_the_stage_is(kind):
    content = example(kind)
    (settings,) = parse_stages([content], "here")
    model = type(settings)
    assert list(content) == [kind] == [settings.kind]
    assert json.loads(json.dumps(settings.identity()))
    assert isinstance(settings.needs(), Needs) and settings.slot_name
    assert all(field.description for field in model.model_fields.values())
    assert parse_stages([{kind: {**content[kind], "on_failure": "skip"}}], "here")[0].on_failure == "skip"
    with pytest.raises(PipelineError, match="'colour'"):
        parse_stages([{kind: {**content[kind], "colour": "red"}}], "here")
    if settings.reads_hits:
        with pytest.raises(PipelineError, match="no stage before it produces hits"):
            check_order([settings], "here")
    if settings.adapter_reference is not None:
        (exact,) = pinned([settings], lambda name: f"{name.partition('@')[0]}@7")
        assert needs_of([exact]).adapters == (exact.adapter_reference,) and "@7" in exact.adapter_reference
        assert exact.with_adapter(None).adapter_reference is None


def test_what_stages_need_is_told_for_their_parts_too():
    there = {"engine": "milvus", "url": "a.db", "index": "a"}
    vectors = {"vector_search": {**there, "model": "m"}}
    own = {"vector_search": {**there, "model": "m", "adapter": "x"}}
    stages = parse_stages([{"text_search": there}, {"fuse": {"of": [vectors, own]}}, {"passages": {}}], "here")
    needs = needs_of(pinned(stages, lambda name: f"{name}@7"))
    assert (needs.encoders, needs.adapters, needs.corpus) == (("m",), ("x@7",), False)
    assert needs_of(parse_stages([{"from_run": {"run": "a.trec"}}, {"passages": {}}], "here")).corpus


@pytest.fixture
def built(tmp_path, tiny_base, encoder_base):
    """A pipeline whose last stage is of a kind."""
    (tmp_path / "run.trec").write_text("a Q0 d1 1 3.5 x\nb Q0 d2 1 1.5 x\n")
    encoder = {"model": str(encoder_base.path)}
    own = {
        "adapter": {"name": "one"},
        "bm25": {},
        "dense": encoder,
        "diversify": {"field": "brand", "most": 2},
        "filter": {"filter": {"brand": "brand"}},
        "from_run": {"run": str(tmp_path / "run.trec")},
        "fuse": {"of": [{"bm25": {}}, {"dense": encoder}]},
        "passages": {},
        "similarity": encoder,
    }

    def build(kind, **policy):
        store = Store(tmp_path / "store")
        if kind == "adapter":
            random_adapter(store, "one", load_prompted_task("rewriting"), tiny_base, tmp_path / "made", seed=1)
        before = {"filter": ["bm25"], "diversify": ["bm25"], "passages": ["bm25"], "similarity": ["bm25", "passages"]}
        names = [*before.get(kind, ()), kind]
        content = [{name: {**own[name], **(policy if name == kind else {})}} for name in names]
        return build_pipeline("p", parse_stages(content, "here"), store=store, documents=DOCUMENTS)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("http", "text_search", "vector_search")])
def test_a_built_stage_maps_searches_in_order_and_can_be_traced_and_skipped(built, kind):
    pipeline, rows = built(kind), []
    given = [dict(search) for search in SEARCHES]
    done = pipeline.execute(given, trace=rows.append)
    assert given == SEARCHES and [search["id"] for search in done] == ["b", "a"]
    assert pipeline.labels[-1].split() == [pipeline.labels[-1]]
    assert rows[-1]["kind"] == kind and (rows[-1]["output"] or rows[-1]["flags"]) and json.loads(json.dumps(rows))

    class Failing(type(pipeline.stages[-1])):
        def __call__(self, _):
            raise EngineError("gone")

    failing = object.__new__(Failing)
    failing.__dict__.update(pipeline.stages[-1].__dict__)
    *first, last = pipeline.settings
    broken = Pipeline("p", [*pipeline.stages[:-1], failing], (*first, last.model_copy(update={"on_failure": "skip"})))
    assert all("gone" in str(search["skipped"]) for search in broken.execute(SEARCHES))
    left = {"passages": "passages"}.get(kind, "hits" if last.produces_hits else None)
    if left is not None:  # later stages find it empty
        assert all(search[left] == [] for search in broken.execute(SEARCHES))


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ("season = no_such_module:Settings", "cannot be imported"),
        ("season = os:path", "is not a class of settings"),
        ("season = shop_stages:DiversifySettings", "calls itself 'diversify'"),
    ],
)
def test_a_broken_plugin_blocks_no_other_stage(tmp_path, monkeypatch, point, says):
    install(tmp_path, monkeypatch, point)
    assert parse_stages([{"bm25": {}}], "here")
    with pytest.raises(UsageError, match=says):
        parse_stages([{"season": {}}], "here")
    errors = []
    assert "bm25" in kinds.stage_classes(skipped=errors.append) and len(errors) == 1
