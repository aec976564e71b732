"""Every kind of stage, a third party's too, keeps the contract of `pipelines.stages.stage`."""

from __future__ import annotations

import json
import re
from typing import ClassVar

import pytest

from searchlora.adapters.store import Store
from searchlora.data.building import build
from searchlora.errors import DataError, PipelineError, UsageError
from searchlora.files.yaml_text import parse_yaml
from searchlora.pipelines.config import parse_stages
from searchlora.pipelines.stages import kinds
from searchlora.pipelines.stages.from_run import FromRunStage
from searchlora.pipelines.stages.passages import PassagesStage
from searchlora.pipelines.stages.retrieve import RetrieveStage
from searchlora.pipelines.stages.stage import Needs, Stage, StageSettings, check_order, needs_of, pinned
from searchlora.records import Document, Hit
from searchlora.task import load_generation_task
from searchlora.testing import check_stage
from tests.docs.blocks import ROOT, blocks
from tests.factories import random_adapter

KINDS = ["adapter", "bm25", "classical", "dense", "diversify", "filter", "from_run", "fuse", "http", "passages"]
KINDS += ["similarity", "text_search", "titles", "vector_search"]
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
    check_stage(settings)
    assert isinstance(settings.needs(), Needs)
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


def intents(folder):
    """A dataset of two intents."""
    rows = [
        {"id": f"{label}{n}", "group": f"{label}{n}", "query": f"{word} {n}", "label": label, "split": "train"}
        for n in range(4)
        for label, word in (("buy", "couch"), ("return", "back"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.txt").write_text("buy\nreturn\n")
    options = {"labels": str(folder / "labels.txt")}
    build("intent", folder / "rows.jsonl", format="native", out=folder / "intents", options=options)
    return folder / "intents"


@pytest.fixture
def stages(tmp_path, encoder_base):
    """The settings of stages of which the last is of a kind."""
    (tmp_path / "run.trec").write_text("a Q0 d1 1 3.5 x\nb Q0 d2 1 1.5 x\n")
    encoder = {"model": str(encoder_base.path)}
    own = {
        "adapter": {"name": "one"},
        "bm25": {},
        "classical": {"data": str(intents(tmp_path)), **encoder},
        "dense": encoder,
        "diversify": {"field": "brand", "most": 2},
        "filter": {"filter": {"brand": "brand"}},
        "from_run": {"run": str(tmp_path / "run.trec")},
        "fuse": {"of": [{"bm25": {}}, {"dense": encoder}]},
        "passages": {},
        "similarity": encoder,
        "titles": {},
    }

    def of_kind(kind):
        before = {"filter": ["bm25"], "diversify": ["bm25"], "passages": ["bm25"], "similarity": ["bm25", "passages"]}
        return parse_stages([{name: own[name]} for name in [*before.get(kind, ()), kind]], "here")

    return of_kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("http", "text_search", "vector_search")])
def test_a_built_stage_maps_searches_in_order_and_can_be_traced_and_skipped(stages, kind, tmp_path, tiny_base):
    *before, settings = stages(kind)
    store = tmp_path / "store"
    if kind == "adapter":
        random_adapter(Store(store), "one", load_generation_task("rewriting"), tiny_base, tmp_path / "made", seed=1)
    check_stage(settings, SEARCHES, before=before, documents=DOCUMENTS, store=store)


def test_later_stages_find_empty_what_a_skipped_one_would_have_written():
    search = {"id": "1", "query": "couch", "hits": ["d1"]}  # of the query row
    assert PassagesStage({}, 3).if_skipped(search) == {"passages": []}
    for stage in (FromRunStage(None, 3), RetrieveStage(None, 3)):
        assert stage.if_skipped(search) == {"hits": []}
        assert stage.if_skipped({**search, "hits": [Hit("d1", 1.0)]}) == {"hits": [Hit("d1", 1.0)]}


class Bad(Stage):
    """A stage that breaks one rule."""

    label = "bad"

    def __init__(self, call):
        self.call = call

    def __call__(self, searches):
        return self.call(searches)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda searches: [search.update(x=1) or search for search in searches], "changes the searches"),
        (lambda searches: [{**search, "x": 1} for search in searches[::-1]], "another order"),
        (lambda searches: [dict(search) for search in searches], "changes nothing"),
        (lambda searches: [{**search, "x": object()} for search in searches], "not JSON"),
    ],
)
def test_the_check_names_the_rule_that_a_stage_breaks(call, says):
    class BadSettings(StageSettings):
        """`- bad: {}`: break a rule."""

        kind: ClassVar[str] = "bad"

        def build(self, _):
            return Bad(call)

    with pytest.raises((AssertionError, DataError), match=says):
        check_stage(BadSettings(), SEARCHES)


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
