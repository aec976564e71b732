"""Contract of every verb that computes adapters: a local engine and a server with the same settings give equal results.

The verbs are in `verbs.VERBS`. A new kind of engine that computes the same bits is one more entry of the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchlora.errors import DataError, EngineError
from searchlora.eval.judgments.card import read_run_card
from searchlora.experiments import reports
from searchlora.experiments.evaluate import evaluate
from searchlora.experiments.experiment import experiment
from searchlora.experiments.options import EvaluationOptions
from searchlora.inference.settings import EngineSettings, LocalSettings, ServerSettings
from searchlora.models.resolve import BaseModel
from tests.contract.verbs import VERBS, Shop, made_shop
from tests.server.api.serving import made_service, served

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class EnginesOfShop(Shop):
    """A shop, and an engine of each kind."""

    engines: dict[str, EngineSettings]
    engine_id: dict[str, str]


@pytest.fixture(scope="module")
def shop(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginesOfShop]:
    made = made_shop(tiny_base, tmp_path_factory.mktemp("verbs"))
    service = made_service(tiny_base, made.store, batch_invariant=True, max_num_seqs=16)
    with served(service) as url:
        engines = {"local": LocalSettings(max_num_seqs=8, max_loras=2), "server": ServerSettings(url=url)}
        engine_id = {"local": "local, fp32", "server": f"{url}, searchlora, {service.base}, fp32"}
        yield EnginesOfShop(made.root, made.store, made.base, engines, engine_id)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_finds_the_same_on_each_engine_and_names_it(shop, verb, tmp_path):
    found = {}
    for name, engine in shop.engines.items():
        (tmp_path / name).mkdir()
        found[name] = VERBS[verb](shop, engine, tmp_path / name)
    assert found["local"].outputs == found["server"].outputs
    assert found["local"].scores == found["server"].scores
    for name, outcome in found.items():
        assert outcome.engines in ((), (shop.engine_id[name],))


def test_evaluate_reuses_the_outputs_of_the_same_engine_only(shop, tmp_path):
    options = EvaluationOptions(cache_dir=tmp_path / "outputs")
    for name, engine in shop.engines.items():
        evaluated = evaluate("rewriter", shop.data, options, engine=engine, store=shop.store)
        assert evaluated.reused == ()
        assert evaluated.systems["rewriter@1"].outputs != evaluated.systems["base zero-shot"].outputs
        assert shop.store.evaluations("rewriter")[-1].engine == shop.engine_id[name]
    again = evaluate("rewriter", shop.data, options, engine=shop.engines["server"], store=shop.store)
    assert set(again.reused) == {"base zero-shot", "rewriter@1"}


def test_evaluate_without_settings_computes_locally_in_the_precision_of_the_recipe(shop):
    assert evaluate("rewriter", shop.data, EvaluationOptions(limit=1), store=shop.store).engines == ("local, fp32",)


def write_experiment(folder: Path, shop: Shop, **changes: Any) -> Path:
    files = {name: str(shop.root / file) for name, file in
             {"topics": "queries.jsonl", "qrels": "qrels.txt", "corpus": "docs.jsonl"}.items()}  # fmt: skip
    systems = {"raw": {"pipeline": "bm25"}, "rewritten": {"adapter": "rewriter"}}
    spec = {"name": "shop", **files, "systems": systems, "baseline": "raw", "measures": ["MRR@10"], **changes}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(spec))
    return folder / "experiment.yaml"


def test_an_experiment_compares_engines_and_reuses_runs_of_the_same_one(shop, tmp_path):
    engines: dict[str, dict[str, Any]] = {
        "own": {},
        "server": {"engine": shop.engines["server"].model_dump(exclude_defaults=True)},
        "bf16": {"engine": {"precision": "bf16"}},
    }
    systems = {name: {"adapter": "rewriter", **engine} for name, engine in engines.items()}
    spec = write_experiment(tmp_path, shop, systems=systems, baseline="own", engine={"max_num_seqs": 2})
    found = experiment(spec, tmp_path / "out", store=shop.store)
    cards = {name: read_run_card(source.path) for name, source in found.runs.items()}
    used = {name: card.engines for name, card in cards.items() if card is not None}
    assert used == {
        "own": (shop.engine_id["local"],), "server": (shop.engine_id["server"],), "bf16": ("local, bf16",)
    }  # fmt: skip
    plain = write_experiment(tmp_path, shop, systems=systems, baseline="own")
    again = experiment(plain, tmp_path / "out", store=shop.store)  # sizes of an engine do not matter
    assert set(again.reused) == {"own", "server", "bf16"}
    reports.write_experiment(again, tmp_path / "out")
    with pytest.raises(DataError, match="system own was"):  # the engine of the baseline is an input
        experiment(plain, tmp_path / "out", engine=LocalSettings(quantization="nf4"), store=shop.store)
    other = LocalSettings(quantization="nf4")
    changed = experiment(plain, tmp_path / "out", engine=other, accept_changes=True, store=shop.store)
    assert set(changed.reused) == {"server", "bf16"}


def test_search(shop, tmp_path, cli, refused):
    (tmp_path / "engine.yaml").write_text("max_num_seqs: 4\nprefix_tokens: 0\n")
    command = ("search", "rewrite_bm25", "red kicksa", "--corpus", shop.root / "docs.jsonl", "--store", shop.store.root)
    command = (*command, "--set", "adapter=rewriter", "--json")
    url = shop.engines["server"].url
    ways = (
        ("--engine", "{max_num_seqs: 4}"), ("--engine", tmp_path / "engine.yaml"), ("--server", url),
        ("--engine", f"{{url: '{url}'}}"), ("--server", url, "--engine", "{concurrency: 3}"),
    )  # fmt: skip
    called = [cli(*command, *way) for way in ways]
    assert [each.code for each in called] == [0] * len(ways), called
    assert len({each.out for each in called}) == 1
    for way, says in (
        (("--engine", "{rows: 4}"), "--engine: 'rows'"),
        (("--engine", "{kind: local}", "--server", url), "'url'"),
        (("--engine", "{max_num_seqs: 4}", "--api-key-env", "KEY"), "'api_key_env'"),
        (("--engine", tmp_path / "none.yaml"), "none.yaml"),
        (("--engine", "{max_num_seqs: ["), "--engine: is not YAML"),
    ):
        assert says in refused(*command, *way)


def test_a_server_with_another_base_is_refused_before_anything_is_reused(shop, tmp_path):
    other = shop.engines["server"].model_copy(update={"model": "another"})
    with pytest.raises(EngineError, match="the server has no base 'another'"):
        evaluate("rewriter", shop.data, EvaluationOptions(cache_dir=tmp_path), engine=other, store=shop.store)
